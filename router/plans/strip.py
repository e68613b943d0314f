"""Takes values out of an event's body. All other values keep their bytes: numbers keep their digits, texts their escapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from router.plans.judged import Path

_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


def strip(body: bytes, paths: Sequence[Path], fallback: Mapping[str, Any] = {}) -> bytes:
    """Returns a body without the values at `paths`; a path that leads nowhere changes nothing.

    Args:
        fallback: the context of the batch. What an event's own context lacks comes from it, so what is stripped there is null in the body.

    Raises:
        msgspec.DecodeError, UnicodeDecodeError: not a JSON object.
    """
    wanted = [path for path in paths if path]
    names = [str(path[1]) for path in wanted if len(path) > 1 and path[0] == "context"]
    shared = {name: fallback[name] for name in names if name in fallback}
    if not shared:
        return _without(body, wanted)
    stripped = _without(_with_context(body, shared), wanted)
    return _with_context(stripped, dict.fromkeys(shared))


def _with_context(body: bytes, values: Mapping[str, Any]) -> bytes:
    """Returns a body whose context has these values where it has none of the name."""
    members = _object(body)
    try:
        context = _object(members.get("context", b"{}"))
    except msgspec.ValidationError:  # not an object: the batch's values stand beside it
        context = {} if members["context"] == b"null" else {"value": members["context"]}
    members["context"] = msgspec.Raw(_encode({**values, **context}))
    return _encode(members)


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
