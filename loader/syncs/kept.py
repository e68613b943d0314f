"""Looks whether the rows that the states of a sync rest on are still in the destination.

The note remembers for each stream into which table it was loaded, how, and the mark of its newest load. If the destination has no such
mark, an older copy of it was put back; if the table is gone, a person dropped or renamed it. Then the state says more than is true. It is
forgotten, so that all rows come again. Only rows that are appended to a table which is there must not: older ones would be there
twice. Such a stream fails until a person says what to do. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import msgspec

from loader.syncs.definition import lane_of
from shared.syncs.progress import Kept, StreamProgress, SyncProgress, named, without_states

Marks = Mapping[tuple[str, str], int]


class Missing(NamedTuple):
    """What is not in the destination any more: `again`: why all rows of a stream come again; `lost`: why one fails. By stream."""

    again: Mapping[str, str]
    lost: Mapping[str, str]


def look_back(
    progress: SyncProgress, marks: Marks | None, absent: Collection[str], *, goes_on: bool
) -> tuple[SyncProgress, Missing]:
    """Returns the progress as it is true, and what is missing.

    Args:
        marks: of the destination; None: it keeps none.
        absent: the tables that do not exist.
        goes_on: whether a run is under way; it is given up if rows of it, or of a state of it, are missing.
    """
    kept, again, lost = dict(progress.kept), dict[str, str](), dict[str, str]()
    for name, each in progress.kept.items():
        why = "" if each.lost or each.write == "replace" else _missing(each, marks, absent)
        if not why:
            continue
        has_state = any(state.name is None or named(state) == name for state in progress.states)
        in_run = goes_on and each.run == progress.run
        if has_state and each.write == "append" and each.table not in absent:
            lost[name] = (
                f"{why}, and rows that are appended would be there twice if all came again. Empty the table, or accept that; then forget "
                f"how far the stream was read: penstock sync reset --stream {name}"
            )
            kept[name] = msgspec.structs.replace(each, lost=lost[name])
            continue
        del kept[name]
        if has_state or in_run:
            again[name] = f"{why}, all rows are read again"
    failed = progress.failed
    if again and goes_on:
        failed = failed or "; ".join(f"stream {name}: {why}" for name, why in again.items())
    after = msgspec.structs.replace(
        progress,
        states=without_states(progress.states, tuple(again)) if again else progress.states,
        kept=kept,
        again={**progress.again, **again},
        failed=failed,
    )
    return after, Missing(again, lost)


def kept_behind(
    kept: Mapping[str, Kept],
    forgets: tuple[str, ...] | None,
    run: int,
    streams: Mapping[str, StreamProgress],
    stored: Mapping[str, Kept],
) -> dict[str, Kept]:
    """Returns what the states rest on behind a batch.

    Args:
        forgets: streams whose states are forgotten; None: all.
        streams: of the run, and how far they are behind the batch.
        stored: how the streams of the batch are stored.
    """
    found = {} if forgets is None else {name: each for name, each in kept.items() if name not in forgets}
    for name, now in stored.items():
        stream = streams[name]
        if stream.failed:
            continue
        if stream.batch:
            found[name] = msgspec.structs.replace(now, run=run, batch=stream.batch)
        elif stream.over and (name not in found or not found[name].serves(now)):
            found[name] = now
    return found


def _missing(kept: Kept, marks: Marks | None, absent: Collection[str]) -> str:
    """Returns what is wrong with the rows of a stream; empty if nothing is."""
    if not kept.batch:
        return ""
    if kept.table in absent:
        return f'table "{kept.table}" is gone'
    if marks is not None and marks.get((kept.table, lane_of(kept.run)), 0) < kept.batch:
        return f'an older copy of table "{kept.table}" was put back'
    return ""
