"""Text of a project file to a document and back: YAML (or JSON, which is YAML), read strictly.

YAML 1.1 surprises authors, so some of its rules do not hold here: `no`, `off` and `2026-03-01` are texts, as in YAML 1.2 (a
condition on the country NO would match nothing otherwise), and so is a number with a leading zero. A key that stands twice in a
mapping is an error, because one of the two would be lost without a word. An empty file is an error, because applying it would
remove everything. Anchors and `<<` work within a bound: a page of them may stand for more than memory holds.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from shared.errors import ConfigError, Problem

MAX_VALUES = 100_000
MAX_DEPTH = 100

_REMEDIES = (
    ("'\\t'", "indent with spaces, not with tabs"),
    ("cannot start any token", "put the text into quotes"),
    ("mapping values are not allowed here", "look for a missing space or quote, or a line that is indented too far"),
    ("expected <block end>", "look at the indentation of this line and of those above it"),
    ("could not find expected ':'", "look for a missing colon on the line above"),
    ("expected ',' or", "look for a bracket or brace that is not closed"),
    ("expected alphabetic or numeric character", "put a text that begins with * or & into quotes"),
    ("undefined alias", "put a text that begins with * into quotes"),
)
"""Words of PyYAML, and what to do."""

_MERGE = "tag:yaml.org,2002:merge"
_RESOLVERS: tuple[tuple[str, str, list[str]], ...] = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+0123456789.")),
    ("merge", r"<<", ["<"]),
)  # fmt: skip
"""Plain scalars that are not texts: the core schema of YAML 1.2, and `<<`. The last part: first characters of the pattern."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  # as the class above says it

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"the key `{key.value}` stands here twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes texts that either version of YAML would read as another type."""


for _name, _pattern, _first in _RESOLVERS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"(?:{_pattern})\\Z"), _first)


def parse_yaml(text: str, origin: str) -> Any:
    """Returns the value of a YAML text; None if it is empty.

    Raises:
        ConfigError: it is not YAML, has a key twice, or expands to too much; names `origin`, line and column.
    """
    try:
        document: Any = yaml.load(text, Loader=_Loader)  # noqa: S506  # a SafeLoader
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark
        where = f"{origin} line {mark.line + 1}, column {mark.column + 1}" if mark else origin
        raise ConfigError([Problem(where, _explained(exc.problem or "not valid YAML"))]) from exc
    except yaml.YAMLError as exc:
        raise ConfigError([Problem(origin, f"not valid YAML: {exc}")]) from exc
    except RecursionError as exc:
        raise ConfigError([Problem(origin, "is nested too deeply")]) from exc
    _demand_bounds(document, origin)
    return document


def parse_document(text: str, origin: str = "project file") -> dict[str, Any]:
    """Returns the document of a project file.

    Raises:
        ConfigError: as `parse_yaml`, or it is empty or not a mapping.
    """
    document = parse_yaml(text, origin)
    if document is None:
        raise ConfigError([Problem(origin, "is empty; for an empty project, write `sites: {}`")])
    if not isinstance(document, dict):
        kind = "a list" if isinstance(document, list) else "a single value"
        raise ConfigError([Problem(origin, f"expected a mapping with sites, destinations and connections, got {kind}")])
    return document


def write_document(document: Any) -> str:
    """Returns a document as YAML that `parse_document` reads back as it is."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _explained(problem: str) -> str:
    """Returns PyYAML's message; where it speaks in its own terms, adds what to look at."""
    for words, remedy in _REMEDIES:
        if words in problem:
            return f"{problem}; {remedy}"
    return problem


def _demand_bounds(document: Any, origin: str) -> None:
    """Counts values as if aliases were written out, and stops early."""
    waiting, seen = [(document, 1)], 0
    while waiting:
        value, depth = waiting.pop()
        seen += 1
        if depth > MAX_DEPTH:
            raise ConfigError([Problem(origin, f"is nested more than {MAX_DEPTH} levels deep, or an anchor holds itself")])
        if seen > MAX_VALUES:
            raise ConfigError([Problem(origin, f"holds more than {MAX_VALUES} values, anchors written out")])
        if isinstance(value, dict):
            waiting.extend((inner, depth + 1) for inner in value.values())
        elif isinstance(value, list):
            waiting.extend((inner, depth + 1) for inner in value)
