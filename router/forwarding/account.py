"""The fate of a connection's events in the router, counted so that no crash loses or doubles a count.

One value stores the counts together with the site's position and the connection's mark (`router/forwarding/state.py`), and the
counts always end there. Counts of later frames are kept apart, by sequence, until the stored position covers them. So a killed
router repeats frames and counts together.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from shared.events.outcome import DeadReason, DropReason
from shared.streams.removed import Removed

if TYPE_CHECKING:
    from router.forwarding.state import SiteState
    from shared.telemetry.metrics import Telemetry


log = logging.getLogger(__name__)


class Account(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The counts of one connection, up to its stored place: `received = accepted - absent + backfilled` of the site's accepted
    events.

    `queue` is the connection's queue: an account with another queue is another connection's, and begins at zero. `absent`: events
    accepted while the connection did not exist or was disabled; `left`: the number accepted when that began, None while it takes
    events. `backfilled`: events from before its beginning that it got by a backfill, from frames up to `began`.
    """

    queue: str = ""
    absent: int = 0
    left: int | None = 0
    began: int = 0
    backfilled: int = 0
    forwarded: int = 0
    dropped: dict[str, int] = {}
    dead: dict[str, int] = {}

    def received(self, accepted: int) -> int:
        """Returns the number of this connection's events, among all that the site accepted up to the same place."""
        return (accepted if self.left is None else self.left) - self.absent + self.backfilled

    @property
    def ended(self) -> int:
        """The events that the router has finished: forwarded, dropped or dead."""
        return self.forwarded + sum(self.dropped.values()) + sum(self.dead.values())


@dataclass(slots=True)
class _Passed:
    """The counts of one frame."""

    seq: int
    forwarded: int = 0
    drops: Mapping[DropReason, int] | None = None
    dead: int = 0
    why: DeadReason = DeadReason.FRAME_UNREADABLE
    backfilled: int = 0


class RunningAccount:
    """The account of one connection while a router works on its site."""

    def __init__(self, stored: Account | None = None) -> None:
        self._base = stored or Account()
        self._joined: int | None = None
        self._passed: list[_Passed] = []
        self.sent = self._base.forwarded
        """Events put into the queue since the connection began; frames in the queue have this number."""

    @property
    def queue(self) -> str:
        """The connection's queue."""
        return self._base.queue

    @property
    def began(self) -> int:
        """The last frame from before the connection began."""
        return self._base.began

    @property
    def takes(self) -> bool:
        """Whether the connection takes events now."""
        return self._base.left is None or self._joined is not None

    def join(self, accepted: int, seq: int) -> None:
        """Notes that the connection takes events from now on."""
        if self._base.left is not None:
            self._joined = accepted
            if not self._base.left and not self._base.absent:  # also if another router began it, and died before that was stored
                self._base = msgspec.structs.replace(self._base, began=seq)

    def leave(self, accepted: int, place: int) -> None:
        """Notes that it stops taking events; it may send unsent frames, from `place` on, another time."""
        self.forget(place)
        self._base = msgspec.structs.replace(self.settle(place, accepted), left=accepted)
        self._joined = None

    def end(self, owed: int) -> Account:
        """Returns the final account, with the events that the connection will never get; call `leave` before."""
        return _add(self._base, [_Passed(0, drops={DropReason.REMOVED: owed})]) if owed else self._base

    def drop(self, seq: int, drops: Mapping[DropReason, int]) -> None:
        """Counts dropped events of a frame."""
        if drops:
            self._passed.append(_Passed(seq, drops=drops))

    def forward(self, seq: int, events: int) -> None:
        """Counts events that are in the queue now."""
        self.sent += events
        self._passed.append(_Passed(seq, forwarded=events))

    def bury(self, seq: int, events: int, why: DeadReason = DeadReason.FRAME_UNREADABLE) -> None:
        """Counts events that are in the dead letters."""
        self._passed.append(_Passed(seq, dead=events, why=why))

    def backfill(self, seq: int, events: int) -> None:
        """Counts events from before the connection began."""
        self._passed.append(_Passed(seq, backfilled=events))

    def forget(self, seq: int) -> None:
        """Takes back the counts from a frame on: its events will be counted again."""
        self._passed = [each for each in self._passed if each.seq < seq]

    def settle(self, place: int, accepted: int) -> Account:
        """Returns the account up to `place`, the first frame not in it, at which the site had accepted so many events."""
        if self._joined is not None and self._joined <= accepted:
            left = self._base.left or 0
            self._base = msgspec.structs.replace(self._base, absent=self._base.absent + self._joined - left, left=None)
            self._joined = None
        done = [each for each in self._passed if each.seq < place]
        if done:
            self._passed = [each for each in self._passed if each.seq >= place]
            self._base = _add(self._base, done)
        return self._base


def export(telemetry: Telemetry, site: str, state: SiteState) -> None:
    """Shows a stored state as metrics."""
    telemetry.gauge("account_accepted_events", state.accepted, site=site)
    for name, account in state.accounts.items():
        telemetry.gauge("account_received_events", account.received(state.accepted), connection=name)
        telemetry.gauge("account_forwarded_events", account.forwarded, connection=name)
        owed = state.behind[name].owed if name in state.behind else 0
        telemetry.gauge("account_waiting_events", owed, connection=name, place="events")
        for reason, amount in account.dropped.items():
            telemetry.gauge("account_dropped_events", amount, connection=name, stage="router", reason=reason)
        for reason, amount in account.dead.items():
            telemetry.gauge("account_dead_events", amount, connection=name, stage="router", reason=reason)


def expire(account: Account, events: int) -> Account:
    """Returns the account for a new EVENTS stream, whose sequences begin again, and counts the events that the old one lost."""
    kept = msgspec.structs.replace(account, began=0)
    return _add(kept, [_Passed(0, drops={DropReason.EXPIRED: events})]) if events else kept


def expire_all(stored: SiteState, telemetry: Telemetry, site: str) -> dict[str, Account]:
    """Returns the accounts of a site whose EVENTS was created again, with owed events counted as lost."""
    log.error(
        "EVENTS was created again; frames of the old stream that were not routed are lost",
        extra={"site": site, "position": stored.position, "behind": sorted(stored.behind)},
    )
    for name, mark in stored.behind.items():
        telemetry.count("router_events_dropped_total", mark.owed, connection=name, reason=DropReason.EXPIRED)
    return {
        name: expire(account, stored.behind[name].owed if name in stored.behind else 0)
        for name, account in stored.accounts.items()
    }


def removed_of(site: str, connection: str, account: Account, accepted: int) -> Removed:
    """Returns the part of an account that outlives its connection."""
    dropped = dict(account.dropped)
    elsewhere = dropped.pop(DropReason.OTHER_SHARD, 0)
    return Removed(
        site=site,
        connection=connection,
        queue=account.queue or connection,
        at=time.time(),
        received=account.received(accepted) - elsewhere,
        forwarded=account.forwarded,
        dropped=dropped,
        dead=account.dead,
    )


def _add(base: Account, done: list[_Passed]) -> Account:
    dropped, dead = dict(base.dropped), dict(base.dead)
    forwarded, backfilled = base.forwarded, base.backfilled
    for each in done:
        forwarded += each.forwarded
        backfilled += each.backfilled
        for reason, amount in (each.drops or {}).items():
            dropped[reason] = dropped.get(reason, 0) + amount
        if each.dead:
            dead[each.why] = dead.get(each.why, 0) + each.dead
    return msgspec.structs.replace(base, forwarded=forwarded, backfilled=backfilled, dropped=dropped, dead=dead)
