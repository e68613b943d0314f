"""The tables that syncs of a project file fill, as far as the file tells: streams under `*` are known at a run only. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from shared.errors import Problem
from shared.project.syncs import OTHERS


def tables_of(sync: Mapping[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """Yields each named stream of a sync with its table, and whether it replaces all rows of it.

    The namespace before a stream's name is no part of its table.
    """
    streams, prefix = sync.get("streams"), str(sync.get("table_prefix") or "")
    for stream, how in streams.items() if isinstance(streams, dict) else ():
        wanted = how if isinstance(how, dict) else {}
        if stream == OTHERS or wanted.get("enabled") is False:
            continue
        table = str(wanted.get("table") or prefix + (str(stream).partition(".")[2] or str(stream)))
        replaces = wanted.get("write") == "replace" or (wanted.get("write") is None and wanted.get("mode") == "full_refresh")
        yield str(stream), table, replaces


def shared_tables(syncs: object) -> Iterator[Problem]:
    """Yields the streams whose rows another sync would throw away: they share a table, and one of them replaces all of it."""
    taken: dict[tuple[str, str], tuple[str, bool]] = {}
    for name, sync in syncs.items() if isinstance(syncs, dict) else ():
        if not isinstance(sync, dict) or sync.get("enabled") is False:
            continue
        for stream, table, replaces in tables_of(sync):
            other, also = taken.setdefault((str(sync.get("destination")), table.lower()), (str(name), replaces))
            if other != name and (replaces or also):
                yield Problem(
                    f"syncs.{name}.streams.{stream}",
                    f"the table {table!r} is that of sync {other} too, and {name if replaces else other} replaces all of its rows; "
                    "give it another by `table` or `table_prefix`",
                )
