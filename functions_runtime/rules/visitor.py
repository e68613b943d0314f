"""A visitor: one anonymous id of a connection, the users that were seen under it, and its events that have no user yet.

Who an anonymous event belongs to is a function of its time and of what is known of the visitor, so the order in which frames come
does not matter:

- between two sightings of a user, at most `look_back` apart and with no other user between them: that user;
- with `forward`, up to `look_back` after a user was seen: the last one seen before it;
- else the first one seen after it, up to `look_back` later.

An event is in `kept` if and only if it was delivered without a user. It leaves when it was delivered with one. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import msgspec
import zstandard

from shared.events.frame import Head, RequestContext
from shared.project.identity import MOST_BYTES, Identity

VERSION = 1
MOST_USERS = 16
"""Stays of users that are remembered of one visitor; a public terminal has more, and forgets its first ones."""
REFRESH = 8
"""A sighting is noted again after this part of `look_back`: often enough to last, seldom enough to cost nothing."""
MICROSECONDS = 1_000_000
COMPRESS_FROM_BYTES = 2048
_MOST_STORED_BYTES = 16 * MOST_BYTES
_AROUND = 500
"""Bytes of an event or a stay in memory beside its texts, about."""


class Stay(msgspec.Struct, array_like=True, frozen=True):
    """A user, and when it was first and last seen with no other user and no longer pause between (microseconds since 1970)."""

    first: int
    last: int
    user: str


class Kept(msgspec.Struct, array_like=True, frozen=True):
    """An event that was delivered without a user: as it left privacy rules and functions, with its request, `at` a time."""

    at: int
    head: Head
    request: RequestContext
    body: bytes

    @property
    def size(self) -> int:
        """Bytes that it holds, about."""
        return len(self.body) + self.request.client_bytes


class Visitor(msgspec.Struct, array_like=True, frozen=True):
    """The record of one anonymous id. `stays` and `kept` are in the order of their times."""

    anonymous_id: str
    stays: list[Stay] = []
    kept: list[Kept] = []

    @property
    def size(self) -> int:
        """Bytes that it holds in memory, about: many times those of the compressed record."""
        texts = sum(event.size for event in self.kept) + sum(len(stay.user) for stay in self.stays) + len(self.anonymous_id)
        return texts + _AROUND * (len(self.kept) + len(self.stays))


class Sighting(NamedTuple):
    """An event that has both ids: `user` was there at a time."""

    at: int
    user: str


class Bounds(NamedTuple):
    """The options of `identity`, in microseconds and bytes."""

    look_back: int
    max_events: int
    max_bytes: int
    forward: bool


def bounds_of(identity: Identity) -> Bounds:
    """Returns the options as rules take them."""
    return Bounds(
        look_back=round(identity.look_back * MICROSECONDS),
        max_events=identity.max_events,
        max_bytes=int(identity.max_bytes),
        forward=identity.forward,
    )


def user_at(stays: Sequence[Stay], at: int, bounds: Bounds) -> str | None:
    """Returns the user that an anonymous event of a time belongs to; None while no user is known."""
    before: Stay | None = None
    for stay in stays:
        if stay.first > at:
            if bounds.forward and before is not None and at - before.last <= bounds.look_back:
                return before.user
            return stay.user if stay.first - at <= bounds.look_back else None
        if at <= stay.last:
            return stay.user
        before = stay
    return before.user if bounds.forward and before is not None and at - before.last <= bounds.look_back else None


def with_sightings(stays: Sequence[Stay], sightings: Iterable[Sighting], look_back: int) -> list[Stay]:
    """Returns the stays with more sightings; one in the middle of another user's stay parts it.

    Args:
        look_back: the longest pause within a stay.
    """
    found = list(stays)
    for at, user in sightings:
        found = _with_one(found, at, user, look_back)
    return found[-MOST_USERS:]


def _with_one(stays: Sequence[Stay], at: int, user: str, look_back: int) -> list[Stay]:
    parted: list[Stay] = []
    for stay in stays:
        if stay.user != user and stay.first < at < stay.last:
            parted += [Stay(stay.first, stay.first, stay.user), Stay(stay.last, stay.last, stay.user)]
        else:
            parted.append(stay)
    place = sum(stay.first <= at for stay in parted)
    joined: list[Stay] = []
    for stay in (*parted[:place], Stay(at, at, user), *parted[place:]):
        last = joined[-1] if joined else None
        if last is not None and last.user == stay.user and stay.first - last.last <= look_back:
            joined[-1] = Stay(last.first, max(last.last, stay.last), last.user)
        else:
            joined.append(stay)
    return joined


def is_news(stays: Sequence[Stay], sightings: Sequence[Sighting], bounds: Bounds) -> bool:
    """Says whether sightings are worth a write: they begin or part a stay, or are long after the last one that is noted."""
    fresh = bounds.look_back // REFRESH
    last = stays[-1] if stays else Stay(0, 0, "")
    if all(user == last.user and last.first <= at <= last.last + fresh for at, user in sightings):
        return False  # nearly always: the visitor's user goes on
    now = with_sightings(stays, sightings, bounds.look_back)
    if [(stay.first, stay.user) for stay in now] != [(stay.first, stay.user) for stay in stays]:
        return True
    return any(after.last > before.last + fresh for before, after in zip(stays, now, strict=True))


def updated(
    visitor: Visitor, sightings: Iterable[Sighting], kept: Iterable[Kept], gone: Collection[str], bounds: Bounds, now: int
) -> tuple[Visitor, int]:
    """Returns a visitor with what a frame brought, and how many events it lost to its bounds.

    Args:
        kept: events that were delivered without a user.
        gone: message ids of events that were delivered with one.
        now: the time (microseconds since 1970).
    """
    stays = with_sightings(visitor.stays, sightings, bounds.look_back)
    by_id: dict[str, Kept] = {}
    for event in (*(each for each in visitor.kept if each.head.message_id not in gone), *kept):
        other = by_id.get(event.head.message_id)
        if other is None or other.at <= event.at:  # of two of one id, the row that wins in the table
            by_id[event.head.message_id] = event
    events = sorted(by_id.values(), key=lambda each: each.at)
    newest = max([*(each.at for each in events), *(stay.last for stay in stays)], default=0)
    # a clock that ran ahead for a while must not make all later events of the visitor look old
    oldest = min(newest, now) - bounds.look_back
    left: list[Kept] = []
    size = 0
    for event in reversed(events):
        size += event.size
        if len(left) == bounds.max_events or size > bounds.max_bytes:
            break
        if event.at >= oldest:
            left.append(event)
    lost = sum(each.at >= oldest for each in events) - len(left)
    # stays remain: a frame that comes again must find its events the users of the first time
    return Visitor(visitor.anonymous_id, stays, left[::-1]), lost


class _Stored(msgspec.Struct, array_like=True):
    """A visitor as the bucket has it: `block` is its MessagePack, `size` its bytes if it is compressed (zstd), else 0."""

    version: int
    size: int
    block: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode_stored = msgspec.msgpack.Decoder(_Stored).decode
_decode = msgspec.msgpack.Decoder(Visitor).decode


def encode_visitor(visitor: Visitor) -> bytes:
    """Returns what the bucket keeps."""
    data = _encode(visitor)
    if len(data) < COMPRESS_FROM_BYTES:
        return _encode(_Stored(VERSION, 0, data))
    return _encode(_Stored(VERSION, len(data), zstandard.ZstdCompressor(level=1).compress(data)))


def decode_visitor(value: bytes, anonymous_id: str) -> Visitor | None:
    """Returns a kept visitor; None: it is damaged, of a later version, or of another id."""
    visitor = open_visitor(value)
    return visitor if visitor is not None and visitor.anonymous_id == anonymous_id else None


def open_visitor(value: bytes) -> Visitor | None:
    """Returns a kept visitor; None: it is damaged or of a later version."""
    try:
        stored = _decode_stored(value)
        if stored.version > VERSION or not 0 <= stored.size <= _MOST_STORED_BYTES:
            return None
        block = stored.block
        if stored.size:
            block = zstandard.ZstdDecompressor().decompress(block, max_output_size=stored.size)
        return _decode(block)
    except (msgspec.MsgspecError, UnicodeDecodeError, zstandard.ZstdError):
        return None


def without_people(visitor: Visitor, names: Collection[str]) -> Visitor | None:
    """Returns a visitor without what is known of some people; None if nothing is left, or the visitor is one of them."""
    if visitor.anonymous_id in names:
        return None
    stays = [stay for stay in visitor.stays if stay.user not in names]
    kept = [event for event in visitor.kept if event.head.user_id not in names]
    return Visitor(visitor.anonymous_id, stays, kept) if stays or kept else None
