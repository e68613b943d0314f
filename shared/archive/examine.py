"""Reads an object whole: what its manifest should say of it."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import zstandard

from shared.archive import layout, lines
from shared.archive.books import digest
from shared.archive.layout import Entry
from shared.archive.reader import READ_BYTES, unpack
from shared.errors import Permanent


class Seen(NamedTuple):
    """The content of an object, as `Entry` has it; `events` without those of frames that cannot be read."""

    frames: int
    events: int
    first: int
    last: int
    begins: datetime
    ends: datetime


def examine(data: bytes) -> Seen | None:
    """Returns the content of an object; None if it has no line. Blocks.

    Raises:
        Permanent: it is damaged or cut off.
    """
    seqs, events = set[int](), 0
    begins = ends = None
    try:
        _check_end(data)
        for text in unpack(data):
            line = lines.parse(text)
            seqs.add(line.seq)
            events += line.frame is None
            begins = line.at if begins is None else min(begins, line.at)
            ends = line.at if ends is None else max(ends, line.at)
    except zstandard.ZstdError as exc:
        raise Permanent(f"damaged: {exc}") from exc
    if begins is None or ends is None:
        return None
    return Seen(frames=len(seqs), events=events, first=min(seqs), last=max(seqs), begins=begins, ends=ends)


def entry_of(name: str, data: bytes, after: int) -> Entry | None:
    """Returns the entry of an object that no manifest names; None if it is not whole. Blocks.

    Args:
        name: below its day.
        after: the last sequence before it that the archive has.
    """
    said = layout.parse_name(name)
    try:
        seen = examine(data)
    except Permanent:
        return None
    # a rewrite may have taken the first or the last frame out
    if said is None or seen is None or not said.first <= seen.first <= seen.last <= said.last:
        return None
    return Entry(
        name=name,
        first=said.first,
        last=said.last,
        after=after,
        begins=seen.begins,
        ends=seen.ends,
        frames=seen.frames,
        events=seen.events,
        bytes=len(data),
        sha256=digest(data),
        incarnation=said.incarnation,
        revision=said.revision,
    )


def _check_end(data: bytes) -> None:
    """Raises Permanent if the object is cut off: a reader of the stream would only find it shorter."""
    unpacker, view = zstandard.ZstdDecompressor().decompressobj(), memoryview(data)
    for start in range(0, len(data), READ_BYTES):
        unpacker.decompress(view[start : start + READ_BYTES])
        if unpacker.eof:
            break
    if not unpacker.eof:
        raise Permanent("cut off")
