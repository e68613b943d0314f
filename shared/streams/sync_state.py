"""The state of each sync: from the record of its newest run, the note of the loader, its queue, and who holds its leases.

All of it is in the broker, so it is told also where no runner and no loader lives. A state that needs a person comes with a reason
and a next step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import nats.errors
from nats.js.errors import APIError

from shared.errors import NotConnected
from shared.jetstream import lease, topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.project.model import Project
from shared.project.syncs import Sync
from shared.reading.moments import shown
from shared.syncs.progress import SyncProgress, read_progress
from shared.syncs.records import FAILED, LOADER, RunRecord, ask_key, earlier_runs, newest_run, pending_ask

LATE_SECONDS = 30.0
"""A run that is due for longer and did not begin is late."""
GOOD = ("running", "waiting", "ok", "never ran", "cancelled", "disabled")
"""States that need no person."""


class SyncStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One sync. Times are epoch seconds; rows are those of its newest run."""

    sync: str
    connector: str
    destination: str
    state: str
    """running, held, retrying, waiting (for its next run), ok (without a schedule), never ran, cancelled, partial, failed, late,
    disabled, no runner or no loader."""
    why: str = ""
    run: int = 0
    """The number of the newest run; 0: it never ran."""
    result: str = ""
    """How the newest run ended; `running` while it goes on."""
    began_at: float | None = None
    ended_at: float | None = None
    rows_read: int = 0
    rows_filtered: int = 0
    rows_loaded: int = 0
    rows_dead: int = 0
    waiting_batches: int = 0
    """In its queue, not loaded yet."""
    waiting_frames: int = 0
    """The messages of these batches, and of one that is not whole yet."""
    last_load_at: float | None = None
    """When rows were loaded the last time."""
    last_success_at: float | None = None
    """When the newest kept run that succeeded ended."""
    next_run_at: float | None = None


class Facts(NamedTuple):
    """What is known of one sync. `runs`: the newest first. `said`: problems that the services report of it."""

    name: str
    sync: Sync
    runs: Sequence[RunRecord]
    progress: SyncProgress
    frames: int
    runner: str | None
    loader: str | None
    asked: bool
    said: Sequence[str]


async def read_syncs(
    broker: Broker, project: Project, now: float, said: dict[str, list[str]] | None = None
) -> tuple[list[SyncStatus], dict[str, RunRecord]]:
    """Returns the state of each sync of a project, and the newest runs.

    Args:
        now: epoch seconds.
        said: problems that services report, by sync.

    Raises:
        NotConnected: the broker does not answer.
        Permanent: a later version wrote something.
    """
    if not project.syncs:
        return [], {}
    queues = topology.deliver_subject(topology.sync_queue("*"))
    try:
        waiting = (await broker.js.stream_info(topology.DELIVER, subjects_filter=queues)).state.subjects or {}
    except (APIError, nats.errors.Error, OSError, TimeoutError) as exc:
        raise NotConnected(f"the broker does not tell its state: {exc or type(exc).__name__}") from exc
    bucket = Bucket(broker, topology.STATE_BUCKET)
    states: list[SyncStatus] = []
    newest: dict[str, RunRecord] = {}
    for name, sync in project.syncs.items():
        run = await newest_run(bucket, name)
        runs = [run] if run is not None else []
        if run is not None:
            newest[name] = run
            if run.status != "succeeded":
                runs += await earlier_runs(bucket, name)
        facts = Facts(
            name=name,
            sync=sync,
            runs=runs,
            progress=(await read_progress(bucket, name))[0],
            frames=waiting.get(topology.deliver_subject(topology.sync_queue(name)), 0),
            runner=await lease.holder(broker, f"sync.{name}"),
            loader=await lease.holder(broker, f"loader-sync.{name}"),
            asked=(await pending_ask(bucket, ask_key(name)))[0] is not None,
            said=(said or {}).get(name, []),
        )
        states.append(status_of(facts, now))
    return states, newest


def status_of(facts: Facts, now: float) -> SyncStatus:
    """Returns the state of one sync at a time (epoch seconds)."""
    newest, progress = facts.runs[0] if facts.runs else None, facts.progress
    due = _due(facts, newest, now)
    batches = _batches(facts, newest)
    state, why = _state_of(facts, newest, batches=batches, due=due, now=now)
    return SyncStatus(
        sync=facts.name,
        connector=facts.sync.connector,
        destination=facts.sync.destination,
        state=state,
        why=why,
        run=newest.number if newest else 0,
        result=newest.status if newest else "",
        began_at=newest.began if newest else None,
        ended_at=newest.ended or None if newest else None,
        rows_read=newest.rows if newest else 0,
        rows_filtered=newest.filtered if newest else 0,
        rows_loaded=sum(of.loaded for of in newest.streams.values()) if newest else 0,
        rows_dead=sum(of.dead for of in newest.streams.values()) if newest else 0,
        waiting_batches=batches,
        waiting_frames=facts.frames,
        last_load_at=progress.rows_at or None,
        last_success_at=next((run.ended for run in facts.runs if run.status == "succeeded"), None),
        next_run_at=due,
    )


def _due(facts: Facts, newest: RunRecord | None, now: float) -> float | None:
    clock = facts.sync.clock(facts.name)
    if not facts.sync.enabled or clock.manual:
        return None
    at = now if newest is None else clock.behind(newest.began, now)  # a sync that never ran begins at once
    return at if at < math.inf else None


def _batches(facts: Facts, newest: RunRecord | None) -> int:
    """Returns how many batches wait. The record is up to a second old, the count of frames is of now."""
    if not facts.frames:
        return 0
    queued, run = newest.queued if newest is not None else (0, 0)
    return max(1, queued - (facts.progress.batch if facts.progress.run == run else 0))


def _state_of(facts: Facts, newest: RunRecord | None, *, batches: int, due: float | None, now: float) -> tuple[str, str]:
    name = facts.name
    if not facts.sync.enabled:
        return "disabled", "enabled: false in the project"
    goes_on = newest is not None and newest.is_open
    if facts.runner is None:
        return "no runner", _without_runner(facts, newest if goes_on else None)
    waits = f"{'1 batch waits' if batches == 1 else f'{batches} batches wait'} in its queue, and none is lost"
    if facts.loader is None:
        why = "; ".join(facts.said) or "no loader works on it; is the service loader up?"
        return "no loader", f"{why}; {waits}" if batches else why
    if facts.progress.waits and (goes_on or batches):
        more = f"{waits}; " if batches else ""
        return "held", f"{facts.progress.waits}; {more}it goes on by itself; try: penstock check {facts.sync.destination}"
    if newest is None:
        return "never ran", "" if due is not None else f"it has no schedule; start a run with: penstock sync run {name}"
    if goes_on:
        return _running(newest, now)
    if facts.progress.waits:
        return (
            "held",
            f"{facts.progress.waits}; the next run is held until it works; try: penstock check {facts.sync.destination}",
        )
    if due is not None and now - due > LATE_SECONDS:
        since = f"its run was due at {shown(due)} and did not begin"
        return "late", f"{since}; see the log of connector_runner ({facts.runner})"
    if newest.status in FAILED:
        return "partial" if newest.status == "partial" else "failed", _failed(name, newest, due, now)
    if newest.status == "cancelled":
        return "cancelled", ""
    return ("ok" if due is None else "waiting"), ""


def _without_runner(facts: Facts, cut_off: RunRecord | None) -> str:
    why = "; ".join(facts.said) or "no runner of connectors works on it; is the service connector_runner up?"
    if cut_off is not None:
        return f"{why}; run {cut_off.number} was cut off, and goes on as soon as one does"
    return f"{why}; a run is asked for, and begins as soon as one does" if facts.asked else why


def _running(newest: RunRecord, now: float) -> tuple[str, str]:
    if newest.waits not in ("", LOADER):
        return "held", f"waits for {newest.waits}; it goes on by itself"
    if newest.again_at:
        when = f"try {newest.attempts} begins at {shown(newest.again_at)}"
        return "retrying", f"{newest.error}; {when} from where it stopped; its log: penstock sync logs {newest.sync}"
    said = []
    if newest.attempts > 1 and newest.error:
        said.append(f"try {newest.attempts}, after: {newest.error}")
    if newest.silent_since:
        silent = f"nothing came from the connector for {now - newest.silent_since:.0f} s"
        said.append(f"{silent}; to end it: penstock sync cancel {newest.sync}")
    return "running", "; ".join(said)


def _failed(name: str, newest: RunRecord, due: float | None, now: float) -> str:
    what = "failed in part" if newest.status == "partial" else newest.status.replace("_", " ")
    again = f"the next run is due at {shown(due)}" if due is not None and due > now else ""
    if newest.person:
        again = f"mend this, then: penstock sync run {name}" + (f" ({again})" if again else "")
    return f"run {newest.number} {what}: {newest.error}; {again or f'try again: penstock sync run {name}'}; its log: penstock sync logs {name}"
