"""The schemas of sites for self-describing JSON, from folders that are laid out as Iglu's static registries: `{vendor}/{name}/{format}/{version}`.

A folder is read once for each revision of the project: an event never waits for a file. What cannot be read is left out, and the log
says so: schemas are no reason to refuse events. A schema is compiled when it is first needed. Nothing is ever fetched: one that refers
to another address, or cannot be compiled, counts as unknown, and so does a name that the folder does not have.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from shared.project.model import Project
from shared.reading.iglu import read_name

MOST_FILES = 20_000
LARGEST_BYTES = 1024 * 1024
LONGEST_DETAIL = 300
REGEX_BYTES = 1024 * 1024


log = logging.getLogger(__name__)
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Schemas:
    """The schemas of one site.

    Args:
        files: the texts of schemas by name, `iglu:vendor/name/format/version`.
        on_invalid: what becomes of an event whose data do not fit.
    """

    def __init__(self, files: Mapping[str, bytes], on_invalid: Literal["warn", "dead_letter"]) -> None:
        self._files = files
        self._made: dict[str, Any] = {}
        self.on_invalid = on_invalid

    def __len__(self) -> int:
        return len(self._files)

    def fault(self, name: str, data: bytes) -> str | None:
        """Returns what is wrong with data, None if they fit.

        Args:
            name: of the schema.
            data: JSON.

        Raises:
            KeyError: the schema is unknown.
        """
        validator = self._made[name] if name in self._made else self._compile(name)
        if validator is None:
            raise KeyError(name)
        value = msgspec.json.decode(data)
        if validator.is_valid(value):
            return None
        error = next(iter(validator.iter_errors(value)))
        place = ".".join(map(str, error.instance_path))
        return f"{place}: {error.message}"[:LONGEST_DETAIL] if place else str(error.message)[:LONGEST_DETAIL]

    def _compile(self, name: str) -> Any:
        text = self._files.get(name)
        if text is None:
            return None  # not remembered: clients can make up names for ever
        import jsonschema_rs  # only sites with schemas need it

        made: Any = None
        try:
            schema = {key: value for key, value in _decode(text).items() if key not in ("$schema", "self")}
            options = jsonschema_rs.RegexOptions(size_limit=REGEX_BYTES, dfa_size_limit=REGEX_BYTES)
            made = jsonschema_rs.Draft4Validator(schema, pattern_options=options, validate_formats=True, offline=True)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            made = None
        self._made[name] = made
        return made


def schemas_of(project: Project) -> Mapping[str, Schemas]:
    """Returns the schemas of every site that names a folder."""
    return {
        name: Schemas(read_folder(site.snowplow.schemas), site.snowplow.on_invalid)
        for name, site in project.sites.items()
        if site.snowplow.schemas
    }


def read_folder(folder: str) -> dict[str, bytes]:
    """Returns the texts of a folder's schemas by their names; `schemas/` in the folder is looked into."""
    root = Path(folder)
    root = root / "schemas" if (root / "schemas").is_dir() else root
    found: dict[str, bytes] = {}
    try:
        for path in sorted(root.glob("*/*/*/*")):
            parts = path.relative_to(root).parts
            name = "iglu:" + "/".join([*parts[:3], parts[3].removesuffix(".json")])
            if read_name(name) is None or not path.is_file():
                continue
            if len(found) >= MOST_FILES or path.stat().st_size > LARGEST_BYTES:
                log.warning("schema left out: too many, or too large", extra={"path": str(path)})
                continue
            try:
                found[name] = path.read_bytes()
            except OSError as exc:  # the others count
                log.warning("schema left out: it cannot be read", extra={"path": str(path), "error": str(exc)})
    except OSError as exc:
        log.warning("schemas cannot be read", extra={"folder": folder, "error": str(exc)})
    if not found:
        log.warning("folder has no schemas; all are unknown", extra={"folder": folder})
    return found
