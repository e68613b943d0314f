"""The rows of an answer: from the packets of the wire to Arrow, a column at a time. Pure.

A row is a packet, and in it each value as text behind its length. Python looks at each packet's header alone, some tenth of a
microsecond; lengths, copies and numbers are NumPy's and Arrow's.

https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_com_query_response_text_resultset.html
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import TYPE_CHECKING, Any

from shared.errors import Transient

if TYPE_CHECKING:
    import pyarrow as pa

_HEADER = Struct("<I").unpack_from
_LENGTH = 0xFFFFFF
_MOST = 0xFFFFFF
"""Bytes of a packet that another one of the same row follows."""
_END, _FAILED = 0xFE, 0xFF
_MOST_END = 9
"""A packet of fewer bytes that begins with `_END` is the end; a longer one is a row with a long value."""
_NULL, _TWO, _THREE, _EIGHT = 0xFB, 0xFC, 0xFD, 0xFE
_UNTIMELY = r"^0000|-00"
"""Dates that no calendar has: MySQL's zero, and months and days that are zero."""


class Packets:
    """Cuts a stream of bytes into rows. `failed`: the last packet says that the statement failed; its payload."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._place = 0
        self._starts: list[int] = []
        self._ended = False
        self.failed: bytes | None = None

    @property
    def held(self) -> int:
        """Bytes of the rows that are whole."""
        return self._place

    def feed(self, data: bytes) -> bool:
        """Takes bytes as they come; returns whether they were the last."""
        self._bytes += data
        bytes_, place, starts, size = self._bytes, self._place, self._starts, len(self._bytes)
        while place + 5 <= size:
            length = _HEADER(bytes_, place)[0] & _LENGTH
            first = bytes_[place + 4]
            if length == _MOST:
                whole = self._join(place)
                if whole is None:
                    break
                length, size = whole, len(bytes_)
            elif place + 4 + length > size:
                break
            elif first >= _END and (first == _FAILED or length < _MOST_END):
                self._ended = True
                self.failed = bytes(bytes_[place + 4 : place + 4 + length]) if first == _FAILED else None
                break
            starts.append(place + 4)
            place += 4 + length
        self._place = place
        return self._ended

    def take(self) -> tuple[bytes, list[int]]:
        """Returns the rows that are whole, and where each begins; they are forgotten here."""
        data, starts = bytes(memoryview(self._bytes)[: self._place]), self._starts
        del self._bytes[: self._place]
        self._place, self._starts = 0, []
        return data, starts

    def _join(self, place: int) -> int | None:
        """Takes the headers out of a row of several packets; returns its length, None if it is not whole."""
        bytes_, headers, end, length = self._bytes, list[int](), place, _MOST
        while length == _MOST:
            if end != place:
                headers.append(end)
            if end + 4 > len(bytes_):
                return None
            length = _HEADER(bytes_[end : end + 4])[0] & _LENGTH
            end += 4 + length
        if end > len(bytes_):
            return None
        for header in reversed(headers):
            del bytes_[header : header + 4]
        return end - place - 4 - 4 * len(headers)


def table_of(data: bytes, starts: Sequence[int], fields: Sequence[tuple[str, pa.DataType]]) -> pa.Table:
    """Returns rows as a table.

    Args:
        data: of all rows.
        starts: where each row begins.
        fields: names and types.

    Raises:
        Transient: a value is none of its column's type: the table changed.
    """
    import numpy as np
    import pyarrow as pa

    buffer = np.frombuffer(data, dtype=np.uint8)
    place = np.array(starts, dtype=np.int64)
    columns: list[Any] = []
    for name, type_ in fields:
        place, length, is_null = _lengths(buffer, place)
        texts = _texts(data, place, length, is_null)
        place = place + length
        try:
            columns.append(_typed(texts, type_))
        except pa.ArrowInvalid as exc:
            raise Transient(f'column "{name}" holds what its type cannot hold; was it changed during the read? ({exc})') from exc
    return pa.Table.from_arrays(columns, names=[name for name, _ in fields])


def _lengths(buffer: Any, place: Any) -> tuple[Any, Any, Any]:
    """Returns where the next value of each row begins, how long it is, and whether it is null."""
    import numpy as np

    first = buffer[place]
    length = first.astype(np.int64)
    begin = place + 1
    is_null = first == _NULL
    length[is_null] = 0
    for mark, size in ((_TWO, 2), (_THREE, 3), (_EIGHT, 8)):
        if len(rows := np.flatnonzero(first == mark)):
            long = sum(buffer[place[rows] + 1 + each].astype(np.int64) << (8 * each) for each in range(size))
            length[rows] = long
            begin[rows] += size
    return begin, length, is_null


def _texts(data: bytes, begin: Any, length: Any, is_null: Any) -> Any:
    """Returns the values of a column as bytes: all that lies between two rows' values is one more value, which is left out."""
    import numpy as np
    import pyarrow as pa

    offsets = np.empty(2 * len(begin), dtype=np.int32)
    offsets[0::2], offsets[1::2] = begin, begin + length
    every = pa.Array.from_buffers(pa.binary(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(data)])
    return every.take(pa.array(np.arange(0, len(offsets), 2), mask=is_null))


def _typed(texts: Any, type_: pa.DataType) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_binary(type_):
        return texts
    try:
        texts = texts.cast(pa.string())
    except pa.ArrowInvalid:  # bytes that are no UTF-8, in a column whose character set nobody checked
        texts = pa.array([None if each is None else each.decode(errors="replace") for each in texts.to_pylist()], pa.string())
    if pa.types.is_string(type_):
        return texts
    if pa.types.is_boolean(type_):
        return texts.cast(pa.int64()).cast(type_)
    if pa.types.is_date(type_) or pa.types.is_timestamp(type_):
        plain = type_ if pa.types.is_date(type_) else pa.timestamp("us")
        try:
            found = texts.cast(plain)
        except pa.ArrowInvalid:
            texts = pc.if_else(pc.match_substring_regex(texts, _UNTIMELY), pa.scalar(None, pa.string()), texts)
            found = texts.cast(plain)
        return found if plain == type_ else pc.assume_timezone(found, "UTC")
    return texts.cast(type_)
