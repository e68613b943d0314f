"""Writes a sync into a project file, from the catalogue of its connector."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from connector_runner.contract import Stream
from connector_runner.syncs.selection import choose
from penstock.control.syncs.tables import tables_of
from shared.errors import SetupError
from shared.project.syncs import Sync
from shared.reading.document import parse_document

_SECTION = re.compile(r"^syncs:[ \t]*(#.*)?\n", re.MULTILINE)


def free_prefix(document: Mapping[str, Any], name: str, connector: str, destination: str, streams: Sequence[Stream]) -> str:
    """Returns a prefix with which no table of a new sync is that of another sync of the project file; empty: none is needed."""
    taken: set[str] = set()
    for other in (document.get("syncs") or {}).values():
        if isinstance(other, dict) and other.get("destination") == destination:
            taken |= {table.lower() for _, table, _ in tables_of(other)}
    for prefix in ("", f"{connector}_", f"{name}_"):
        if not taken.intersection((prefix + each.name).lower() for each in streams):
            return prefix
    return f"{name}_"


def sync_text(name: str, connector: str, destination: str, schedule: str, streams: Sequence[Stream], prefix: str = "") -> str:
    """Returns the entry of a sync as lines of YAML, with what the catalogue says of each stream.

    Raises:
        SetupError: the catalogue has no stream.
    """
    chosen = choose(name, Sync(connector=connector, destination=destination), streams)
    lines = [f"  {name}:", f"    connector: {connector}", f"    destination: {destination}"]
    if schedule:
        lines.append(f"    schedule: {_scalar(schedule)}")
    if prefix:
        lines.append(f"    table_prefix: {_scalar(prefix)}")
    lines.append("    streams:")
    for selected, stored, _ in chosen:
        what = [f"mode: {selected.mode}", f"write: {stored.write}"]
        if selected.primary_key and not selected.stream.primary_key:
            what.append(f"primary_key: [{', '.join(_scalar('.'.join(path)) for path in selected.primary_key)}]")
        if selected.mode == "incremental" and selected.cursor and not selected.stream.source_cursor:
            what.append(f"cursor: {_scalar('.'.join(selected.cursor))}")
        lines.append(f"      {_scalar(stored.name)}: {{{', '.join(what)}}}")
    return "\n".join(lines) + "\n"


def add_sync(file: Path, text: str, name: str) -> None:
    """Writes an entry into a project file, and leaves all other lines as they are.

    Raises:
        SetupError: the file has a sync of this name, or `syncs` is written so that a line cannot be added.
    """
    before = file.read_text(encoding="utf-8")
    known = parse_document(before, str(file)).get("syncs")
    if isinstance(known, dict) and name in known:
        raise SetupError(f"{file} has a sync {name!r} already; choose another name with --name")
    found = _SECTION.search(before)
    if found is not None:
        after = before[: found.end()] + text + before[found.end() :]
    elif known is None:
        after = before.rstrip("\n") + "\n\nsyncs:\n" + text
    else:
        raise SetupError(f"{file} writes `syncs` in one line; write it as a block, or add this by hand:\n{text}")
    if name not in (parse_document(after, str(file)).get("syncs") or {}):
        raise SetupError(f"{file}: the entry does not fit in; add it by hand:\n{text}")
    file.write_text(after, encoding="utf-8")


def _scalar(text: str) -> str:
    return str(yaml.safe_dump(text, width=10_000, default_flow_style=True)).removesuffix("...\n").strip()
