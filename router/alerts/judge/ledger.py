"""What an alert has told, and what it tells next. Pure: a state, the present faults and a time give the next state and the items to send.

A fault is told once it lasted for `after`, again every `repeat`, and its end once it was gone for `after`. One that came and went while
the channel did not work is told with its end. So each change of a state is told once; what was told is noted only after the channel
took it.

A fault that ends and comes back soon *flaps*: each time its end must last twice as long before it is told, up to two hours. So a thing
that fails for five minutes of every ten is one fault, not a message every five minutes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import msgspec

from router.alerts.contract import AlertRules, Item, Kind, Severity

MOST_FAULTS = 2_000
"""Faults that one alert keeps. Further ones wait until others end."""
MOST_WHY = 300
MOST_TITLE = 200
GONE_SECONDS = 3.0
"""A fault counts as gone no earlier, so that a service that starts again does not end it for a moment."""
FLAP_SECONDS = 6 * 3600.0
"""A fault that comes back within this time after its end was told flaps."""
FLAP_WAIT_SECONDS = 60.0
LONGEST_FLAP_SECONDS = 2 * 3600.0
LONGEST_WAIT_SECONDS = 3600.0
"""No attempt is further away than this; a later one was planned by a clock that was wrong."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff\u2028\u2029]+")


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is wrong now. `at_once`: it is told without having lasted. `names`: all that a silence may call it by."""

    key: str
    kind: Kind
    title: str
    why: str = ""
    next: str = ""
    severity: Severity = "critical"
    at_once: bool = False
    sample: dict[str, str] = {}
    names: tuple[str, ...] = ()


class Kept(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A fault in the state. Times are epoch seconds, 0: not yet."""

    kind: Kind
    title: str
    why: str = ""
    next: str = ""
    severity: Severity = "critical"
    sample: dict[str, str] = {}
    names: tuple[str, ...] = ()
    since: float
    fired: float = 0.0
    told: float = 0.0
    gone: float = 0.0
    note: str = ""
    """Why it is no longer told, where it did not get well."""
    times: int = 0
    """How often it came back."""
    listed: bool = False
    """A message listed it, and did not only count it."""


class Ended(msgspec.Struct, frozen=True, array_like=True):
    """The memory of a fault whose end was told. `times`: how often it has ended."""

    times: int
    at: float


class Ledger(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The state of one alert, as it is stored."""

    faults: dict[str, Kept] = {}
    ended: dict[str, Ended] = {}
    sent_at: float = 0.0
    """When the channel took the last message."""
    attempts: int = 0
    """Attempts for the present message that failed."""
    next_at: float = 0.0
    trouble: str = ""
    """Why the last attempt failed; empty: it did not."""
    trouble_since: float = 0.0
    digest: str = ""
    """Of the channel's options at the last attempt."""
    sending: list[str] = []
    """What the message tells whose outcome is not known, as `mark_of` writes it."""
    unsure: int = 0
    """How many of its attempts have no known outcome, with the one that goes on."""
    in_flight: bool = False
    """An attempt was begun, and nothing was noted after it."""
    deaths: int = 0
    """How many routers died while they sent it."""

    @property
    def firing(self) -> dict[str, Kept]:
        """The faults that lasted long enough to be told and are not gone."""
        return {key: kept for key, kept in self.faults.items() if kept.fired and not kept.gone}


def plain(text: str, most: int) -> str:
    """Returns a text in one line, cut to so many bytes of UTF-8."""
    return _CONTROL.sub(" ", text).encode()[:most].decode(errors="ignore")


def look(
    ledger: Ledger, faults: Sequence[Fault], now: float, rules: AlertRules, *, ending: Callable[[str, Kept], str | None]
) -> Ledger:
    """Returns the state after a look.

    Args:
        faults: what is wrong now and is to be told by this alert.
        now: epoch seconds.
        ending: why a fault that is not among them ended; empty: it got well; None: nothing can be said of it now, it stays as it is.
    """
    ledger = _by_clock(ledger, now)
    present = {fault.key: fault for fault in faults}
    kept: dict[str, Kept] = {}
    for key, each in ledger.faults.items():
        fault = present.pop(key, None)
        if fault is not None:
            kept[key] = _seen(each, fault, now, rules)
        elif (note := ending(key, each)) is None:
            kept[key] = each
        elif each.fired:
            kept[key] = msgspec.structs.replace(each, gone=each.gone or now, note=note)
    for key, fault in present.items():
        if len(kept) >= MOST_FAULTS:
            break
        before = ledger.ended.get(key)
        times = before.times if before is not None and 0 <= now - before.at < FLAP_SECONDS else 0
        new = Kept(kind=fault.kind, title=fault.title, since=now, times=times)
        kept[key] = _seen(new, fault, now, rules)
    return msgspec.structs.replace(ledger, faults=kept)


def _by_clock(ledger: Ledger, now: float) -> Ledger:
    """Returns the state without times of a clock that was ahead: a wait until then would keep the alert quiet."""
    if max(ledger.sent_at, ledger.next_at - LONGEST_WAIT_SECONDS) <= now and all(
        max(each.since, each.fired, each.told, each.gone) <= now for each in ledger.faults.values()
    ):
        return ledger
    faults = {
        key: msgspec.structs.replace(
            each, since=min(each.since, now), fired=min(each.fired, now), told=min(each.told, now), gone=min(each.gone, now)
        )
        for key, each in ledger.faults.items()
    }
    next_at = ledger.next_at if ledger.next_at - LONGEST_WAIT_SECONDS <= now else now
    return msgspec.structs.replace(ledger, faults=faults, sent_at=min(ledger.sent_at, now), next_at=next_at)


def _seen(kept: Kept, fault: Fault, now: float, rules: AlertRules) -> Kept:
    lasted = now - kept.since >= (0.0 if fault.at_once else float(rules.after))
    return msgspec.structs.replace(
        kept,
        title=plain(fault.title, MOST_TITLE),
        why=plain(fault.why, MOST_WHY),
        next=fault.next,
        severity=fault.severity,
        sample={name: plain(value, MOST_WHY) for name, value in fault.sample.items()},
        names=fault.names,
        fired=kept.fired or (now if lasted else 0.0),
        gone=0.0,
        note="",
    )


def due(ledger: Ledger, now: float, rules: AlertRules, silenced: Callable[[str, Kept], bool]) -> list[Item]:
    """Returns what is to be told now, the oldest first; recoveries after failures.

    Args:
        silenced: whether nothing is to be told of a fault now.
    """
    failing: list[Item] = []
    recovered: list[Item] = []
    for key, kept in ledger.faults.items():
        if not kept.fired or silenced(key, kept):
            continue
        if kept.gone:
            if is_over(kept, now, rules) and rules.recovered:
                recovered.append(_item(key, kept, "recovered"))
        elif not kept.told or (rules.repeat and now - kept.told >= rules.repeat):
            failing.append(_item(key, kept, "failing"))
    return [*sorted(failing, key=lambda item: (item.again, item.since)), *sorted(recovered, key=lambda item: item.since)]


def is_over(kept: Kept, now: float, rules: AlertRules) -> bool:
    """Whether a fault has been gone for long enough."""
    wait = float(rules.after) if kept.kind != "dead" else 0.0
    if kept.times:
        longest = max(wait, LONGEST_FLAP_SECONDS)
        wait = min(longest, max(wait, FLAP_WAIT_SECONDS) * 2.0 ** min(kept.times, 12))
    return bool(kept.gone) and now - kept.gone >= max(GONE_SECONDS, wait)


def mark_of(item: Item) -> str:
    """Names what an item tells."""
    return f"{item.status} {item.key}"


def told(ledger: Ledger, items: Sequence[Item], now: float, *, listed: Sequence[Item] = ()) -> Ledger:
    """Returns the state after a message was taken.

    Args:
        items: all that it told, listed or counted.
        listed: the items that it listed.
    """
    ledger = _without(ledger, [item.key for item in items if item.status == "recovered"], now)
    faults, names = dict(ledger.faults), {item.key for item in listed}
    for item in items:
        if item.status == "failing" and (kept := faults.get(item.key)) is not None:
            faults[item.key] = msgspec.structs.replace(kept, told=now, listed=kept.listed or item.key in names)
    return msgspec.structs.replace(settled(calm(ledger)), faults=faults, sent_at=now)


def settled(ledger: Ledger) -> Ledger:
    """Returns the state without a message whose outcome is not known."""
    return msgspec.structs.replace(ledger, sending=[], unsure=0, in_flight=False, deaths=0)


def calm(ledger: Ledger) -> Ledger:
    """Returns the state without a trouble of the channel: it has another address, or nothing is to be sent."""
    return msgspec.structs.replace(ledger, attempts=0, next_at=0.0, trouble="", trouble_since=0.0)


def untold(ledger: Ledger, digest: str) -> Ledger:
    """Returns the state for a channel that was told nothing yet: faults that last are told to it."""
    if not ledger.digest:
        return msgspec.structs.replace(ledger, digest=digest)
    faults = {
        key: each if each.gone else msgspec.structs.replace(each, told=0.0, listed=False) for key, each in ledger.faults.items()
    }
    return msgspec.structs.replace(settled(calm(ledger)), faults=faults, digest=digest)


def tidy(ledger: Ledger, now: float, rules: AlertRules, silenced: Callable[[str, Kept], bool]) -> Ledger:
    """Returns the state without faults that are over and are not told: the project or a person does not want it."""
    over = [
        key
        for key, kept in ledger.faults.items()
        if is_over(kept, now, rules) and not (rules.recovered and (kept.told or not silenced(key, kept)))
    ]
    ledger = _without(ledger, over, now) if over else ledger
    ended = {key: each for key, each in ledger.ended.items() if 0 <= now - each.at < FLAP_SECONDS}
    return ledger if len(ended) == len(ledger.ended) else msgspec.structs.replace(ledger, ended=ended)


def _without(ledger: Ledger, keys: Sequence[str], now: float) -> Ledger:
    if not keys:
        return ledger
    faults, ended = dict(ledger.faults), dict(ledger.ended)
    for key in keys:
        kept = faults.pop(key, None)
        if kept is not None and not kept.note and len(ended) < MOST_FAULTS:
            ended[key] = Ended(kept.times + 1, now)
    return msgspec.structs.replace(ledger, faults=faults, ended=ended)


def _item(key: str, kept: Kept, status: str) -> Item:
    over = status == "recovered"
    return Item(
        key=key,
        kind=kept.kind,
        status="recovered" if over else "failing",
        severity=kept.severity,
        title=kept.title,
        why=kept.why,
        next="" if over and kept.kind != "dead" else kept.next,
        since=kept.since,
        ended=kept.gone if over else 0.0,
        again=bool(kept.told) and not over,
        times=kept.times,
        note=kept.note if over else "",
        sample={} if over else kept.sample,
    )
