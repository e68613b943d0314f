"""Takes values out of an event's body. All other values keep their bytes: numbers keep their digits, texts their escapes."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from router.plans.judged import Path

_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


def strip(body: bytes, paths: Sequence[Path]) -> bytes:
    """Returns a body without the values at `paths`; a path that leads nowhere changes nothing.

    Raises:
        msgspec.DecodeError, UnicodeDecodeError: not a JSON object.
    """
    return _without(body, [path for path in paths if path])


def _without(raw: bytes | msgspec.Raw, paths: Sequence[Path]) -> bytes:
    if not paths:
        return bytes(raw)
    by_key: dict[str | int, list[Path]] = {}
    for path in paths:
        by_key.setdefault(path[0], []).append(path[1:])
    if all(isinstance(key, int) for key in by_key):
        items = _array(raw)
        for key, rest in by_key.items():
            if isinstance(key, int) and 0 <= key < len(items):
                items[key] = msgspec.Raw(_without(items[key], [each for each in rest if each]))
        return _encode(items)
    members = _object(raw)
    for key, rest in by_key.items():
        if not isinstance(key, str) or key not in members:
            continue
        if any(not each for each in rest):
            del members[key]
        else:
            members[key] = msgspec.Raw(_without(members[key], rest))
    return _encode(members)
