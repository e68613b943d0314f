"""Low-code manifests: what a connector is, as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from connector_runner.programs.texts import read_text
from shared.errors import ConfigError, SetupError
from shared.reading.document import parse_document

NEW_LINE = "\n"


def read_manifest(name: str, written: Mapping[str, Any] | str) -> dict[str, Any]:
    """Returns a manifest.

    Args:
        name: of the connector, for the errors.
        written: the manifest, its text, or the path of its file.

    Raises:
        SetupError: it cannot be read, is none, or asks for code of its own.
    """
    place = f"connectors.{name}.manifest"
    if isinstance(written, str):
        try:
            found = parse_document(written, place) if NEW_LINE in written else parse_document(read_text(Path(written)), written)
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
            raise SetupError(f"{place}: {written} cannot be read: {reason}") from exc
        except ConfigError as exc:
            raise SetupError(f"{place}: {exc}") from exc
    else:
        found = dict(written)
    if not isinstance(found.get("streams"), list | dict) or "version" not in found:
        raise SetupError(f"{place}: a manifest has `version` and `streams`; is this another kind of file?")
    if (custom := next(_custom(found, ""), None)) is not None:
        raise SetupError(f"{place}.{custom}: a component of your own code is not run; use the components of the kit")
    return found


def _custom(value: Any, path: str) -> Iterator[str]:
    """Yields the places that name a Python class."""
    if isinstance(value, Mapping):
        if isinstance(value.get("class_name"), str):  # a column of this name has a schema instead
            yield f"{path}.class_name".lstrip(".")
        for key, inner in value.items():
            yield from _custom(inner, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _custom(inner, f"{path}[{index}]")
