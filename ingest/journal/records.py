"""The format of the journal's files: each record proves that this edge wrote it, and wrote it whole. Pure.

A file begins with a head, twice: magic word, sixteen random bytes (the salt), and their CRC-32. A record is a marker made of the
salt, the length of its content, a checksum of both, a checksum of the content, and the content: MessagePack of a `Record`. The
checksums are keyed with the salt and hold the record's offset. A client knows no salt, so bytes inside an event never pass for a
record, wherever a crash cuts the file.

A crash while appending leaves a last record that is cut off; no client was told that it is stored. Any other bytes that fail
their checksum are damage. If a record's content is damaged, reading goes on behind its extent. If its head is damaged, its extent
is unknown, and reading goes on at the next head with a correct checksum.

Files of the format before this one (`PSJ1`, without a salt) are read from record to record, and no further than to the first
place where no record begins.
"""

from __future__ import annotations

import os
import re
import struct
from hashlib import blake2b
from typing import NamedTuple
from zlib import crc32

import msgspec

FILE_MAGIC = b"PSJ2"
SALT_BYTES = 16
_FILE_HEAD = struct.Struct(f">4s{SALT_BYTES}sI")
FILE_HEAD_BYTES = 2 * _FILE_HEAD.size

MARKER_BYTES = 8
CHECK_BYTES = 16
_LENGTH = struct.Struct(">I")
_OFFSET = struct.Struct(">Q")
_HEAD_CHECK_BYTES = 8
HEAD_BYTES = MARKER_BYTES + _LENGTH.size + _HEAD_CHECK_BYTES + CHECK_BYTES

OLD_MAGIC = b"PSJ1"
_OLD_HEAD = struct.Struct(">4sII")

MARK_BYTES = _OFFSET.size + _HEAD_CHECK_BYTES

_SUBJECT = re.compile(r"(?:events|dead)\.[^\s.*>]+\.[^\s.*>]+")


class Record(NamedTuple):
    """A message that waits to be published. `sent_at`: the time when it was sent without an answer (epoch); None: it was not sent."""

    subject: str
    msg_id: str
    events: int
    payload: bytes
    headers: dict[str, str] | None = None
    sent_at: float | None = None

    @property
    def is_ours(self) -> bool:
        """Whether the edge may publish it: it publishes frames and dead letters only."""
        return _SUBJECT.fullmatch(self.subject) is not None


class Stored(NamedTuple):
    """A record in a file, and its offset."""

    offset: int
    record: Record


class Contents(NamedTuple):
    """The content of a file. `damaged` bytes were no readable record; a record that the end cuts off does not count."""

    stored: list[Stored]
    damaged: int
    salt: bytes = b""

    @property
    def records(self) -> list[Record]:
        """The records alone."""
        return [each.record for each in self.stored]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode


def new_salt() -> bytes:
    """Returns the salt of a new file."""
    return os.urandom(SALT_BYTES)


def encode_head(salt: bytes) -> bytes:
    """Returns the beginning of a file."""
    return 2 * _FILE_HEAD.pack(FILE_MAGIC, salt, crc32(salt))


def encode_record(record: Record, salt: bytes, offset: int) -> bytes:
    """Returns the bytes of a record at `offset` of the file with that salt."""
    return frame_content(_encode(record), salt, offset)


def encode_content(record: Record) -> bytes:
    """Returns the part of a record that depends on no file."""
    return _encode(record)


def frame_content(content: bytes, salt: bytes, offset: int) -> bytes:
    """Returns the bytes of a record of encoded content at `offset`."""
    length = _LENGTH.pack(len(content))
    return b"".join(
        (_marker(salt), length, _check(salt, b"head", offset, length), _check(salt, b"body", offset, content), content)
    )


def encode_mark(offset: int, salt: bytes) -> bytes:
    """Returns the note that the record at `offset` is published."""
    return _OFFSET.pack(offset) + _check(salt, b"mark", offset, b"")


def read_marks(data: bytes, salt: bytes) -> set[int]:
    """Returns the offsets of published records; ignores a note with a wrong checksum, which a crash may leave."""
    found: set[int] = set()
    position = 0
    while position <= len(data) - MARK_BYTES:
        (offset,) = _OFFSET.unpack_from(data, position)
        if data[position : position + MARK_BYTES] == encode_mark(offset, salt):
            found.add(offset)
            position += MARK_BYTES
        else:
            position += 1
    return found


def read_records(data: bytes) -> Contents:
    """Returns every whole record of a file."""
    if data.startswith(OLD_MAGIC):
        return _read_old(data)
    salt = _read_salt(data)
    if salt is None:
        torn = len(data) < _FILE_HEAD.size and FILE_MAGIC.startswith(data[: len(FILE_MAGIC)])
        return Contents([], 0 if torn else len(data))
    marker = _marker(salt)
    stored: list[Stored] = []
    damaged, position = 0, FILE_HEAD_BYTES
    while position < len(data):
        length = _length_at(data, position, salt, marker)
        if length is None:
            following = _next_head(data, position + 1, salt, marker)
            if following is None:
                rest = data[position:]
                if len(rest) >= HEAD_BYTES or not marker.startswith(rest[:MARKER_BYTES]):
                    damaged += len(rest)
                break
            damaged += following - position
            position = following
            continue
        end = position + HEAD_BYTES + length
        if end > len(data):
            break
        record = _record_at(data, position, end, salt)
        if record is None:
            damaged += end - position
        else:
            stored.append(Stored(position, record))
        position = end
    return Contents(stored, damaged, salt)


def _marker(salt: bytes) -> bytes:
    return blake2b(b"marker", digest_size=MARKER_BYTES, key=salt).digest()


def _check(salt: bytes, what: bytes, offset: int, content: bytes) -> bytes:
    digest = blake2b(what, digest_size=CHECK_BYTES if what == b"body" else _HEAD_CHECK_BYTES, key=salt)
    digest.update(_OFFSET.pack(offset))
    digest.update(content)
    return digest.digest()


def _read_salt(data: bytes) -> bytes | None:
    for start in (0, _FILE_HEAD.size):
        if len(data) >= start + _FILE_HEAD.size:
            magic, salt, checksum = _FILE_HEAD.unpack_from(data, start)
            if magic == FILE_MAGIC and crc32(salt) == checksum:
                return bytes(salt)
    return None


def _length_at(data: bytes, position: int, salt: bytes, marker: bytes) -> int | None:
    if len(data) - position < HEAD_BYTES or not data.startswith(marker, position):
        return None
    start = position + MARKER_BYTES
    length = data[start : start + _LENGTH.size]
    start += _LENGTH.size
    if data[start : start + _HEAD_CHECK_BYTES] != _check(salt, b"head", position, length):
        return None
    return int(_LENGTH.unpack(length)[0])


def _next_head(data: bytes, start: int, salt: bytes, marker: bytes) -> int | None:
    position = data.find(marker, start)
    while position >= 0:
        if _length_at(data, position, salt, marker) is not None:
            return position
        position = data.find(marker, position + 1)
    return None


def _record_at(data: bytes, position: int, end: int, salt: bytes) -> Record | None:
    start = position + HEAD_BYTES
    content = data[start:end]
    if data[start - CHECK_BYTES : start] != _check(salt, b"body", position, content):
        return None
    try:
        return _decode(content)
    except msgspec.MsgspecError:
        return None


def _read_old(data: bytes) -> Contents:
    stored: list[Stored] = []
    damaged = position = 0
    while len(data) - position >= _OLD_HEAD.size:
        magic, length, checksum = _OLD_HEAD.unpack_from(data, position)
        end = position + _OLD_HEAD.size + length
        if magic != OLD_MAGIC:
            damaged += len(data) - position
            break
        if end > len(data):
            break
        content = data[position + _OLD_HEAD.size : end]
        try:
            if crc32(content) != checksum:
                raise msgspec.ValidationError
            stored.append(Stored(position, _decode(content)))
        except msgspec.MsgspecError:
            damaged += end - position
        position = end
    else:
        if not OLD_MAGIC.startswith(data[position : position + len(OLD_MAGIC)]):
            damaged += len(data) - position
    return Contents(stored, damaged, OLD_MAGIC)
