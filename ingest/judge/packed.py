"""Events in MessagePack: cuts them out of their array and converts them to JSON. Pure.

MessagePack is dense: a byte can become an object of 64. So the number of events is read from the array's first bytes before one
of them is built, and an event is checked against the limit before it is read.
"""

from __future__ import annotations

import gc

import msgspec

_ARRAY16, _ARRAY32 = 0xDC, 0xDD
_MAP16, _MAP32 = 0xDE, 0xDF

_read = msgspec.msgpack.Decoder().decode
_decode_array = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_to_json = msgspec.json.Encoder().encode


def count(array: bytes) -> int | None:
    """Returns how many items an array declares; None if it is no array."""
    first = array[0] if array else 0
    if first & 0xF0 == 0x90:
        return first & 0x0F
    if first in (_ARRAY16, _ARRAY32):
        return int.from_bytes(array[1 : 3 if first == _ARRAY16 else 5], "big")
    return None


def map_size(packed: bytes) -> int:
    """Returns how many members a valid map has; a repeated one counts each time."""
    first = packed[0]
    return int.from_bytes(packed[1 : 3 if first == _MAP16 else 5], "big") if first in (_MAP16, _MAP32) else first & 0x0F


def events_in(array: bytes) -> list[bytes]:
    """Returns the bytes of a valid array's items."""
    return [bytes(raw) for raw in _decode_array(array)]


def to_json(packed: bytes) -> bytes | str:
    """Returns MessagePack as JSON, or as text why it has no JSON: keys that are no text, binary data, values beyond JSON."""
    watched = gc.isenabled()
    gc.disable()  # the values live for a moment and hold no cycles: searching for cycles takes longer than building the values
    try:
        return _to_json(_read(packed))
    except (msgspec.MsgspecError, UnicodeError, RecursionError, TypeError, ValueError, OverflowError) as exc:
        return str(exc)
    finally:
        if watched:
            gc.enable()
