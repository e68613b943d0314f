"""A frame becomes events for a chain, and what became of them becomes the frame that goes on.

One frame makes one frame, with its place in its lane, whatever functions did: so lanes, ledgers and plans count as they do without
functions. What was left out on the way is counted in the frame itself, so that the loader counts it once.

Pure.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from functions_runtime.rules import numbers
from functions_runtime.rules.bounding import bound
from functions_runtime.rules.hydrating import Hydrates, Wait
from functions_runtime.rules.joining import Joins, without_key
from functions_runtime.sandbox import wire
from functions_runtime.sandbox.batch import Fate, Given
from shared.events import exact
from shared.events.event import JSON, RequestFacts, encode_event, facts_of, materialise
from shared.events.frame import Frame, Head, RequestContext, pack
from shared.events.outcome import Dead, DeadReason, DropReason
from shared.events.rescue import UNREADABLE, rescue
from shared.forget.ids import Forgotten
from shared.rules.privacy import Rules

MOST_BODY_BYTES = 48 * 1024 * 1024
"""Of one frame's events, less than what a frame may hold. A frame that grows beyond loses the events that grew most."""
MOST_KEY_CHARACTERS = 1024
"""Of an id or name that a function gave; a head holds no longer one."""

_HINTS = (b"__sql_type", b"JITSU_TABLE_NAME", b"\\u")
"""Without one of these a body holds no hint for the loader: keys may be written with escapes."""


_CLEAN = (DeadReason.LOOKUP_MISSING, DeadReason.HYDRATION_FAILED)
"""Of events that are dead although rules could be applied to them."""


class _Given(msgspec.Struct):
    """What a head takes of an event that a function gave."""

    messageId: Any = None  # noqa: N815  # the event's own keys
    type: Any = None
    event: Any = None
    userId: Any = None  # noqa: N815
    anonymousId: Any = None  # noqa: N815


_read = msgspec.json.Decoder(_Given).decode


@dataclass(frozen=True)
class Retry:
    """An event that a function wants to see again: its place in the frame, why, who asked, and whether nothing of it goes on now."""

    index: int
    message: str
    function: str
    dropped: bool


@dataclass(frozen=True)
class Letter:
    """An event that is dead, by its place in the frame."""

    index: int
    reason: str
    detail: str


@dataclass
class Prepared:
    """A frame's events as a chain takes them.

    `bodies`: what goes on where a function leaves an event as it is, under `heads`; `full` says which of them rules or we changed.
    `forgotten`: places of events of forgotten people, which no function sees. `given`: by place in the frame. `dead`: events that cannot be read, by place. `exact`: places of events whose numbers must be kept as
    they are written.
    """

    frame: Frame
    heads: list[Head]
    bodies: list[bytes]
    full: list[bool]
    given: dict[int, Given]
    contexts: list[dict[str, Any]]
    dead: dict[int, Dead] = field(default_factory=dict)
    exact: set[int] = field(default_factory=set)
    missed_rules: int = 0
    waits: dict[int, Wait] = field(default_factory=dict)
    """Events that come again as they came, by place: what they name could not be fetched yet."""
    forgotten: frozenset[int] = frozenset()


@dataclass
class Finished:
    """What became of a frame's events. `frame` goes on, also without events."""

    frame: Frame
    letters: list[Letter] = field(default_factory=list)
    retries: list[Retry] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    words: dict[str, str] = field(default_factory=dict)
    """By function, the last thing that it threw."""


def prepare(
    frame: Frame,
    rules: Rules | None,
    retries: int = 0,
    forgotten: Forgotten | None = None,
    *,
    join: Joins | None = None,
    hydrate: Hydrates | None = None,
) -> Prepared:
    """Makes full events of a frame, hydrated, lookups joined and rules applied.

    Raises:
        Permanent: the frame's block or a request cannot be read.
    """
    block = frame.open()
    bodies = frame.cut(block)
    facts = [facts_of(request) for request in frame.requests]
    suspects = exact.suspects(block, frame.sizes)
    hinted = not frame.trusted_hints and any(mark in block for mark in _HINTS)
    kept = [request.defaults is not None and numbers.kept(request.defaults) for request in frame.requests]
    users: dict[str, int] = {}
    prepared = Prepared(
        frame=frame,
        heads=list(frame.heads),
        bodies=bodies,
        full=[False] * len(bodies),
        given={},
        contexts=[context_of(request) for request in frame.requests],
        exact={*suspects, *numbers.with_exponents(block, frame.sizes)},
        forgotten=frozenset(forgotten.find(frame.heads, lambda: bodies) if forgotten else ()),
    )
    for index, head in enumerate(frame.heads):
        if index in prepared.forgotten:
            continue
        try:
            full = _full(
                prepared,
                index,
                head,
                facts[head.request],
                rules=rules,
                join=join,
                hydrate=hydrate,
                exactly=index in suspects,
                hinted=hinted,
            )
        except Exception as exc:  # noqa: BLE001 - our own code fails on this event: it is charged, the others are not
            full = Dead(DeadReason.INTERNAL_ERROR, f"{type(exc).__name__}: {exc}")
        if isinstance(full, Wait):
            prepared.waits[index] = full
            continue
        if isinstance(full, Dead):
            unclean = rules is not None and not frame.trusted_hints and full.reason not in _CLEAN
            prepared.dead[index] = _without_bytes(prepared, index, full) if unclean else full
            continue
        user = users.setdefault(head.user_key, len(users))
        prepared.given[index] = Given(full, head.request, user, retries, exact=kept[head.request] or index in prepared.exact)
    return prepared


def _full(
    prepared: Prepared,
    index: int,
    head: Head,
    facts: RequestFacts,
    *,
    rules: Rules | None,
    join: Joins | None,
    hydrate: Hydrates | None,
    exactly: bool,
    hinted: bool,
) -> bytes | Dead | Wait:
    """Returns the full event at a place of the frame, as functions get it, or why it has none; notes what goes on in its place.

    `exactly`: it may hold a number that must be read with all its digits. `hinted`: some event of the frame may hold a hint.
    """
    frame, body = prepared.frame, prepared.bodies[index]
    try:
        event = materialise(body, head, facts, exact.decode) if exactly else materialise(body, head, facts)
    except UNREADABLE as exc:
        rescued = rescue(body=body, head=head, facts=facts, first=exc, notes=Counter())
        if isinstance(rescued, Dead):
            return rescued
        event = rescued
        prepared.exact.add(index)
    clean = rules if frame.trusted_hints else None
    hydrated = hydrate(event, frame.requests[head.request], clean) if hydrate is not None else False
    if isinstance(hydrated, Wait):
        return hydrated
    joined: bool | Dead = hydrated if isinstance(hydrated, Dead) else join(event, clean) if join is not None else False
    changed = joined is True or hydrated is True
    # what is trusted passed the rules before, and a function wrote its hints
    if rules is not None and not frame.trusted_hints:
        prepared.missed_rules += rules(event)
        if isinstance(joined, Dead) and joined.reason == DeadReason.LOOKUP_MISSING:
            joined = without_key(joined)
        prepared.heads[index] = _named(head, event)  # a head is stored and shown: it must not say what a rule took out
        changed = True
    if hinted and any(mark in body for mark in _HINTS):
        without_hints(event)
        changed = True
    full = encode_event(event)
    if hydrated is True and (exact.suspects(full, [len(full)]) or numbers.with_exponents(full, [len(full)])):
        prepared.exact.add(index)
    if changed:
        prepared.bodies[index] = full
        prepared.full[index] = True
    return joined if isinstance(joined, Dead) else full


def _without_bytes(prepared: Prepared, index: int, dead: Dead) -> Dead:
    """Returns why an event is dead, and takes out of the frame what rules would have changed had they been able to read it."""
    body, head = prepared.bodies[index], prepared.heads[index]
    prepared.bodies[index], prepared.full[index] = b"", True
    prepared.heads[index] = Head(message_id=head.message_id, type=head.type, request=head.request)
    # an error of ours may quote the event
    what = dead.detail.partition(":")[0] if dead.reason == DeadReason.INTERNAL_ERROR else dead.detail
    kept = f"privacy rules cannot clean its {len(body)} bytes, SHA-256 {hashlib.sha256(body).hexdigest()}, so they are not kept"
    return Dead(dead.reason, f"{what}; {kept}")


def _named(head: Head, event: JSON) -> Head:
    """Returns the head of an event with the names that rules left in it."""
    return Head(
        message_id=head.message_id,
        type=head.type,
        event=_name_in(event, "event"),
        user_id=_name_in(event, "userId"),
        anonymous_id=_name_in(event, "anonymousId"),
        request=head.request,
    )


def _name_in(event: JSON, key: str) -> str | None:
    value = event.get(key)
    return value if _is_name(value) else None


def context_of(request: RequestContext) -> dict[str, Any]:
    """Returns what `ctx` says of a request. `receivedAt` is in milliseconds since 1970."""
    agent = dict(request.agent) if request.agent else {}
    return {
        "receivedAt": request.received_at // 1000,
        "geo": request.geo or {},
        "ua": agent,
        "headers": request.headers or {},
    }


def without_hints(event: JSON) -> None:
    """Takes out what only functions may say about tables, at every depth, arrays excepted."""
    for key in [key for key in event if key.startswith("__sql_type") or key == "JITSU_TABLE_NAME"]:
        del event[key]
    for value in event.values():
        if isinstance(value, dict):
            without_hints(value)


def finish(
    prepared: Prepared,
    fates: Sequence[Fate],
    most_bytes: int = MOST_BODY_BYTES,
    has_tries: Callable[[str], bool] = lambda _: True,
) -> Finished:
    """Makes the frame that goes on.

    Args:
        fates: of the events of `prepared.given`, in its order.
        most_bytes: of all bodies of the frame.
        has_tries: says whether what a function wants to see again is tried again.
    """
    frame = prepared.frame
    by_index = dict(zip(prepared.given, fates, strict=True))
    by_index.update({index: Fate(wire.SAME, retry=(wait.message, wait.function, True)) for index, wait in prepared.waits.items()})
    by_index.update({index: Fate(wire.DEAD, reason=dead.reason, detail=dead.detail) for index, dead in prepared.dead.items()})
    bound(prepared, by_index, most_bytes)
    requests: list[RequestContext] = []
    places: dict[int, int] = {}

    def place(request: int, *, full: bool) -> int:
        """Returns the number that a request has in the frame that goes on, as it came or for full events."""
        key = ~request if full and not frame.requests[request].complete else request
        found = places.get(key)
        if found is None:
            found = places[key] = len(requests)
            origin = frame.requests[request]
            # what the server knows is in a full event, as far as rules and functions left it there
            complete = RequestContext(origin.received_at, origin.protocol, origin.key, origin.kind, complete=True)
            requests.append(origin if key >= 0 else complete)
        return found

    heads: list[Head] = []
    bodies: list[bytes] = []
    origins: list[str] = []
    dropped: Counter[str] = Counter()
    dead: Counter[str] = Counter()
    finished = Finished(frame)
    for index, head in enumerate(prepared.heads):
        if index in prepared.forgotten:
            dropped[DropReason.FORGOTTEN] += 1
            continue
        fate = by_index[index]
        for name, words in fate.errors:
            finished.errors[name] += 1
            finished.words[name] = words
        if fate.retry is not None and fate.kind != wire.DEAD:  # a dead letter ends it
            message, function, drops = fate.retry
            if has_tries(function):
                finished.retries.append(Retry(index, message, function, drops))
                if drops:
                    continue
            elif drops:
                fate = Fate(
                    wire.DEAD, function=function, reason=DeadReason.FUNCTION_FAILED, detail=f"{message}; its tries are used up"
                )
        if fate.kind == wire.DROPPED:
            dropped[DropReason.FUNCTION_FAILED if fate.detail else DropReason.FUNCTION] += 1
            continue
        if fate.kind == wire.DEAD:
            dead[fate.reason] += 1
            what = f"function {fate.function}: {fate.detail}" if fate.function else fate.detail
            finished.letters.append(Letter(index, fate.reason, what))
            continue
        if fate.kind == wire.SAME:
            bodies.append(prepared.bodies[index])
            number = place(head.request, full=prepared.full[index])
            heads.append(head if number == head.request else msgspec.structs.replace(head, request=number))
            origins.append(frame.origins[index] if frame.origins else "")
            continue
        try:
            heads += _heads(fate.outputs, head, place(head.request, full=True))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            dead[DeadReason.FUNCTION_RESULT] += 1
            detail = f"function {fate.function}: what it returned cannot be read: {exc}"
            finished.retries = [retry for retry in finished.retries if retry.index != index]
            finished.letters.append(Letter(index, DeadReason.FUNCTION_RESULT, detail))
            continue
        bodies += fate.outputs
        origins += [frame.origins[index] if frame.origins else ""] * len(fate.outputs)
    made = pack(frame.site, requests, heads, bodies)
    made.trusted_hints = True
    made.taken = frame.source_events
    made.dropped, made.dead = dict(dropped), dict(dead)
    if frame.origins:
        made.origins = origins
    finished.frame = made
    return finished


def _heads(outputs: Sequence[bytes], head: Head, request: int) -> list[Head]:
    """Returns the heads of the events that a function gave for the one with `head`.

    Raises:
        msgspec.MsgspecError, UnicodeDecodeError, RecursionError: one of them cannot be read.
    """
    heads: list[Head] = []
    seen: set[str] = set()
    for number, output in enumerate(outputs):
        given = _read(output)
        identity = given.messageId if _is_name(given.messageId) else head.message_id
        named, count = identity, number
        while identity in seen:  # several events under one id would be one row in a table that merges
            identity, count = f"{named}_{count}", count + 1
        seen.add(identity)
        heads.append(
            Head(
                message_id=identity,
                type=given.type if _is_name(given.type) else head.type,
                event=given.event if _is_name(given.event) else None,
                user_id=given.userId if _is_name(given.userId) else None,
                anonymous_id=given.anonymousId if _is_name(given.anonymousId) else None,
                request=request,
            )
        )
    return heads


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MOST_KEY_CHARACTERS
