"""The state of a connection, from what the broker holds of it and what the services say of it. Pure: `penstock status` and alerts ask it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from shared.streams.waiting import CALLS

LATE_SLACK_SECONDS = 30.0
GOOD = ("ok", "idle", "disabled", "catching up")
"""States that need no person."""


class ConnectionFacts(NamedTuple):
    """What is known of a connection."""

    name: str
    destination: str
    enabled: bool
    period_seconds: float
    """How long its events wait for a batch; 0: they do not."""
    words: Callable[[str], list[str]]
    """What the services say of a part of `/ready`."""
    loader: str | None
    """Who holds its lease."""
    functions: str | None
    """Who holds the lease of its functions, where it has some."""
    functions_frames: int
    queue_frames: int
    aside: Mapping[str, int]
    """Rows set aside, by table."""
    behind: bool
    """Whether the router reads again from EVENTS for it."""
    owed: int
    """Events that it then still gets."""
    age_seconds: float | None
    """How long its oldest event waits."""
    stop: str = ""
    """Why its dead letters stopped it, with the next step; empty: they did not."""
    held: str = ""
    """Why the router does not read further for it, such as a change of its shards; empty: it does."""


def state_of(facts: ConnectionFacts) -> tuple[str, str]:
    """Returns the state and why; `ok` also where it never delivered anything."""
    state, why = _state_of(facts)
    return state, f"{why}; {facts.held}" if facts.held and state not in ("disabled", "catching up") else why


def _state_of(facts: ConnectionFacts) -> tuple[str, str]:
    name, said = facts.name, facts.words(f"connection {facts.name}")
    if not facts.enabled:
        return "disabled", "enabled: false in the project"
    if facts.stop:
        return "stopped", facts.stop
    if said:
        return "failing", said[0]
    if facts.loader is None:
        return "unknown", "no loader works on it; is the service up?"
    if facts.functions_frames and facts.functions is None:
        return "unknown", "frames wait for its functions and no service runs them; is functions_runtime up?"
    if facts.aside:
        told = facts.words(f"connection {name}: tables") + facts.words(f"connection {name}: calls")
        return "calls failing" if CALLS in facts.aside else "table failing", "; ".join(told) or _of_tables(facts.aside)
    if facts.behind:
        why = facts.held or "its queue was full; the router reads again from EVENTS"
        return "catching up", f"{why}, {facts.owed} events are left"
    if stuck := facts.words(f"connection {name}: waiting"):
        return "stuck", stuck[0]
    age, waits = facts.age_seconds, facts.queue_frames or facts.functions_frames
    if waits and age is not None and age > 2 * facts.period_seconds + LATE_SLACK_SECONDS:
        return (
            "late",
            f"the oldest event waits for {age:.0f} s; see the loader's log, or try: penstock check {facts.destination}",
        )
    if missing := facts.words(f"connection {name}: missing"):
        return "rows missing", missing[0]
    dropped = facts.words(f"connection {name}: dropped tables")
    return ("table dropped", dropped[0]) if dropped else ("ok", "")


def _of_tables(rows: Mapping[str, int]) -> str:
    if CALLS in rows:
        return (
            f"{rows[CALLS]} events wait for another call, because one failed; the loader's log says why, and when it tries again"
        )
    each = ", ".join(f"{count} rows of {table}" for table, count in sorted(rows.items()))
    return f"{each} are set aside because loading the table fails; the loader's log says why, and when it tries again"
