"""Carries runs on: one router at a time looks at every run that has not ended, and does its next step.

The steps of a connection's part are: the request to its loader; the loader's answer, which names the rewinds by which the missing
frames come; and their end, which the loader notes. The router of the site sends the frames as for any rewind, from the archive and
from EVENTS, and honours the run's wishes. Each step is a write that can be made again, so a run survives every process.
"""

from __future__ import annotations

import contextlib
import logging

import msgspec

from router.archive.older import ArchiveUnreadError, Older
from router.forwarding.keeper import look_while_held
from router.forwarding.state import SiteState, read_states
from router.shards.summed import summed_of
from shared.errors import Conflict
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.jetstream.lease import hold
from shared.project.snapshot import ConfigSnapshot, current_snapshot
from shared.service import ServiceContext
from shared.streams.rewind import Rewind, decode_rewinds, rewind_key
from shared.streams.runs import (
    OVER,
    Part,
    Request,
    Run,
    State,
    Wish,
    change_run,
    read_request,
    read_run,
    read_runs,
    wish_for,
    write_request,
)

LEASE = "keeper.runs"
LOOK_SECONDS = 1.0
MENDED_SECONDS = 600.0
"""A wipe that was mended by itself within this time before a run is what the run is for."""
MENDED = "the wipe was found and all was loaded again before the run asked"
UNANSWERED = "its loader has not answered yet; if this stays, `penstock status` says why"

log = logging.getLogger(__name__)


async def keep_runs(context: ServiceContext, older: Older) -> None:
    """Carries runs on for ever, while this process holds the lease for it."""
    while True:
        async with hold(context.broker, LEASE, context.instance) as lease:
            await look_while_held(lease, "runs", LOOK_SECONDS, lambda: carry_on(context.broker, older))


async def carry_on(broker: Broker, older: Older) -> None:
    """Does the next step of every run.

    Raises:
        NotConnected, Transient: the broker does not answer.
    """
    for run in await read_runs(broker):
        if not run.is_over:
            await _step(broker, run, older)


async def _step(broker: Broker, run: Run, older: Older) -> None:
    config, states = await current_snapshot(broker), await read_states(broker, damaged=True)
    parts, said = dict(run.parts), list[str]()
    for name, part in run.parts.items():
        if part.state in OVER:
            continue
        after = await _step_part(broker=broker, run=run, name=name, part=part, config=config, states=states, older=older)
        if after.state != part.state:
            said.append(f"{name}: {after.state}{f', {after.why}' if after.why else ''}")
            log.info("run goes on", extra={"run": run.id, "connection": name, "state": after.state})
        parts[name] = after
    state = _state_of(run, parts)

    def change(now: Run) -> Run:
        if now.parts == parts and now.state == state:
            return now
        return msgspec.structs.replace(now, parts=parts, state=state).saying(*said)

    await change_run(broker, run.id, change)


async def _step_part(
    *, broker: Broker, run: Run, name: str, part: Part, config: ConfigSnapshot, states: dict[str, SiteState], older: Older
) -> Part:
    if config.project.connections.get(name) is None or config.queue_of(name) != part.queue:
        return msgspec.structs.replace(part, state="failed", why="the connection left the project")
    found = await read_request(broker, name)
    if found is None or found[0].run != run.id:
        if run.wish == "cancel":
            return msgspec.structs.replace(part, state="cancelled", why="")
        if found is not None and await _is_open(broker, found[0].run, name):
            return msgspec.structs.replace(part, state="failed", why=f"run {found[0].run} rebuilds it already")
        if run.wish != "pause":
            await _ask(broker, name, Request(run=run.id, queue=part.queue), found[1] if found else 0)
        return part
    request, revision = found
    if request.state == "asked":
        if run.wish == "cancel":
            with contextlib.suppress(Conflict):  # the loader answered meanwhile: the next look sees it
                await Bucket(broker, topology.STATE_BUCKET).remove(revision)
            return part
        return msgspec.structs.replace(part, why=UNANSWERED)
    lanes, open_replays, mended_at = await _rewinds(broker, name, request)
    first, last = min((each.first for each in lanes.values()), default=0), max((each.last for each in lanes.values()), default=0)
    if not open_replays and all(rewind.done or rewind.number > request.lanes[lane] for lane, rewind in lanes.items()):
        await wish_for(broker, name, None)
        any_came = bool(lanes or request.replays)
        is_mended = mended_at > run.created_at - MENDED_SECONDS
        state: State = (
            "done"
            if request.why and is_mended
            else "skipped"
            if request.why
            else "cancelled"
            if run.wish == "cancel" and any_came
            else "done"
        )
        why = (
            MENDED
            if request.why and is_mended
            else request.why
            or (
                await _lacking(broker=broker, site=part.site, first=first, last=last, lanes=lanes, older=older)
                if lanes and state == "done"
                else ""
            )
        )
        return msgspec.structs.replace(part, state=state, why=why, first=first, last=last, place=last + 1 if lanes else 0)
    await _wish(broker, name, run, last)
    state_of_site = summed_of(states, part.site)
    mark = state_of_site.behind.get(name) if state_of_site is not None else None
    place = max(part.place, min(last + 1, _place(state_of_site, name)))
    chunks = part.chunks + (place > part.place)
    state = "paused" if run.wish == "pause" else "running"
    why = mark.why if mark is not None else ""
    if open_replays and not why:
        why = f"frames of replays or of a stream that is gone are sent too: {', '.join(open_replays)}"
    return msgspec.structs.replace(part, state=state, why=why, first=first, last=last, place=place, chunks=chunks)


async def _lacking(*, broker: Broker, site: str, first: int, last: int, lanes: dict[str, Rewind], older: Older) -> str:
    """Returns in words what nothing could send again; empty: all came."""
    lost, missed = sum(rewind.lost for rewind in lanes.values()), 0
    with contextlib.suppress(ArchiveUnreadError):
        missed = await older.missed(broker, site, first, last)
    said = [f"{lost} sequences before {first} are neither in EVENTS nor in the archive"] if lost else []
    said += [f"{missed} sequences from {first} on were gone from EVENTS before they were archived"] if missed else []
    return f"{'; '.join(said)}; other sites' frames are among them" if said else ""


async def _is_open(broker: Broker, run_id: str, name: str) -> bool:
    """Whether a run still works on a connection: of two that were begun at once the first one goes on."""
    found = await read_run(broker, run_id)
    return found is not None and not found[0].is_over and name in found[0].parts and found[0].parts[name].state not in OVER


async def _ask(broker: Broker, name: str, request: Request, revision: int) -> None:
    try:
        await write_request(broker, name, request, revision)
    except Conflict:  # the loader answers an older run's request
        return


async def _wish(broker: Broker, name: str, run: Run, last: int) -> None:
    wish = Wish(run=run.id, wish=run.wish, last=last) if run.wish else None
    await wish_for(broker, name, wish)


async def _rewinds(broker: Broker, name: str, request: Request) -> tuple[dict[str, Rewind], list[str], float]:
    """Returns the rewinds of a request, its replays that are not done, and when a wiped destination was last found and mended."""
    entry = await Bucket(broker, topology.STATE_BUCKET).get(rewind_key(name))
    known = decode_rewinds(entry.value if entry else None)
    replays = [each for each in request.replays if each in known.replays and not known.replays[each].done]
    mended_at = max((each.at for each in known.lanes.values() if each.done and not each.level), default=0.0)
    return {lane: known.lanes[lane] for lane in request.lanes if lane in known.lanes}, replays, mended_at


def _place(state: SiteState | None, name: str) -> int:
    """Returns the first sequence that is not in the connection's queue."""
    if state is None:
        return 0
    mark = state.behind.get(name)
    return mark.seq if mark is not None else state.position + 1


def _state_of(run: Run, parts: dict[str, Part]) -> State:
    states = {part.state for part in parts.values()}
    if states <= OVER:
        order: tuple[State, ...] = ("failed", "cancelled", "done", "skipped")
        return next(state for state in order if state in states)
    if run.wish == "pause":
        return "paused"
    return "running" if states & {"running", "paused", "done"} else "asked"
