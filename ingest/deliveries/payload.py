"""From the body of a delivery to events: one, or one for each item of an array. Pure.

The bytes of a JSON payload stay as they came: an event is written around them, as `properties`, or as `properties.data` if the
webhook is packed or the payload is no object. A form becomes an object, a text stays a text; `context.webhook.raw` then holds what
came, so that nothing of it is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from ingest.contract import Given, Parsed, Reading, Reject
from ingest.deliveries.places import Members, of_payload
from ingest.judge.batch import cut_events
from ingest.judge.budget import Budget
from ingest.judge.ids import is_visible, repaired
from ingest.judge.mend import Fault, excess, json_type, read_leniently
from ingest.judge.verdicts import Scan, is_crowded
from shared.events.frame import Head
from shared.events.outcome import DeadReason

TYPE = "webhook"
MOST_FIELDS = 5000

_encode = msgspec.json.Encoder().encode
_cut = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_check = msgspec.json.Decoder(msgspec.Raw).decode
_BLANKS = b" \t\r\n"


def add_events(
    parsed: Parsed, body: bytes, reading: Reading, given: Given, new_id: Callable[[], str], *, whole: bool = True
) -> None:
    """Adds the events of a body to `parsed`, each accepted or as a reject.

    Args:
        given: what the request says outside of the body, and the `kind` of the body.
        whole: an array is many events; False: it is one, the item of another array.
    """
    budget = Budget()
    raw = b""
    if given.kind == "form":
        raw, body = body, _of_form(body, reading.type)
    elif given.kind == "text":
        raw, body = _unless_utf8(body), _encode(body.decode("utf-8", "replace"))
    scan = Scan(body)
    text = scan.body.strip(_BLANKS)
    parsed.repaired += scan.replaced
    if whole and text[:1] == b"[":
        most = parsed.admission.limits.events_per_request
        try:
            items: Sequence[bytes] = cut_events(text, most)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            items = ()
        if items:
            for position, item in enumerate(items):
                _add(
                    parsed=parsed,
                    text=item,
                    reading=reading,
                    said=given,
                    new_id=new_id,
                    position=position,
                    budget=budget,
                    of_many=len(items) > 1,
                )
            return
    _add(parsed=parsed, text=text, reading=reading, said=given, new_id=new_id, position=0, budget=budget, raw=raw)


def _add(
    parsed: Parsed,
    text: bytes,
    reading: Reading,
    said: Given,
    new_id: Callable[[], str],
    *,
    position: int,
    budget: Budget,
    of_many: bool = False,
    raw: bytes = b"",
) -> None:
    limits = parsed.admission.limits
    original = raw or text
    if len(text) > limits.event_bytes:
        detail = f"the event has {len(text)} bytes, the limit is {limits.event_bytes}"
        parsed.rejects.append(Reject(position, DeadReason.TOO_LARGE, detail, original))
        return
    found = _members(text, budget)
    if isinstance(found, Fault):
        parsed.rejects.append(Reject(position, found.reason, found.detail, original))
        return
    value, members, was_mended = found
    fault = excess(value, limits) if len(value) > limits.keys * 4 or is_crowded(value, limits.depth) else None
    if fault is not None:
        parsed.rejects.append(Reject(position, fault.reason, fault.detail, original))
        return
    parsed.repaired += was_mended
    name = said.name or (of_payload(reading.event, members) if members and reading.event else "")
    if not name or not is_visible(name):
        name = reading.webhook
    user = said.user or (of_payload(reading.user_id, members) if members and reading.user_id else "")
    message_id, given = _message_id(
        value=value, members=members, reading=reading, said=said, new_id=new_id, position=position, of_many=of_many
    )
    parsed.made_ids += not given
    head = Head(message_id, TYPE, name, user if user and is_visible(user) else None)
    body = _written(value, head, reading, position=position, is_object=members is not None, given=given, raw=raw)
    if len(body) > limits.event_bytes:
        detail = f"the event has {len(body)} bytes as it is kept, the limit is {limits.event_bytes}"
        parsed.rejects.append(Reject(position, DeadReason.TOO_LARGE, detail, original))
        return
    parsed.heads.append(head)
    parsed.bodies.append(body)


def _members(text: bytes, budget: Budget) -> tuple[bytes, Members | None, bool] | Fault:
    """Returns a JSON text, its members if it is an object, and whether it had to be mended."""
    try:
        if text[:1] == b"{":
            return text, _cut(text), False
        _check(text)
    except RecursionError:
        return Fault(DeadReason.TOO_DEEP, "it nests more than 1000 levels deep")
    except (msgspec.MsgspecError, UnicodeError):
        if not text:
            return Fault(DeadReason.MALFORMED_JSON, "it is empty")
        lenient = read_leniently(text, budget)
        if isinstance(lenient, Fault):
            return lenient
        text = lenient[1]
        return text, _cut(text) if json_type(text) == "an object" else None, True
    return text, None, False


def _message_id(
    value: bytes,
    members: Members | None,
    reading: Reading,
    said: Given,
    new_id: Callable[[], str],
    *,
    position: int,
    of_many: bool,
) -> tuple[str, bool]:
    """Returns the id of an event, and whether it is the sender's: the same for a repeat of the same delivery."""
    own = of_payload(reading.message_id, members) if members and reading.message_id else ""
    if own:
        id_ = f"{reading.webhook}:{own}"
    elif said.id:
        id_ = f"{reading.webhook}:{said.id}" + (f":{position}" if of_many else "")
    elif reading.content_id:
        digest = blake2b(value, digest_size=16, person=blake2b(reading.webhook.encode(), digest_size=16).digest()).hexdigest()
        id_ = f"{reading.webhook}:{digest}"
    else:
        return new_id(), False
    return repaired(id_), True


def _written(value: bytes, head: Head, reading: Reading, *, position: int, is_object: bool, given: bool, raw: bytes) -> bytes:
    """Returns the event around a payload."""
    about = _about(reading.webhook, reading.type, packed=reading.packed)
    more = b',"raw":' + _encode(raw.decode("utf-8", "backslashreplace")) if raw else b""
    id_ = b',"messageId":' + _encode(head.message_id) if given else b""
    user = b',"userId":' + _encode(head.user_id) if head.user_id else b""
    start = (
        b'{"type":"webhook","event":'
        + _encode(head.event)
        + id_
        + user
        + b',"context":{"webhook":{'
        + about
        + b"%d" % position
        + more
        + b"}}"
    )
    if is_object and not reading.packed:
        return start + b',"properties":' + value + b"}"
    return start + b',"properties":{"data":' + value + b"}}"


@lru_cache(1024)
def _about(webhook: str, kind: str, *, packed: bool) -> bytes:
    """Returns the members of `context.webhook` up to the place of the payload."""
    members: dict[str, Any] = {"name": webhook, "type": kind, **({"packed": True} if packed else {})}
    return _encode(members)[1:-1] + b',"index":'


def _of_form(body: bytes, kind: str) -> bytes:
    """Returns a form as a JSON object; a name that stands twice has a list. A form that is but `payload` is what that holds."""
    try:
        pairs = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        return _encode(body.decode("utf-8", "replace"))
    fields: dict[str, str | list[str]] = {}
    for name, value in pairs:
        held = fields.get(name)
        if held is None:
            fields[name] = value
        elif isinstance(held, list):
            held.append(value)
        else:
            fields[name] = [held, value]
    payload = fields.get("payload")
    if kind in ("github", "slack") and len(fields) == 1 and isinstance(payload, str) and payload.lstrip()[:1] in ("{", "["):
        return payload.encode()
    return _encode(fields)


def _unless_utf8(body: bytes) -> bytes:
    try:
        body.decode()
    except UnicodeDecodeError:
        return body
    return b""
