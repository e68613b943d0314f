"""The wire format of protobuf, as far as an export is taken apart without building it, and the messages of answers. Pure.

https://protobuf.dev/programming-guides/encoding/: a message is fields, each a number and a type in one varint, then its value.
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class BrokenMessage(Exception):
    """The bytes are no protobuf, or end early."""


class Steps:
    """How many more fields of one request are looked at: a field may have two bytes, and each costs a step of Python."""

    __slots__ = ("left",)

    def __init__(self, most: int) -> None:
        self.left = most


def fields(message: bytes, steps: Steps) -> Iterator[tuple[int, bytes]]:
    """Yields (number, bytes) of the fields of a message that hold bytes: texts and inner messages; skips all others.

    Raises:
        BrokenMessage: in the middle of the iteration.
    """
    position, size = 0, len(message)
    while position < size:
        steps.left -= 1
        if steps.left < 0:
            raise BrokenMessage("it has more fields than any export")
        # most keys and many lengths have one byte
        key = message[position]
        if key < 0x80:
            position += 1
        else:
            key, position = _varint(message, position)
        kind = key & 7
        if kind == _BYTES:
            if position + 1 < size and message[position + 1] < 0x80 <= message[position]:  # two: up to 16 KiB
                length = message[position] & 0x7F | message[position + 1] << 7
                position += 2
            else:
                length, position = _varint(message, position)
            if position + length > size:
                raise BrokenMessage(f"a field of {length} bytes ends behind the body, which may be cut off")
            yield key >> 3, message[position : position + length]
            position += length
        elif kind == _VARINT:
            _, position = _varint(message, position)
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
        else:
            raise BrokenMessage(f"byte {position} begins no field")
    if position > size:
        raise BrokenMessage("the last field ends behind the body, which may be cut off")


def field(number: int, value: bytes) -> bytes:
    """Returns a field that holds bytes."""
    return _encoded(number << 3 | _BYTES) + _encoded(len(value)) + value


def partial_success(rejected: int, message: str) -> bytes:
    """Returns `ExportLogsServiceResponse` or `ExportTraceServiceResponse`, which are alike."""
    return field(1, b"\x08" + _encoded(rejected) + field(2, message.encode("utf-8", "replace")))


def status(code: int, message: str) -> bytes:
    """Returns `google.rpc.Status`."""
    return b"\x08" + _encoded(code) + field(2, message.encode("utf-8", "replace"))


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(message) or shift > 63:
            raise BrokenMessage("a number does not end")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _encoded(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
