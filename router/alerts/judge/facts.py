"""What is known at one moment of everything that alerts tell of. Values only; `router/alerts/read.py` reads them from the broker."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from router.alerts.judge.volume import History


class OfConnection(msgspec.Struct, frozen=True, kw_only=True):
    """One connection. `state` and `why` as `penstock status` says them."""

    site: str
    destination: str
    state: str
    why: str = ""
    period_seconds: float = 0.0
    oldest_seconds: float | None = None
    """How long its oldest event waits."""
    queues: dict[str, float] = {}
    """Part of the room that is taken, by what waits there."""


class OfSite(msgspec.Struct, frozen=True, kw_only=True):
    """One site."""

    enabled: bool
    history: History
    last_at: float
    """When its newest event came (epoch seconds); 0: it never sent one, as far as is known."""
    watched_since: float = 0.0
    """Since when routers looked without a pause (epoch seconds): while Penstock itself was away, no site could send."""
    unrouted_seconds: float | None = None
    """How long its oldest event waits for a router; None: none waits."""


class OfLine(msgspec.Struct, frozen=True, kw_only=True):
    """One sync or feed. `state` and `why` as `penstock status` says them; `good`: it needs no person."""

    state: str
    good: bool
    why: str = ""


class DeadRun(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Dead letters of one stage and site or connection that came one after the other, without a long pause."""

    stage: str
    name: str
    since: float
    last_at: float
    letters: int = 0
    at_least: bool = False
    """Not all were looked at."""
    reasons: dict[str, int] = {}
    sample: dict[str, str] = {}


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything. `now`: epoch seconds."""

    now: float
    connections: Mapping[str, OfConnection] = {}
    sites: Mapping[str, OfSite] = {}
    syncs: Mapping[str, OfLine] = {}
    feeds: Mapping[str, OfLine] = {}
    dead: Mapping[str, DeadRun] = {}
    streams: Mapping[str, tuple[float, str]] = {}
    """Part of the room of EVENTS and DEAD that is taken, and what that means."""
    services: Mapping[str, str] = {}
    """Problems of services that are of no connection, sync or feed."""
    running: frozenset[str] = frozenset()
    """Services of which a process lives."""
    disks: Mapping[str, tuple[float, str]] = {}
    """Part of the room that is taken, and the same in words."""
    certificates: Mapping[str, float | None] = {}
    """When a certificate ends (epoch seconds), by server; None: it could not be looked at."""
