"""A frame and its visitors become the frame that goes on, and what each visitor's record gets.

The frame holds what privacy rules and functions left. The visitor's record holds the same, and nothing runs twice. An anonymous event
whose user is known gets the id in its place. Events that were delivered before without a user go again at the end of the frame, as
they were but for `userId`, under their message ids: they count as made more than taken, like events that a function multiplies.

Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from functions_runtime.rules.visitor import Bounds, Kept, Sighting, Stay, Visitor, is_news, user_at, with_sightings
from shared.events import exact
from shared.events.event import encode_event
from shared.events.frame import MOST_EVENTS, Frame, RequestContext, pack

MOST_AGAIN_BYTES = 2 * 1024 * 1024
"""Of the events that go again with one frame. Others wait for their visitor's next event."""

_NO_USER = (None, "", msgspec.UNSET)


class _User(msgspec.Struct):
    userId: Any = msgspec.UNSET  # noqa: N815  # the event's own key


_read_user = msgspec.json.Decoder(_User).decode
_encode = msgspec.json.Encoder().encode
_encode_request = msgspec.msgpack.Encoder().encode


class Passing(NamedTuple):
    """An event of a frame that has an anonymous id: its place, and when it came. `user` is None where it has none."""

    place: int
    anonymous_id: str
    message_id: str
    user: str | None
    at: int


class Brought(NamedTuple):
    """What a frame brings to a visitor: as `updated` takes it."""

    anonymous_id: str
    sightings: tuple[Sighting, ...]
    kept: tuple[Kept, ...]
    gone: frozenset[str]


@dataclass
class Stitched:
    """The frame that goes on, and what is to be noted when it is durable.

    `stamped`, `again`: events that got a user in their place, and that go again with one. `large`: events that are larger than what
    is kept of a visitor. `waiting`: events that do not fit into this frame again.
    """

    frame: Frame
    brought: list[Brought] = field(default_factory=list)
    stamped: int = 0
    again: int = 0
    kept: int = 0
    large: int = 0
    waiting: int = 0


def passing(frame: Frame) -> list[Passing]:
    """Returns the events of a frame that say something of a visitor.

    Raises:
        Permanent: the block does not hold what the frame promises.
    """
    found: list[Passing] = []
    bodies: list[bytes] | None = None
    order: Counter[int] = Counter()
    for index, head in enumerate(frame.heads):
        request = frame.requests[head.request]
        # events of one request came at one time: their order tells which was first
        at = request.received_at + order[request.received_at]
        order[request.received_at] += 1
        if head.anonymous_id is None:
            continue
        user = head.user_id
        if user is None and request.complete:  # a function may give a user id that is no text
            bodies = bodies or frame.bodies()
            given = _user_in(bodies[index])
            if given not in _NO_USER:
                if isinstance(given, bool) or not isinstance(given, int):
                    continue
                user = str(given)
        found.append(Passing(place=index, anonymous_id=head.anonymous_id, message_id=head.message_id, user=user, at=at))
    return found


def stitch(
    frame: Frame, events: Sequence[Passing], visitors: Mapping[str, Visitor], bounds: Bounds, *, decided: bool = False
) -> Stitched:
    """Gives the events of a frame their users.

    Args:
        events: as `passing` gives them.
        visitors: their records, by anonymous id; the others are new.
        decided: the frame was stitched before, and goes on as it is; only what it brings is wanted.

    Raises:
        Permanent: the block does not hold what the frame promises.
    """
    made = Stitched(frame)
    by_visitor: dict[str, list[Passing]] = {}
    for event in events:
        by_visitor.setdefault(event.anonymous_id, []).append(event)
    bodies = frame.bodies() if any(event.user is None for event in events) else []
    stamps: dict[int, str] = {}
    again: list[tuple[Kept, str]] = []
    room, places = MOST_AGAIN_BYTES, MOST_EVENTS - len(frame)
    for name, own in by_visitor.items():
        visitor = visitors.get(name) or Visitor(name)
        sightings = tuple(Sighting(event.at, event.user) for event in own if event.user is not None)
        stays: Sequence[Stay] = with_sightings(visitor.stays, sightings, bounds.look_back) if sightings else visitor.stays
        kept: list[Kept] = []
        named: dict[str, int] = {}
        for event in own:
            user = event.user if decided else event.user or user_at(stays, event.at, bounds)
            if user is not None:
                named[event.message_id] = max(event.at, named.get(event.message_id, 0))
                if event.user is None:
                    stamps[event.place] = user
                continue
            head = msgspec.structs.replace(frame.heads[event.place], request=0)
            one = Kept(event.at, head, frame.requests[frame.heads[event.place].request], bodies[event.place])
            if one.size > bounds.max_bytes:
                made.large += 1
            else:
                kept.append(one)
        # a repeat of a kept event that has a user now takes its place in the table
        gone = {each.head.message_id for each in visitor.kept if named.get(each.head.message_id, -1) >= each.at}
        for each in reversed(visitor.kept if not decided else ()):
            if each.head.message_id in gone or (user := user_at(stays, each.at, bounds)) is None:
                continue
            if each.size > room or not places:
                made.waiting += 1
                continue
            room, places = room - each.size, places - 1
            again.append((each, user))
            gone.add(each.head.message_id)
        made.kept += len(kept)
        if kept or gone or is_news(visitor.stays, sightings, bounds):
            made.brought.append(Brought(name, sightings, tuple(kept), frozenset(gone)))
    if stamps or again:
        _rewrite(made, bodies or frame.bodies(), stamps, sorted(again, key=lambda each: each[0].at))
    return made


def _rewrite(made: Stitched, bodies: Sequence[bytes], stamps: Mapping[int, str], again: Sequence[tuple[Kept, str]]) -> None:
    frame = made.frame
    heads, all_bodies = list(frame.heads), list(bodies)
    for index, user in stamps.items():
        body = with_user(bodies[index], user)
        if body is not None:
            all_bodies[index], heads[index] = body, msgspec.structs.replace(heads[index], user_id=user)
            made.stamped += 1
    requests: list[RequestContext] = list(frame.requests)
    numbers: dict[bytes, int] = {}
    for kept, user in again:
        body = with_user(kept.body, user)
        if body is None:
            continue
        number = numbers.setdefault(_encode_request(kept.request), len(requests))
        if number == len(requests):
            requests.append(kept.request)
        heads.append(msgspec.structs.replace(kept.head, user_id=user, request=number))
        all_bodies.append(body)
        made.again += 1
    whole = pack(frame.site, requests, heads, all_bodies)
    whole.trusted_hints = frame.trusted_hints
    whole.taken = frame.source_events
    whole.dropped, whole.dead = frame.dropped, frame.dead
    if frame.origins:
        whole.origins = [*frame.origins, *[""] * (len(heads) - len(frame))]
    made.frame = whole


def with_user(body: bytes, user: str) -> bytes | None:
    """Returns a body with a `userId`, every other value as it was written; None: it cannot be read."""
    given = _user_in(body)
    if given is msgspec.UNSET:
        start = body.find(b"{") + 1
        rest = body[start:].lstrip()
        comma = b"" if rest.startswith(b"}") else b","
        return b"".join((body[:start], b'"userId":', _encode(user), comma, rest)) if start else None
    try:
        event = exact.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    event["userId"] = user
    return encode_event(event)


def _user_in(body: bytes) -> object:
    """Returns the `userId` of a body; `UNSET` where there is none. A body that msgspec refuses has none if its text shows none."""
    try:
        return _read_user(body).userId
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return msgspec.UNSET if b'"userId"' not in body and b"\\u" not in body else None
