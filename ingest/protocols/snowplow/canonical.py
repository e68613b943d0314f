"""One event of Snowplow's protocol as a canonical event: parameters in, head and body out, or the fault. Pure.

`page_view` is a `page`; all others are `track` with the name that Snowplow gives them. `context.snowplow` keeps every parameter
as text under its own name, `nuid` being the network user id that counts. Two kinds of parameters are decoded: `ue_pr` or `ue_px`
becomes the event's name, its `properties` and `context.snowplow.schema`; `co` or `cx` becomes `context.snowplow.contexts`.

A wrong value of a parameter stays as text and costs its column alone. Self-describing JSON that cannot be read is a fault.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import msgspec

from ingest.clients.address import treat_address
from ingest.contract import Admission
from ingest.judge.ids import is_visible, repaired
from ingest.judge.mend import Fault
from ingest.judge.verdicts import MAX_ID_CHARACTERS
from ingest.protocols.snowplow.described import Described, check, fault, read_entities, read_event, text_of
from ingest.protocols.snowplow.identity import ANONYMOUS, as_uuid
from shared.events.frame import Head
from shared.events.outcome import DeadReason

EVENTS = {
    "pv": "page_view", "pp": "page_ping", "ue": "unstruct", "se": "struct", "ev": "struct",
    "tr": "transaction", "ti": "transaction_item", "ad": "ad_impression",
}  # fmt: skip
"""The events by their code in `e`."""

_PAGE_PING = {"pp_mix": "x_offset_min", "pp_max": "x_offset_max", "pp_miy": "y_offset_min", "pp_may": "y_offset_max"}
_STRUCT = {"se_ca": "category", "se_ac": "action", "se_la": "label", "se_pr": "property", "se_va": "value"}
_TRANSACTION = {
    "tr_id": "order_id", "tr_af": "affiliation", "tr_tt": "total", "tr_tx": "tax", "tr_sh": "shipping", "tr_ci": "city",
    "tr_st": "state", "tr_co": "country", "tr_cu": "currency",
}  # fmt: skip
_ITEM = {
    "ti_id": "order_id", "ti_sk": "sku", "ti_na": "name", "ti_nm": "name", "ti_ca": "category", "ti_pr": "price",
    "ti_qu": "quantity", "ti_cu": "currency",
}  # fmt: skip
_PROPERTIES = {
    "page_ping": _PAGE_PING, "struct": {**{name.replace("se_", "ev_"): key for name, key in _STRUCT.items()}, **_STRUCT},
    "transaction": _TRANSACTION, "transaction_item": _ITEM,
    "ad_impression": {"ad_ba": "banner_id", "ad_ca": "campaign_id", "ad_ad": "advertiser_id", "ad_uid": "user_id"},
}  # fmt: skip
_NUMBERS = frozenset({"value", "total", "tax", "shipping", "price", "quantity", *_PAGE_PING.values()})
_NUMBER = re.compile(r"[+-]?\d{1,15}(?:\.\d{1,12})?", re.ASCII)
_SIZE = re.compile(r"(\d{1,7})x(\d{1,7})", re.ASCII)
_LONGEST_URL = 8192
_LONGEST_SIZE = 15
_PLAIN_URL = re.compile(r"https?://[a-zA-Z0-9_.:-]++(/[!\"$->@-~]*+)?(?:(\?[!\"$-~]++)|\?)?(?:#[!-~]*+)?")
"""An address without anything that `urlsplit` treats in a way of its own, such as blanks, brackets in the host and other letters."""

_encode = msgspec.json.Encoder().encode


def canonical(
    parameters: dict[str, Any], network_id: str, admission: Admission, new_id: Callable[[], str], notes: list[str]
) -> tuple[Head, bytes, bool] | Fault:
    """Returns the head and the body of an event, and whether its id is new.

    Args:
        parameters: as sent; taken apart.
        network_id: the id of the request; the event's own `tnuid` or `nuid` wins over it.
        admission: the site's rules.
        new_id: makes an id.
        notes: takes what is odd about its schemas (`described.check`).
    """
    limits, schemas = admission.limits, admission.schemas
    kind = EVENTS.get(parameters.get("e") or "")
    if kind is None:
        code = parameters.get("e")
        if not code:
            return Fault(DeadReason.MISSING_TYPE, "the event has no `e`, the code of its type")
        return Fault(DeadReason.UNKNOWN_TYPE, f"`e` is {str(code)[:100]!r}, expected one of {', '.join(EVENTS)}")
    described = text_of(parameters, "ue_pr", "ue_px", limits) if "ue_pr" in parameters or "ue_px" in parameters else None
    entities = text_of(parameters, "co", "cx", limits) if "co" in parameters or "cx" in parameters else None
    if isinstance(described, Fault) or isinstance(entities, Fault):
        return described if isinstance(described, Fault) else entities  # type: ignore[return-value]  # one of both is
    snowplow: dict[str, Any] = parameters
    name, properties = kind, None
    if kind == "unstruct":
        if described is None:
            return fault("`ue_pr` and `ue_px` are missing: a self-describing event needs one of them")
        found = read_event(*described)
        if isinstance(found, Fault):
            return found
        if schemas is not None and (fault_ := check(schemas, found[1], notes)):
            return fault_
        name, properties = found[0].name, _object(found[1])
        snowplow["schema"] = found[1].schema
    elif described is not None:
        snowplow["ue_pr"] = described[1].decode("utf-8", "replace")
    if entities is not None:
        contexts = read_entities(*entities)
        if isinstance(contexts, Fault):
            return contexts
        for each in contexts if schemas is not None else ():
            if schemas is not None and (fault_ := check(schemas, each, notes)):
                return fault_
        if contexts:
            snowplow["contexts"] = contexts
    return _event(
        kind=kind, name=name, properties=properties, snowplow=snowplow, network_id=network_id, admission=admission, new_id=new_id
    )


def _event(
    *,
    kind: str,
    name: str,
    properties: Any,
    snowplow: dict[str, Any],
    network_id: str,
    admission: Admission,
    new_id: Callable[[], str],
) -> tuple[Head, bytes, bool] | Fault:
    get = snowplow.get
    if get("ip"):
        address = None if network_id == ANONYMOUS else treat_address(_first(snowplow.pop("ip")), admission.ip)
        if address is not None:
            snowplow["ip"] = address
        else:
            snowplow.pop("ip", None)
    network_id = snowplow["nuid"] = network_id if network_id == ANONYMOUS else get("tnuid") or get("nuid") or network_id
    user_id = get("uid")
    anonymous_id = get("duid") or (network_id if network_id != ANONYMOUS else None)
    message_id: str = get("eid") or ""
    made = False
    if not "!" <= message_id < "\x7f" and not is_visible(message_id):  # nearly every text begins with a visible ASCII character
        message_id, made = as_uuid(new_id()), True
    elif len(message_id) == len(ANONYMOUS):
        message_id = message_id.lower()
    if len(message_id) + len(user_id or "") + len(anonymous_id or "") > MAX_ID_CHARACTERS:
        for key, value in (("eid", message_id), ("uid", user_id), ("duid", anonymous_id)):
            if value is not None and len(value) > MAX_ID_CHARACTERS:
                return Fault(DeadReason.TOO_LARGE, f"`{key}` has {len(value)} characters, the limit is {MAX_ID_CHARACTERS}")
    url, title, referrer = get("url"), get("page"), get("refr")
    page = _page(url, title, referrer) if url or title or referrer else None
    body: dict[str, Any] = {}
    if kind == "page_view":
        type_, event = "page", None
        if title:
            body["name"] = title
        properties = page
    else:
        type_, event = "track", name
        body["event"] = name
        if kind != "unstruct":
            properties = _named(snowplow, _PROPERTIES.get(kind, {}))
    if user_id is not None:
        body["userId"] = user_id
    if anonymous_id is not None:
        body["anonymousId"] = anonymous_id
    at = ("ttm" in snowplow and time_of(get("ttm"))) or time_of(get("dtm"))
    if at is not None:
        body["timestamp"] = at
    if properties is not None:
        body["properties"] = properties
    body["context"] = _context(snowplow, page)
    try:
        written = _encode(body)
    except (UnicodeError, ValueError) as exc:
        return fault(f"a parameter is no text: {exc}")
    if len(written) > admission.limits.event_bytes:
        return Fault(DeadReason.TOO_LARGE, f"the event has {len(written)} bytes, the limit is {admission.limits.event_bytes}")
    if user_id is not None and not "!" <= user_id < "\x7f" and not is_visible(user_id):
        user_id = None
    if anonymous_id is not None and not "!" <= anonymous_id < "\x7f" and not is_visible(anonymous_id):
        anonymous_id = None
    if "\0" in message_id:
        message_id = repaired(message_id)
    return Head(message_id, type_, event, user_id, anonymous_id=anonymous_id), written, made


def time_of(value: Any) -> str | None:
    """Returns milliseconds since 1970 as RFC 3339, None if the text is no such number."""
    if value.__class__ is not str or not 9 <= len(value) <= 15 or not value.isascii() or not value.isdigit():
        return None
    second = _second(value[:-3])
    return second and f"{second}.{value[-3:]}Z"


@lru_cache(1024)
def _second(text: str) -> str | None:
    seconds = int(text)
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") if seconds < 253_402_300_800 else None
    except (ValueError, OverflowError, OSError):
        return None


def _context(snowplow: dict[str, Any], page: dict[str, str] | None) -> dict[str, Any]:
    get = snowplow.get
    context: dict[str, Any] = {} if page is None else {"page": page}
    if value := get("lang"):
        context["locale"] = value
    if value := get("tz"):
        context["timezone"] = value
    if value := get("ip"):
        context["ip"] = value
    if value := get("ua"):
        context["userAgent"] = value
    size = get("res")
    if size and len(size) <= _LONGEST_SIZE and (screen := _screen(size)) is not None:
        context["screen"] = screen
    version = get("tv")
    if version:
        context["library"] = {"name": "snowplow", "version": version}
    context["snowplow"] = snowplow
    return context


@lru_cache(1024)
def _screen(size: str) -> Mapping[str, int] | None:
    """Returns a size such as `1920x1080` as width and height."""
    found = _SIZE.fullmatch(size)
    return {"width": int(found[1]), "height": int(found[2])} if found else None


def _page(url: str | None, title: str | None, referrer: str | None) -> dict[str, str]:
    page: dict[str, str] = {}
    if title:
        page["title"] = title
    if url:
        page["url"] = url
        path, search = _parts(url) if len(url) <= _LONGEST_URL else (None, None)
        if path:
            page["path"] = path
        if search:
            page["search"] = search
    if referrer:
        page["referrer"] = referrer
    return page


def _parts(url: str) -> tuple[str | None, str | None]:
    """Returns path and query of an address, None for an empty one."""
    plain = _PLAIN_URL.fullmatch(url)
    if plain:  # nearly all
        return plain[1] or None, plain[2] or None
    try:
        parts = urlsplit(url)
    except ValueError:
        return None, None
    return parts.path or None, f"?{parts.query}" if parts.query else None


def _named(snowplow: dict[str, Any], names: dict[str, str]) -> dict[str, Any] | None:
    found: dict[str, Any] = {}
    for parameter, name in names.items():
        value = snowplow.get(parameter)
        if value:
            found[name] = _number(value) if name in _NUMBERS else value
    return found or None


def _number(text: str) -> float | int | str:
    if not _NUMBER.fullmatch(text):
        return text
    return float(text) if "." in text else int(text)


def _object(described: Described) -> Any:
    data = bytes(described.data)
    return described.data if data[:1] == b"{" else {"value": described.data}


def _first(text: Any) -> str | None:
    """Returns an address up to the first comma, pipe or blank."""
    return re.split(r"[,| ]", str(text), maxsplit=1)[0] or None
