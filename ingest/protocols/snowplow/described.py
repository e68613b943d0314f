"""Self-describing JSON, `{"schema": "iglu:…", "data": …}`, plain or in base64, as parameters carry it. Pure."""

from __future__ import annotations

import binascii
from typing import Any

import msgspec

from ingest.judge.mend import Fault, excess
from ingest.lookups import Checks
from shared.events.outcome import DeadReason
from shared.project.model import SiteLimits
from shared.reading.iglu import SchemaName, read_name

MAX_ENTITIES = 1_000
"""The most entities of one event."""


class Described(msgspec.Struct, gc=False):
    """A self-describing JSON whose data is still its bytes."""

    schema: str
    data: msgspec.Raw


class _Entities(msgspec.Struct, gc=False):
    schema: str
    data: list[Described]


_decode_described = msgspec.json.Decoder(Described).decode
_decode_entities = msgspec.json.Decoder(_Entities).decode
_encode = msgspec.json.Encoder().encode
_PADDING = (b"", b"===", b"==", b"=")
_FROM_URL = bytes.maketrans(b"-_ ", b"+/+")


def fault(detail: str) -> Fault:
    """Returns the fault of a parameter that cannot be read."""
    return Fault(DeadReason.MALFORMED_PARAMETER, detail)


def text_of(parameters: dict[str, Any], plain: str, coded: str, limits: SiteLimits) -> tuple[str, bytes] | Fault | None:
    """Takes a JSON out of the parameters, plain or in base64; returns its parameter and its bytes.

    The plain one counts if both are there.
    """
    value, packed = parameters.pop(plain, None), parameters.pop(coded, None)
    name = plain
    if value:
        text = value.encode("utf-8", "replace") if type(value) is str else _encode(value)
    elif packed:
        name = coded
        if type(packed) is not str:
            return fault(f"`{coded}` is no text, expected base64")
        bare = packed.encode("utf-8", "replace").translate(_FROM_URL).rstrip(b"=")
        try:
            text = binascii.a2b_base64(bare + _PADDING[len(bare) % 4], strict_mode=True)
        except (binascii.Error, ValueError):
            return fault(f"`{coded}` is not base64")
    else:
        return None
    found = excess(text, limits)
    return (name, text) if found is None else found._replace(detail=f"`{name}`: {found.detail}")


def check(schemas: Checks, each: Described, notes: list[str]) -> Fault | None:
    """Checks data against their schema; returns a fault if it kills the event.

    Args:
        schemas: of the site.
        each: the data with the name of their schema.
        notes: takes `unknown` or `unfit` where the event goes on.
    """
    try:
        found = schemas.fault(each.schema, bytes(each.data))
    except KeyError:
        notes.append("unknown")
        return None
    if found is None:
        return None
    if schemas.on_invalid == "dead_letter":
        return Fault(DeadReason.SCHEMA_VIOLATION, f"{each.schema[:200]}: {found}")
    notes.append("unfit")
    return None


def read_event(name: str, text: bytes) -> tuple[SchemaName, Described] | Fault:
    """Reads the event of a self-describing event, out of its wrapper."""
    try:
        inner = _decode_described(_decode_described(text).data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        return fault(f'`{name}`: expected {{"schema": "…", "data": {{"schema": "iglu:…", "data": …}}}}: {exc}')
    schema = read_name(inner.schema)
    if schema is None:
        return fault(f"`{name}`: {inner.schema[:200]!r} is no schema, expected iglu:vendor/name/jsonschema/1-0-0")
    return schema, inner


def read_entities(name: str, text: bytes) -> list[Described] | Fault:
    """Reads the entities of an event, out of their wrapper."""
    try:
        found = _decode_entities(text).data
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        return fault(f'`{name}`: expected {{"schema": "…", "data": [{{"schema": "iglu:…", "data": …}}]}}: {exc}')
    if len(found) > MAX_ENTITIES:
        return fault(f"`{name}`: it has {len(found)} entities, the limit is {MAX_ENTITIES}")
    for each in found:
        if read_name(each.schema) is None:
            return fault(f"`{name}`: {each.schema[:200]!r} is no schema, expected iglu:vendor/name/jsonschema/1-0-0")
    return found
