"""Which items one message tells, and under which id. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from router.alerts.contract import Item, Message
from router.alerts.judge.ledger import Ledger, mark_of


class Plan(NamedTuple):
    """A message, and all that it tells: the items that it lists, and the items that it only counts."""

    message: Message
    covered: Sequence[Item]


def plan_of(alert: str, ledger: Ledger, items: Sequence[Item], now: float, *, most: int, resolves_each: bool) -> Plan:
    """Returns the message that tells items.

    If an earlier message's outcome is not known, it tells the same items again and nothing else, so it has the same id.

    Args:
        alert: its name.
        ledger: its state.
        items: what is due, at least one.
        now: epoch seconds.
        most: how many items one message lists.
        resolves_each: the service has an incident for each listed fault: not more than `most` of these are open, and the end of each
            is listed, if need be in later messages.
    """
    before = set(ledger.sending)
    chosen = [item for item in items if mark_of(item) in before] or list(items)
    if resolves_each:
        chosen = _few_ends(ledger, chosen, most)
        free = max(0, most - sum(kept.listed for kept in ledger.faults.values()))
        shown = [item for item in chosen if _has_incident(ledger, item)]
        shown += [item for item in chosen if item.status == "failing" and not _has_incident(ledger, item)][:free]
    else:
        shown = chosen[:most]
    names = {id(item) for item in shown}
    more: dict[str, int] = {}
    for item in chosen:
        if id(item) not in names:
            more[item.status] = more.get(item.status, 0) + 1
    told = msgspec.json.encode([alert, [(item.key, item.status, item.since, item.ended, item.again) for item in chosen]])
    id_ = hashlib.sha256(told).hexdigest()[:32]
    unlisted = _unlisted(ledger, chosen, shown)
    return Plan(Message(id=id_, alert=alert, at=now, items=shown, more=more, unlisted=unlisted), chosen)


def _few_ends(ledger: Ledger, items: Sequence[Item], most: int) -> list[Item]:
    """Returns the items with no more ends of incidents than a message lists."""
    ends = [item for item in items if item.status == "recovered" and _has_incident(ledger, item)]
    later = {id(item) for item in ends[most:]}
    return [item for item in items if id(item) not in later]


def _has_incident(ledger: Ledger, item: Item) -> bool:
    return ledger.faults[item.key].listed


def _unlisted(ledger: Ledger, chosen: Sequence[Item], shown: Sequence[Item]) -> int:
    """Counts the faults that will be told and last after the message, and have been listed by none."""
    listed = {item.key for item in shown}
    telling = {item.key for item in chosen if item.status == "failing"}
    return sum(
        key not in listed and not kept.listed and (bool(kept.told) or key in telling) for key, kept in ledger.firing.items()
    )
