"""The second look at an event that the fast path did not like: mend what can be mended, or say what is wrong.

Pure. The fast path (`ingest/judge.py`) reads only the head of an event and trusts the rest; here everything is read. What is
mended is counted by the caller: NaN and infinities become null, lone surrogates become U+FFFD, control characters inside strings
are escaped, numbers given as ids become text, keys that only the server may set are removed. All other bytes stay the client's:
objects are taken apart with `msgspec.Raw` and put together again, and only a part that must change is written anew.
"""

from __future__ import annotations

import json
import re
from itertools import accumulate
from typing import Any, NamedTuple

import msgspec

from shared.outcome import DeadReason
from shared.project import SiteLimits

MAX_LENIENT_BYTES = 1024 * 1024
"""The lenient reader builds every value, at a third of a second a megabyte, during which nobody else is served."""

ID_FIELDS = ("messageId", "userId", "anonymousId", "groupId", "previousId")
OBJECT_FIELDS = ("properties", "traits")

HINT = re.compile(rb"__sql_type|JITSU_TABLE_NAME")
"""Type and table hints: honoured only when a function wrote them, so clients may not send them."""

ESCAPED = re.compile(rb"\\u(?:00[4-7]|[dD][89a-fA-F])")
"""Escapes that may spell a hint, or half a surrogate pair."""

_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = bytes.maketrans(b"[]{}", b"\x01\xff\x01\xff")
"""Brackets as signed bytes: one level in, one level out."""

_decode_any = msgspec.json.Decoder().decode
_check = msgspec.json.Decoder(msgspec.Raw).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class Mended(NamedTuple):
    """Bytes that decode strictly, as a JSON object within the limits."""

    body: bytes
    repaired: bool
    stripped: bool


class Fault(NamedTuple):
    """Why an event cannot be accepted."""

    reason: DeadReason
    detail: str


def mend(body: bytes, limits: SiteLimits, fixed_type: str | None = None) -> Mended | Fault:
    """Reads an event completely and returns acceptable bytes of it, or the fault.

    Args:
        fixed_type: the type the path gave; the event's own `type` is then overwritten if it is not text.
    """
    read = _read_object(body, limits)
    return read if isinstance(read, Fault) else _fix_fields(*read, fixed_type)


def mend_object(body: bytes, limits: SiteLimits) -> Mended | Fault:
    """Does the same for an object that is no event, whose members may be anything."""
    read = _read_object(body, limits)
    return read if isinstance(read, Fault) else read[1]


def _read_object(body: bytes, limits: SiteLimits) -> tuple[dict[str, Any], Mended] | Fault:
    repaired = stripped = False
    try:
        value = _decode_any(body)
    except RecursionError:
        return _too_deep(limits)
    except (msgspec.MsgspecError, UnicodeError):
        lenient = read_leniently(body)
        if isinstance(lenient, Fault):
            return lenient
        value, body = lenient
        repaired = True
    if not isinstance(value, dict):
        return Fault(DeadReason.NOT_AN_OBJECT, f"expected a JSON object, got {json_type(value)}")
    depth, keys = measure(body)
    if depth > limits.depth:
        return Fault(DeadReason.TOO_DEEP, f"it nests {depth} levels deep, the limit is {limits.depth}")
    if keys > limits.keys:
        return Fault(DeadReason.TOO_MANY_KEYS, f"it has {keys} keys, the limit is {limits.keys}")
    if has_hints(body):
        clean = strip_hints(body)
        stripped = clean != body
        body = clean
    return value, Mended(body, repaired, stripped)


def read_leniently(body: bytes) -> tuple[Any, bytes] | Fault:
    """Reads almost-JSON as the widely used writers produce it; returns the value and strict JSON of it."""
    if len(body) > MAX_LENIENT_BYTES:
        return Fault(DeadReason.MALFORMED_JSON, f"{_first_fault(body)}, and {len(body)} bytes are too many to be mended")
    try:
        text = body.decode("utf-8", "replace")
        value = json.loads(text, strict=False, parse_constant=_nothing, parse_float=_finite)
        written = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        clean = written.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
        return _decode_any(clean), clean
    except json.JSONDecodeError as exc:
        return Fault(DeadReason.MALFORMED_JSON, f"{exc.msg} at line {exc.lineno}, column {exc.colno}")
    except RecursionError:
        return Fault(DeadReason.TOO_DEEP, "the JSON nests too deeply to be read")
    except (ValueError, msgspec.MsgspecError) as exc:  # numbers of thousands of digits
        return Fault(DeadReason.MALFORMED_JSON, str(exc).partition(";")[0])


def _first_fault(body: bytes) -> str:
    try:
        _check(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        return f"{exc}"
    return "it is not strictly JSON"  # e.g. a number beyond every bound


def measure(body: bytes) -> tuple[int, int]:
    """Returns (depth, number of keys) of a valid JSON text, from its brackets and colons alone: in C, and in one pass."""
    bare = _STRINGS.sub(b"", body)
    steps = memoryview(bare.translate(_STEPS, _NOT_BRACKETS)).cast("b")
    return max(accumulate(steps), default=0), bare.count(b":")


def has_hints(body: bytes) -> bool:
    """Tells whether `body` may hold keys that only the server may set; cheap, and never wrong when it says no."""
    return HINT.search(body) is not None or ESCAPED.search(body) is not None


def strip_hints(body: bytes) -> bytes:
    """Returns valid JSON `body` without `__sql_type`, `__sql_type_*` and `JITSU_TABLE_NAME` keys, at every depth."""
    text = body.lstrip(b" \t\r\n")
    if text[:1] == b"{":
        members = _decode_object(text)
        kept: dict[str, Any] = {}
        changed = False
        for key, raw in members.items():
            if key == "JITSU_TABLE_NAME" or key == "__sql_type" or key.startswith("__sql_type_"):
                changed = True
                continue
            kept[key], inner_changed = _stripped(raw)
            changed = changed or inner_changed
        return _encode(kept) if changed else body
    if text[:1] == b"[":
        items = [_stripped(raw) for raw in _decode_array(text)]
        return _encode([item for item, _ in items]) if any(changed for _, changed in items) else body
    return body


def json_type(value: object) -> str:
    """Returns what JSON calls the type of a decoded value."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"


def _stripped(raw: msgspec.Raw) -> tuple[msgspec.Raw, bool]:
    inner = bytes(raw)
    if not has_hints(inner):
        return raw, False
    clean = strip_hints(inner)
    return (raw, False) if clean == inner else (msgspec.Raw(clean), True)


def _fix_fields(value: dict[str, Any], mended: Mended, fixed_type: str | None) -> Mended | Fault:
    changes: dict[str, str] = {}
    for name in ID_FIELDS:
        found = value.get(name)
        if found is None or type(found) is str:
            continue
        if type(found) is int or type(found) is float:
            changes[name] = str(int(found)) if found == found // 1 else repr(found)
        else:
            return Fault(DeadReason.WRONG_TYPE, f"`{name}` is {json_type(found)}, expected a string")
    if fixed_type is None or type(value.get("type")) is str:
        if type(value.get("type", "")) is not str and value["type"] is not None:
            return Fault(DeadReason.WRONG_TYPE, f"`type` is {json_type(value['type'])}, expected a string")
    elif value.get("type") is not None:
        changes["type"] = fixed_type
    if type(value.get("event", "")) is not str and value["event"] is not None:
        return Fault(DeadReason.WRONG_TYPE, f"`event` is {json_type(value['event'])}, expected a string")
    for name in OBJECT_FIELDS:
        if value.get(name) is not None and type(value[name]) is not dict:
            return Fault(DeadReason.WRONG_TYPE, f"`{name}` is {json_type(value[name])}, expected an object")
    if not changes:
        return mended
    members: dict[str, Any] = {**_decode_object(mended.body), **changes}
    return mended._replace(body=_encode(members))


def _too_deep(limits: SiteLimits) -> Fault:
    return Fault(DeadReason.TOO_DEEP, f"it nests more than 1000 levels deep, the limit is {limits.depth}")


def _nothing(_: str) -> None:
    return None


def _finite(text: str) -> float | None:
    number = float(text)
    return number if abs(number) != float("inf") else None
