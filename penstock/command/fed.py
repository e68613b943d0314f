"""How the states of feeds are shown: a line for each, and below why one is not well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from penstock.terminal.screen import Screen, Styled
from shared.reading.moments import shown

if TYPE_CHECKING:
    from penstock.control.status.feeds import FeedStatus

COLUMNS = ("feed", "way", "state", "received", "dead", "behind", "last record (UTC)")
SPARE = ("way", "last record (UTC)")
STYLES = {"ok": "green", "idle": "green", "disabled": "dim", "held": "yellow"}


def show_feeds(screen: Screen, feeds: Sequence[FeedStatus]) -> None:
    """Prints a table of feeds."""
    screen.table(COLUMNS, [_row(each) for each in feeds], spare=SPARE)
    for each in feeds:
        if each.why:
            screen.say(f"{each.feed}: {each.why}", STYLES.get(each.state, "red"))


def _row(each: FeedStatus) -> tuple[object, ...]:
    behind = "-" if each.lag_records is None else f"{each.lag_records}"
    if each.lag_seconds is not None:
        behind = f"{each.lag_seconds:.0f} s"
    return (
        each.feed, f"{each.type} → {each.site}", Styled(each.state, STYLES.get(each.state, "red")),
        "-" if each.received is None else each.received, "-" if each.dead is None else each.dead, behind,
        shown(each.last_record_at) or "-",
    )  # fmt: skip
