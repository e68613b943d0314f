"""Records that Amazon's producer library (KPL) packed into one, taken apart. Pure.

A packed record is a mark of four bytes, a Protobuf message (a table of partition keys, and records that point into it), and the MD5 of
the message. What has the mark and not the form is a record as any other.

https://github.com/awslabs/amazon-kinesis-producer/blob/master/aggregation-format.md
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import md5

MARK = b"\xf3\x89\x9a\xc2"
_SUM = 16
_VARINT, _BYTES = 0, 2
_KEYS, _RECORDS = 1, 3
"""Fields of the message."""
_KEY, _DATA = 1, 3
"""Fields of a record: the place of its key in the table, and its bytes."""


def unpack(value: bytes) -> list[tuple[bytes, bytes]] | None:
    """Returns key and value of each packed record, in order; None: the record is not packed."""
    if not value.startswith(MARK) or len(value) < len(MARK) + _SUM:
        return None
    message = value[len(MARK) : -_SUM]
    if md5(message, usedforsecurity=False).digest() != value[-_SUM:]:
        return None
    keys: list[bytes] = []
    records: list[tuple[int, bytes]] = []
    try:
        for field, given in _fields(message):
            if field == _KEYS and isinstance(given, bytes):
                keys.append(given)
            elif field == _RECORDS and isinstance(given, bytes):
                inner = dict(_fields(given))
                key, data = inner.get(_KEY, 0), inner.get(_DATA, b"")
                if not isinstance(key, int) or not isinstance(data, bytes):
                    return None
                records.append((key, data))
        return [(keys[key], data) for key, data in records]
    except (IndexError, ValueError):
        return None


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag & 7 == _VARINT:
            number, at = _varint(message, at)
            yield tag >> 3, number
        elif tag & 7 == _BYTES:
            size, at = _varint(message, at)
            if at + size > len(message):
                raise ValueError("it is cut off")
            yield tag >> 3, message[at : at + size]
            at += size
        else:
            raise ValueError("it has a field of another kind")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")
