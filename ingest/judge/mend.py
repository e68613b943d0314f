"""The second look at an event that the fast path refused: mends it, or says what is wrong.

Pure. NaN and infinities become null, lone surrogates become U+FFFD, control characters inside strings are escaped, numbers given
as ids become text; the caller counts this. All other bytes stay the client's: only an event that is not JSON is written again,
and in other events only the members that must change.

Only the lenient reader builds more than the top of an event, and a request has a budget for its work.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

import msgspec

from ingest.judge.budget import LENIENT_BYTES, Budget
from shared.events.outcome import DeadReason
from shared.project.model import SiteLimits
from shared.reading.extent import extent

ID_FIELDS = ("messageId", "userId", "anonymousId", "groupId", "previousId")
OBJECT_FIELDS = ("properties", "traits")
_JUDGED_FIELDS = (*ID_FIELDS, *OBJECT_FIELDS, "type", "event")

_INTEGER = re.compile(rb"-?\d+")
_check = msgspec.json.Decoder(msgspec.Raw).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_judged = msgspec.json.Decoder(
    msgspec.defstruct("_Judged", [(name, msgspec.Raw, msgspec.Raw()) for name in _JUDGED_FIELDS])
).decode
_encode = msgspec.json.Encoder().encode


class Mended(NamedTuple):
    """Bytes of a strict JSON object within the limits."""

    body: bytes
    repaired: bool


class Fault(NamedTuple):
    """Why an event cannot be accepted."""

    reason: DeadReason
    detail: str


def mend(body: bytes, limits: SiteLimits, budget: Budget, fixed_type: str | None = None) -> Mended | Fault:
    """Reads an event completely and returns acceptable bytes of it, or the fault.

    Args:
        fixed_type: the type from the path; the event's own `type` is then overwritten if it is not text.
    """
    read = mend_object(body, limits, budget)
    return read if isinstance(read, Fault) else _fix_fields(read, fixed_type)


def mend_object(body: bytes, limits: SiteLimits, budget: Budget) -> Mended | Fault:
    """Does the same for an object that is no event and may have any members."""
    repaired = False
    try:
        _check(body)
    except RecursionError:
        return Fault(DeadReason.TOO_DEEP, f"it nests more than 1000 levels deep, the limit is {limits.depth}")
    except (msgspec.MsgspecError, UnicodeError):
        lenient = read_leniently(body, budget)
        if isinstance(lenient, Fault):
            return lenient
        _, body = lenient
        repaired = True
    kind = json_type(body)
    if kind != "an object":
        return Fault(DeadReason.NOT_AN_OBJECT, f"expected a JSON object, got {kind}")
    return excess(body, limits) or Mended(body, repaired)


def excess(body: bytes, limits: SiteLimits) -> Fault | None:
    """Returns the fault of a JSON text that nests too deeply or has too many keys."""
    found = extent(body, limits.depth, limits.keys)
    if found is None:
        return None
    depth, keys = found
    if depth > limits.depth:
        return Fault(DeadReason.TOO_DEEP, f"it nests {depth} levels deep, the limit is {limits.depth}")
    return Fault(DeadReason.TOO_MANY_KEYS, f"it has {keys} keys, the limit is {limits.keys}")


def without_repeats(body: bytes) -> bytes:
    """Returns an object that has each member once: the last of two, as every JSON reader does."""
    return _encode(_decode_object(body))


def read_leniently(body: bytes, budget: Budget) -> tuple[Any, bytes] | Fault:
    """Reads almost-JSON as widely used writers produce it; returns the value and its strict JSON."""
    if not budget.takes(len(body)):
        spent = f"a request may hold {LENIENT_BYTES} bytes of almost-JSON to be mended"
        return Fault(DeadReason.MALFORMED_JSON, f"{_first_fault(body)}; {spent}")
    try:
        text = body.decode("utf-8", "replace")
        value = json.loads(text, strict=False, parse_constant=_nothing, parse_float=_finite)
        written = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        clean = written.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
        _check(clean)
    except json.JSONDecodeError as exc:
        return Fault(DeadReason.MALFORMED_JSON, f"{exc.msg.removesuffix(' at')} at line {exc.lineno}, column {exc.colno}")
    except RecursionError:
        return Fault(DeadReason.TOO_DEEP, "the JSON nests too deeply to be read")
    except (ValueError, msgspec.MsgspecError) as exc:  # numbers of thousands of digits
        return Fault(DeadReason.MALFORMED_JSON, str(exc).partition(";")[0])
    return value, clean


def _first_fault(body: bytes) -> str:
    try:
        _check(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        return f"{exc}"
    return "it is not strictly JSON"  # such as bytes that are not UTF-8


def json_type(text: bytes) -> str:
    """Returns JSON's name of a valid text's type."""
    match text.lstrip(b" \t\r\n")[:1]:
        case b"{":
            return "an object"
        case b"[":
            return "an array"
        case b'"':
            return "a string"
        case b"n":
            return "null"
        case b"t" | b"f":
            return "a boolean"
        case _:
            return "a number"


def _fix_fields(mended: Mended, fixed_type: str | None) -> Mended | Fault:
    judged = _decode_judged(mended.body)  # the others are built only if something changes
    values = {name: raw for name, raw in zip(_JUDGED_FIELDS, map(bytes, msgspec.structs.astuple(judged)), strict=True) if raw}
    kinds = {name: json_type(raw) for name, raw in values.items()}
    changes: dict[str, str] = {}
    for name in ID_FIELDS:
        kind = kinds.get(name, "null")
        if kind == "a number":
            number = _as_text(values[name])
            if number is None:
                return Fault(DeadReason.WRONG_TYPE, f"`{name}` is a number without bounds, expected a string")
            changes[name] = number
        elif kind not in ("null", "a string"):
            return Fault(DeadReason.WRONG_TYPE, f"`{name}` is {kind}, expected a string")
    for name in ("type", "event"):
        kind = kinds.get(name, "null")
        if kind in ("null", "a string"):
            continue
        if name == "event" or fixed_type is None:
            return Fault(DeadReason.WRONG_TYPE, f"`{name}` is {kind}, expected a string")
        changes[name] = fixed_type
    for name in OBJECT_FIELDS:
        kind = kinds.get(name, "null")
        if kind not in ("null", "an object"):
            return Fault(DeadReason.WRONG_TYPE, f"`{name}` is {kind}, expected an object")
    return mended._replace(body=_encode({**_decode_object(mended.body), **changes})) if changes else mended


def _as_text(number: bytes) -> str | None:
    """Returns a number as the text of an id: 7.0 is "7"."""
    if _INTEGER.fullmatch(number):
        return number.decode()
    value = float(number)
    if abs(value) == float("inf"):
        return None
    return str(int(value)) if value == value // 1 else repr(value)


def _nothing(_: str) -> None:
    return None


def _finite(text: str) -> float | None:
    number = float(text)
    return number if abs(number) != float("inf") else None
