"""The events of a request: `payload_data` in a body, or one event in a query. Pure; every value becomes text.

A tracker sends all values as text. Numbers and booleans of other senders become text, nulls and empty texts are left out, and an
object stays where a parameter holds JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import msgspec

from ingest.contract import Refusal
from ingest.judge.batch import cut_events
from ingest.judge.budget import Budget
from ingest.judge.mend import Fault, json_type, read_leniently
from shared.events.outcome import DeadReason

SCHEMA = "iglu:com.snowplowanalytics.snowplow/payload_data/jsonschema/1-0-4"
MANY_BYTES = 64 * 1024
"""A larger body is cut into its events before any is built."""
_JSON_PARAMETERS = frozenset({"ue_pr", "co"})
_EXPECTED = f'expected {{"schema": "{SCHEMA}", "data": [events]}}'

Parameters = dict[str, Any]


class _Quick(msgspec.Struct, gc=False):
    data: list[dict[str, str]]


class _Envelope(msgspec.Struct, gc=False):
    data: msgspec.Raw


_decode_quick = msgspec.json.Decoder(_Quick).decode
_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_texts = msgspec.json.Decoder(dict[str, str]).decode
_decode_values = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_value = msgspec.json.Decoder(Any).decode


def read_body(body: bytes, most: int) -> list[Parameters] | list[bytes] | Refusal:
    """Returns the events of a body: their parameters if all are plain texts and the body is small, else their bytes.

    Args:
        body: the bytes.
        most: of more events than this, some more are returned.
    """
    if not body.strip():
        return Refusal(400, "empty_body", f"the body is empty, {_EXPECTED}")
    if len(body) <= MANY_BYTES:
        try:
            return _decode_quick(body).data
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            pass
    try:
        data = bytes(_decode_envelope(body).data)
        return cut_events(data, most)
    except (msgspec.ValidationError, RecursionError) as exc:
        return Refusal(400, "invalid_batch", f"{_EXPECTED}: {exc}")
    except (msgspec.MsgspecError, UnicodeError) as exc:
        return Refusal(400, "invalid_json", f"the body is not JSON: {exc}")


def of_tracker(body: bytes) -> bytes | None:
    """Returns the bytes of a tracker's event, also of the first in `payload_data`; None if a body is neither."""
    try:
        values = _decode_values(body)
        if bytes(values.get("schema", b""))[1:].startswith(SCHEMA.rpartition("/")[0].encode()):
            return next(iter(cut_events(bytes(values.get("data", b"[]")), 1)), None)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return body if bytes(values.get("e", b""))[:1] == b'"' and "type" not in values else None


def read_event(event: bytes, budget: Budget) -> Parameters | Fault:
    """Returns the parameters of an event, or why it is none."""
    try:
        return _decode_texts(event)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass
    try:
        values = _decode_values(event)
    except msgspec.ValidationError:
        return Fault(DeadReason.NOT_AN_OBJECT, f"expected a JSON object, got {json_type(event)}")
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        mended = read_leniently(event, budget)
        if isinstance(mended, Fault):
            return mended
        if not isinstance(mended[0], dict):
            return Fault(DeadReason.NOT_AN_OBJECT, f"expected a JSON object, got {json_type(mended[1])}")
        values = _decode_values(mended[1])
    found: Parameters = {}
    for name, raw in values.items():
        value = _text(name, bytes(raw))
        if isinstance(value, Fault):
            return value
        if value:
            found[name] = value
    return found


def merged(parameters: Parameters, query: Mapping[str, str]) -> Parameters:
    """Returns parameters with those of the query, which win."""
    return {**parameters, **query} if query else parameters


def own_id(id_: str, index: int) -> str:
    """Returns the id of an event at `index` of several that have one `eid` in their query: the first keeps it, the others differ.

    With the same id all but the first were repeats, and lost. A repeat of the request makes the same ids.
    """
    return str(uuid5(NAMESPACE_OID, f"{index} {id_}")) if index else id_


def parameters_of(query: Mapping[str, str], left_out: Sequence[str]) -> dict[str, str]:
    """Returns the parameters of a query that belong to its events."""
    found = dict(query)
    if "" in found.values():
        found = {name: value for name, value in query.items() if value}
    for name in left_out:
        if name in found:
            del found[name]
    return found


def _text(name: str, raw: bytes) -> Any:
    start = raw[:1]
    if start == b'"':
        try:
            return _decode_value(raw)
        except (msgspec.MsgspecError, UnicodeError):
            return Fault(DeadReason.WRONG_TYPE, f"`{name[:100]}` is no text")
    if start in (b"{", b"["):
        if name in _JSON_PARAMETERS:
            return raw.decode("utf-8", "replace")
        return Fault(DeadReason.WRONG_TYPE, f"`{name[:100]}` is {json_type(raw)}, expected a text")
    if start == b"n":
        return None
    if start == b"t" or start == b"f":
        return "1" if start == b"t" else "0"
    return raw.decode()
