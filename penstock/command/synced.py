"""How the states of syncs are shown: a line for each, and below why one is not well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from penstock.terminal.screen import Screen, Styled
from shared.reading.moments import shown

if TYPE_CHECKING:
    from shared.streams.sync_state import SyncStatus

COLUMNS: tuple[str, ...] = (
    "sync", "way", "state", "newest run", "read", "loaded", "dead", "waiting", "last load (UTC)", "next run (UTC)",
)  # fmt: skip
SPARE = ("way", "last load (UTC)", "read", "newest run")
STYLES = {
    "running": "green", "waiting": "green", "ok": "green", "never ran": "dim", "disabled": "dim", "cancelled": "yellow",
    "retrying": "yellow", "held": "yellow",
}  # fmt: skip


def show_syncs(screen: Screen, syncs: Sequence[SyncStatus]) -> None:
    """Prints a table of syncs."""
    rows, columns = [_row(each) for each in syncs], COLUMNS
    if any(each.rows_filtered for each in syncs):
        place = columns.index("loaded")
        columns = (*columns[:place], "filtered", *columns[place:])
        rows = [(*row[:place], each.rows_filtered or "-", *row[place:]) for row, each in zip(rows, syncs, strict=True)]
    screen.table(columns, rows, spare=SPARE)
    for each in syncs:
        if each.why:
            screen.say(f"{each.sync}: {each.why}", STYLES.get(each.state, "red"))


def _row(each: SyncStatus) -> tuple[object, ...]:
    batches = each.waiting_batches
    return (
        each.sync, f"{each.connector} → {each.destination}", Styled(each.state, STYLES.get(each.state, "red")),
        f"{each.run} {each.result}".replace("_", " ") if each.run else "-", each.rows_read, each.rows_loaded, each.rows_dead,
        f"{batches} batch{'' if batches == 1 else 'es'}" if batches else "-", shown(each.last_load_at) or "-",
        shown(each.next_run_at) or "-",
    )  # fmt: skip
