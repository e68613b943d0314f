"""compose.yaml and its overrides, read as `docker compose` reads them: anchors, `!reset` and `!override`, merging, and variables.

https://docs.docker.com/reference/compose-file/ describes the format, https://docs.docker.com/reference/compose-file/merge/ the rules
of merging. Only what our files use is here, and everything else is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
BASE = ROOT / "compose.yaml"
OVERRIDES = sorted((ROOT / "deploy/compose").glob("*.yaml"))
SCHEMA = ROOT / "tests/support/schemas/compose-spec.json"

_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>[A-Z_0-9]+)(?::(?P<kind>[-?])(?P<text>[^}]*))?\})")
_APPENDED = {"ports", "tmpfs", "cap_add", "cap_drop", "security_opt", "networks", "profiles"}


class _Reset:
    """Takes away what the file below says."""


class _Override(dict[str, Any]):
    """Takes the place of the mapping below, instead of being merged into it."""


class _Loader(yaml.SafeLoader):
    """Knows the tags of Compose."""


def _override(loader: _Loader, node: yaml.Node) -> Any:
    value = loader.construct_mapping(node, deep=True) if isinstance(node, yaml.MappingNode) else loader.construct_sequence(node)  # type: ignore[arg-type]  # a sequence is what else it may be
    return _Override({str(key): each for key, each in value.items()}) if isinstance(value, dict) else tuple(value)


_Loader.add_constructor("!reset", lambda *_: _Reset())
_Loader.add_constructor("!override", _override)


def read(path: Path) -> dict[str, Any]:
    """Returns a file as it is written, with anchors put in."""
    document: dict[str, Any] = yaml.load(path.read_text(), _Loader)  # a safe loader with two tags more
    return document


def combined(*overrides: Path) -> dict[str, Any]:
    """Returns compose.yaml with overrides merged in, as `docker compose -f compose.yaml -f …` has it; variables are not put in."""
    document = read(BASE)
    for path in overrides:
        document = _merged(document, read(path))
    return {key: value for key, value in document.items() if not key.startswith("x-")}


def _merged(below: Any, above: Any, key: str = "") -> Any:
    if isinstance(above, tuple):
        return list(above)
    if isinstance(above, _Override) or not isinstance(below, type(above)):
        return dict(above) if isinstance(above, dict) else above
    if isinstance(above, dict):
        result = {name: value for name, value in below.items() if not isinstance(above.get(name), _Reset)}
        for name, value in above.items():
            if not isinstance(value, _Reset):
                result[name] = _merged(result[name], value, name) if name in result else _plain(value)
        return result
    if isinstance(above, list) and key == "volumes":  # of two mounts at one place the upper one counts
        places = {str(each).split(":")[1] for each in above}
        return [each for each in below if str(each).split(":")[1] not in places] + above
    if isinstance(above, list) and key in _APPENDED:
        return below + [each for each in above if each not in below]
    return above


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items() if not isinstance(each, _Reset)}
    return list(value) if isinstance(value, tuple) else value


def without_tags(value: Any) -> Any:
    """Returns an override's document as plain YAML."""
    if isinstance(value, Mapping):
        return {key: without_tags(each) for key, each in value.items() if not isinstance(each, _Reset)}
    return [without_tags(each) for each in value] if isinstance(value, list | tuple) else value


def texts(value: Any) -> Iterator[str]:
    """Yields every text of a document."""
    if isinstance(value, Mapping):
        for each in value.values():
            yield from texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from texts(each)
    elif isinstance(value, str):
        yield value


def variables(document: Any) -> dict[str, set[str]]:
    """Returns the variables of a document, and for each whether it is needed (`?`), has a default (`-`) or neither (empty)."""
    found: dict[str, set[str]] = {}
    for text in texts(document):
        for match in _VARIABLE.finditer(text):
            if match["name"]:
                found.setdefault(match["name"], set()).add(match["kind"] or "")
    return found


def interpolated(document: Any, environment: Mapping[str, str]) -> Any:
    """Returns a document with variables put in.

    Raises:
        KeyError: a variable is not set and has no default.
    """
    if isinstance(document, Mapping):
        return {key: interpolated(each, environment) for key, each in document.items()}
    if isinstance(document, list | tuple):
        return [interpolated(each, environment) for each in document]
    if not isinstance(document, str):
        return document

    def value(match: re.Match[str]) -> str:
        if not match["name"]:
            return "$"
        found = environment.get(match["name"], "")
        if not found and match["kind"] != "-":
            raise KeyError(match["name"])
        return found or match["text"]

    return _VARIABLE.sub(value, document)


@cache
def schema() -> dict[str, Any]:
    """Returns the schema of the Compose Specification (https://github.com/compose-spec/compose-spec, Apache-2.0)."""
    found: dict[str, Any] = json.loads(SCHEMA.read_text())
    return found
