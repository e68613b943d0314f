"""The format of the spool's files: records that tell whether they were written whole. Pure.

A record is a magic word, the length and the CRC-32 of its content, and the content: MessagePack of (subject, msg_id, events,
payload). A file is records end to end. A crash while appending leaves a last record that is cut off, which nobody was told of;
anything else that does not check out is damage, at the end too, and reading goes on at the next record that does.
"""

from __future__ import annotations

import struct
from typing import NamedTuple
from zlib import crc32

import msgspec

MAGIC = b"PSJ1"
_HEADER = struct.Struct(">4sII")
HEADER_BYTES = _HEADER.size


class Record(NamedTuple):
    """A message that waits to be published."""

    subject: str
    msg_id: str
    events: int
    payload: bytes


class Contents(NamedTuple):
    """What a file holds. `damaged` bytes were no readable record; a record that is cut off by the end is not counted."""

    records: list[Record]
    damaged: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode


def encode_record(record: Record) -> bytes:
    """Returns a record as it stands in the file."""
    content = _encode(record)
    return _HEADER.pack(MAGIC, len(content), crc32(content)) + content


def read_records(data: bytes) -> Contents:
    """Returns every record of a file that is whole."""
    records: list[Record] = []
    damaged = position = 0
    while position < len(data):
        found = _record_at(data, position)
        if found is not None:
            records.append(found[0])
            position = found[1]
            continue
        following = _next_whole(data, position + 1)
        if following is None:
            if not _is_cut_off(data, position):
                damaged += len(data) - position
            break
        damaged += following - position
        position = following
    return Contents(records, damaged)


def _is_cut_off(data: bytes, position: int) -> bool:
    rest = len(data) - position
    if rest < HEADER_BYTES:
        return data[position : position + len(MAGIC)] == MAGIC[:rest]
    magic, length, _ = _HEADER.unpack_from(data, position)
    return bool(magic == MAGIC and length > rest - HEADER_BYTES)


def _next_whole(data: bytes, start: int) -> int | None:
    position = data.find(MAGIC, start)
    while position >= 0:
        if _record_at(data, position) is not None:
            return position
        position = data.find(MAGIC, position + 1)
    return None


def _record_at(data: bytes, position: int) -> tuple[Record, int] | None:
    if len(data) - position < HEADER_BYTES:
        return None
    magic, length, checksum = _HEADER.unpack_from(data, position)
    end = position + HEADER_BYTES + length
    if magic != MAGIC or end > len(data):
        return None
    content = data[position + HEADER_BYTES : end]
    if crc32(content) != checksum:
        return None
    try:
        return _decode(content), end
    except msgspec.MsgspecError:
        return None
