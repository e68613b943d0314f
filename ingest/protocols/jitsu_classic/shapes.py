"""Rewrites events like others before them, without a look at each member. Pure but for what it remembers.

The events of a sender have few shapes: the same members in the same order. `to_event` decides by few of their values (`event_type`,
`src`, `utm`, …) and moves all others as they are. So a shape that came often is learned: `to_event` rewrites it once with marks in
place of the values that it moves, and later events of the shape fill their values in. `to_event` stays the one truth: a shape is
kept only if it gives the bytes that `to_event` gives, and an event with anything unusual (an empty id, a null in `user`, a long text
where a value decides) is not rewritten here.

Memory is bounded in shapes and bytes. A stranger who sends a new shape each time pays for a lookup, as nothing is learned of a shape
before it came `SIGHTINGS` times.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import msgspec

from ingest.judge.forms.rewrite import Members
from ingest.judge.mend import Fault
from ingest.protocols.jitsu_classic.events import to_event

SIGHTINGS = 32
MOST_NAMES = 200
MOST_NAME_CHARACTERS = 4096
MOST_DECIDING_BYTES = 512
"""Bytes of the values by which one shape differs from another of the same members."""
MOST_VARIANTS = 64
"""Shapes with the same members."""
MOST_OUTLINES = 256
MOST_BYTES = 2 * 2**20
"""Of the shapes of a generation; there are two generations."""
MOST_COUNTED = 4096

DECIDING = ("event_type", "src", "utm")
"""Members that are a part of the shape with their value."""
EMPTY_OR_MOVED = ("ids", "click_id")
"""Objects: one that says anything is moved, another is a part of the shape."""
IDS = ("event_id", "eventn_ctx_event_id")
"""Members that are moved if they say anything."""
SIZES = ("screen_resolution", "vp_size")

_EMPTY = len(b"{}")
_NEVER = -(10**9)
_NAME_BYTES = 100
_PART_BYTES = 100
_LONGEST_NOTHING = len("null")
"""A value that is longer says something; of an id that is not, `to_event` decides."""
_MARK = b"~slot"
_SLOT = re.compile(rb'\{"~slot(\d{1,4})":0\}|"~slot(\d{1,4})"|(?<=:)9(\d{5})(?=[,}])')
_LIKE_SIZE = re.compile(rb"[:,[]9\d{5}[],}]")
_SIZE = re.compile(rb'"(0|[1-9]\d{0,5})x(0|[1-9]\d{0,5})"')
_members = msgspec.json.Decoder(Members).decode
_decode = msgspec.json.decode
_encode = msgspec.json.Encoder().encode


class _Shape:
    """What an event becomes: constant `parts`, and between them the values that `pick` takes."""

    __slots__ = ("parts", "pick", "size")

    def __init__(self, template: bytes) -> None:
        parts: list[bytes] = []
        places: list[int] = []
        end = 0
        for found in _SLOT.finditer(template):
            parts += (template[end : found.start()], b"")
            places.append(int(found[1] or found[2] or found[3]))
            end = found.end()
        self.parts = [*parts, template[end:]]
        self.pick: Callable[[list[Any]], Any] = (
            itemgetter(*places) if len(places) > 1 else lambda values: [values[n] for n in places]
        )
        self.size = len(template) + _PART_BYTES * len(self.parts)


class _Outline:
    """What the events with the same members have in common."""

    __slots__ = ("deciding", "ids", "may_move", "number", "shapes", "size", "sizes", "with_user")

    def __init__(self, names: tuple[str, ...]) -> None:
        moved = [name for name in EMPTY_OR_MOVED if name in names]
        deciding = [*(name for name in DECIDING if name in names), *moved]
        self.deciding = itemgetter(*deciding, *deciding[:1])  # one name alone would give no tuple
        self.may_move = len(moved) + 1 if moved else 0
        self.ids = tuple(name for name in IDS if name in names)
        self.sizes = tuple(name for name in SIZES if name in names)
        self.with_user = "user" in names
        self.shapes: dict[tuple[bytes, tuple[str, ...]], _Shape] = {}
        self.size = _NAME_BYTES * len(names)
        self.number = hash(names)


class Shapes:
    """The shapes that came lately, of all senders.

    Args:
        rewrite: what it learns from.
    """

    def __init__(self, rewrite: Callable[[Members], dict[str, Any] | Fault]) -> None:
        self._rewrite = rewrite
        self._young: dict[tuple[str, ...], _Outline] = {}
        self._old: dict[tuple[str, ...], _Outline] = {}
        self._bytes = 0
        self._counts: dict[int, int] = {}

    def rewritten(self, members: Members) -> bytes | None:
        """Returns the bytes of the canonical event, None if its shape is not known or it has anything unusual."""
        names = tuple(members)
        outline = self._young.get(names) or self._outline(names)
        if outline is None:
            return None
        for name in outline.ids:
            if len(members[name]) <= _LONGEST_NOTHING:
                return None
        values: list[Any] = [*members.values()]
        user: Members = {}
        if outline.with_user:
            try:
                user = _members(members["user"])
            except (msgspec.MsgspecError, UnicodeError, RecursionError):
                return None
            if user and min(map(len, user.values())) <= _LONGEST_NOTHING:
                user = {name: value for name, value in user.items() if bytes(value) != b"null"}
                if b'""' in map(bytes, user.values()):
                    return None
            values += user.values()
        for name in outline.sizes:
            size = _SIZE.fullmatch(members[name])
            if size is None:
                return None
            values += size.groups()
        given = outline.deciding(members)
        key = (b",".join(given), tuple(user))
        shape = outline.shapes.get(key)
        if shape is None:
            if outline.may_move:
                moved = _without_moved(given, outline.may_move)
                if moved is None:
                    return None
                key = (b",".join(moved), key[1])
                shape = outline.shapes.get(key)
            if shape is None:
                return self._learn(outline=outline, names=names, members=members, key=key, values=values)
        return _filled(shape, values)

    def _outline(self, names: tuple[str, ...]) -> _Outline | None:
        outline = self._old.get(names)
        if outline is None:
            if len(names) > MOST_NAMES or not self._is_often(hash(names)):
                return None
            if (
                sum(map(len, names)) > MOST_NAME_CHARACTERS
                or "event_type" not in names
                or "eventn_ctx" in names
                or _is_marked(names)
            ):
                self._counts[hash(names)] = _NEVER
                return None
            outline = _Outline(names)
        self._keep(names, outline, outline.size)
        return outline

    def _learn(
        self, outline: _Outline, names: tuple[str, ...], members: Members, key: tuple[bytes, tuple[str, ...]], values: list[Any]
    ) -> bytes | None:
        number = hash((outline.number, key))
        deciding, of_user = key
        if len(deciding) > MOST_DECIDING_BYTES or len(of_user) > MOST_NAMES or not self._is_often(number):
            return None
        event = self._rewrite(members)
        marked = self._rewrite(_marked(members, of_user))
        texts = [members[name] for name in DECIDING if name in members]
        if not isinstance(event, Fault) and not isinstance(marked, Fault) and not _is_marked(of_user, texts):
            whole, shape = _encode(event), _Shape(_encode(marked))
            if _filled(shape, values) == whole:
                if len(outline.shapes) >= MOST_VARIANTS:
                    outline.shapes.clear()
                    outline.size = _NAME_BYTES * len(names)
                outline.shapes[key] = shape
                outline.size += shape.size
                self._keep(names, outline, shape.size)
                return whole
        self._counts[number] = _NEVER
        return None

    def _is_often(self, number: int) -> bool:
        """Counts a sighting; of shapes with the same number as one."""
        if len(self._counts) >= MOST_COUNTED:
            self._counts.clear()
        count = self._counts[number] = self._counts.get(number, 0) + 1
        return count >= SIGHTINGS

    def _keep(self, names: tuple[str, ...], outline: _Outline, size: int) -> None:
        """Keeps an outline in the young generation; a full one becomes the old one, and an outline that no event needs is forgotten with it."""
        self._bytes += size
        if self._bytes > MOST_BYTES or len(self._young) >= MOST_OUTLINES:
            self._old, self._young, self._bytes = self._young, {}, outline.size
        self._young[names] = outline


def _filled(shape: _Shape, values: list[Any]) -> bytes:
    parts = shape.parts.copy()
    parts[1::2] = shape.pick(values)
    return b"".join(parts)


def _without_moved(given: tuple[Any, ...], count: int) -> tuple[Any, ...] | None:
    """Returns deciding values without objects that are moved; None if one of them may not be moved."""
    found: list[Any] = []
    for each in given[-count:-1]:
        text = bytes(each)
        if len(text) > _EMPTY:
            if text[:2] != b'{"' or b"null" in text or b"\\" in text:
                return None
            text = b"{"
        found.append(text)
    return (*given[:-count], *found, given[-1])


def _marked(members: Members, of_user: tuple[str, ...]) -> Members:
    """Returns an event of the same shape with a mark for each value that is moved: its number in the list of values."""
    made: Members = {}
    sizes = len(members) + len(of_user)
    for number, (name, value) in enumerate(members.items()):
        if name == "user":
            start = len(members)
            held = {each: msgspec.Raw(b'"%b%d"' % (_MARK, start + place)) for place, each in enumerate(of_user)}
            value = msgspec.Raw(_encode(held))
        elif name in SIZES:
            pass
        elif name in EMPTY_OR_MOVED:
            if len(value) > _EMPTY:
                value = msgspec.Raw(b'{"%b%d":0}' % (_MARK, number))
        elif name not in DECIDING:
            value = msgspec.Raw(b'"%b%d"' % (_MARK, number))
        made[name] = value
    for name in SIZES:
        if name in members:
            made[name] = msgspec.Raw(b'"%dx%d"' % (900_000 + sizes, 900_001 + sizes))
            sizes += 2
    return made


def _is_marked(names: Sequence[str], deciding: Sequence[msgspec.Raw] = ()) -> bool:
    """Whether names or deciding values could be taken for a mark."""
    try:
        text = _encode([names, [_decode(each) for each in deciding]])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return True
    return _MARK in text or _LIKE_SIZE.search(text) is not None


SHAPES = Shapes(to_event)
"""Of this process."""
