"""Messages of the plug-in `pgoutput`, version 1. Pure.

https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple, TypeAlias

EPOCH_MICROSECONDS = 946_684_800_000_000
"""2000-01-01, from which the server counts, after 1970."""
UNCHANGED: Final = b"unchanged"
"""Stands, as this very object, for a large value that an update did not touch and the log does not repeat."""

Values: TypeAlias = list[bytes | None]

_COUNT = struct.Struct("!H").unpack_from
_LENGTH = struct.Struct("!I").unpack_from
_BEGIN = struct.Struct("!QqI").unpack_from
_COMMIT = struct.Struct("!BQQq").unpack_from
_TEXT, _NULL = ord("t"), ord("n")


class Begin(NamedTuple):
    """A transaction begins. `lsn`: of its commit; `committed_at`: microseconds since 1970."""

    lsn: int
    committed_at: int


class Commit(NamedTuple):
    """It ends; `end` is where the log goes on."""

    end: int


class Relation(NamedTuple):
    """A table as it is from here on. `columns`: name, type and modifier of each."""

    oid: int
    schema: str
    name: str
    columns: tuple[tuple[str, int, int], ...]


class Change(NamedTuple):
    """A row was written. `old`: its former values, or those of its key, with nulls; None: not told. `new`: None of a deleted row."""

    oid: int
    old: Values | None
    new: Values | None


class Truncate(NamedTuple):
    """Tables lost all rows."""

    oids: tuple[int, ...]


Message: TypeAlias = Begin | Commit | Relation | Change | Truncate


def decode(data: bytes) -> Message | None:
    """Returns a message; None for one that says nothing about rows."""
    match data[:1]:
        case b"I":
            new, _ = _values(data, 6)
            return Change(_LENGTH(data, 1)[0], None, new)
        case b"U":
            old, at = None, 5
            if data[5:6] in (b"K", b"O"):
                old, at = _values(data, 6)
            new, _ = _values(data, at + 1)
            return Change(_LENGTH(data, 1)[0], old, new)
        case b"D":
            old, _ = _values(data, 6)
            return Change(_LENGTH(data, 1)[0], old, None)
        case b"B":
            lsn, at, _ = _BEGIN(data, 1)
            return Begin(lsn, at + EPOCH_MICROSECONDS)
        case b"C":
            return Commit(_COMMIT(data, 1)[2])
        case b"R":
            return _relation(data)
        case b"T":
            (count,) = _LENGTH(data, 1)
            return Truncate(struct.unpack_from(f"!{count}I", data, 6))
    return None


def _values(data: bytes, at: int) -> tuple[Values, int]:
    """Returns the values of a row, and where they end."""
    (count,) = _COUNT(data, at)
    at += 2
    values: Values = []
    for _ in range(count):
        kind = data[at]
        if kind == _TEXT:
            start = at + 5
            at = start + _LENGTH(data, at + 1)[0]
            values.append(data[start:at])
        else:
            values.append(None if kind == _NULL else UNCHANGED)
            at += 1
    return values, at


def _relation(data: bytes) -> Relation:
    (oid,) = _LENGTH(data, 1)
    schema, at = _name(data, 5)
    name, at = _name(data, at)
    (count,) = _COUNT(data, at + 1)
    at += 3
    columns = []
    for _ in range(count):
        column, at = _name(data, at + 1)
        columns.append((column, *struct.unpack_from("!Ii", data, at)))
        at += 8
    return Relation(oid, schema or "pg_catalog", name, tuple(columns))


def _name(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(b"\0", at)
    return data[at:end].decode(), end + 1
