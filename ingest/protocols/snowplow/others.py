"""Events that are no tracker's: self-describing JSON of a webhook, and the address of a redirect. Pure; both become parameters.

`/com.snowplowanalytics.iglu/v1` names its schema in the query, or the body describes itself. An array is many events. Of a query
only `aid`, `cv`, `eid`, `nuid`, `p`, `ttm` and `url` are parameters of the protocol; all others are data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from ingest.contract import Admission, Refusal
from ingest.judge.batch import cut_events
from ingest.judge.mend import Fault
from ingest.protocols.snowplow.described import Described, read_entities, text_of
from ingest.protocols.snowplow.payload import Parameters, own_id
from shared.project.model import SiteLimits
from shared.project.snowplow import ANY_SUBDOMAIN
from shared.reading.iglu import read_name

WRAPPER = "iglu:com.snowplowanalytics.snowplow/unstruct_event/jsonschema/1-0-0"
ENTITIES = "iglu:com.snowplowanalytics.snowplow/contexts/jsonschema/1-0-1"
REDIRECT = "iglu:com.snowplowanalytics.snowplow/uri_redirect/jsonschema/1-0-0"
WEBHOOK_VERSION, REDIRECT_VERSION = "com.snowplowanalytics.iglu-v1", "r-tp2"
MAX_FIELDS = 1_000
LONGEST_ADDRESS = 8_192
_HOST = re.compile(r"(?:[a-z0-9_-]+\.)*[a-z0-9_-]+|[0-9a-f:.]*:[0-9a-f:.]*")
"""A name or an address of IPv6. Browsers decode `%2f` in a host and end it there; other letters some of them refuse."""

_OF_PROTOCOL = ("aid", "cv", "eid", "nuid", "p", "ttm", "url")
_encode = msgspec.json.Encoder().encode


_decode_described = msgspec.json.Decoder(Described).decode
_check = msgspec.json.Decoder(msgspec.Raw).decode


def read_webhook(body: bytes, query: Mapping[str, str], form: bool, most: int) -> list[Parameters] | Refusal:
    """Returns the events of a request to the webhook of Iglu.

    Args:
        body: in UTF-8.
        query: without keys of sites.
        form: the body is a form, by its content type.
        most: of more events than this, some more are returned.
    """
    given = {name: query[name] for name in _OF_PROTOCOL if query.get(name)}
    base: Parameters = {"e": "ue", "tv": WEBHOOK_VERSION, "p": "srv" if form else "app", **given}
    schema = query.get("schema")
    data: list[Any]
    try:
        if form:
            data = [dict(parse_qsl(body.decode("utf-8", "replace"), max_num_fields=MAX_FIELDS))]
        elif not body.strip():
            data = [{name: value for name, value in query.items() if name != "schema" and name not in _OF_PROTOCOL}]
        else:
            if schema is None:
                described = _decode_described(body)
                schema, body = described.schema, bytes(described.data)
            data = _several(body, most)
    except msgspec.ValidationError as exc:
        return Refusal(400, "invalid_batch", f'expected {{"schema": "iglu:…", "data": …}}, or `schema` in the query: {exc}')
    except (msgspec.MsgspecError, UnicodeError, ValueError, RecursionError) as exc:
        return Refusal(400, "invalid_json", f"the body cannot be read: {exc}")
    if schema is None or read_name(schema) is None:
        return Refusal(400, "invalid_batch", f"`schema` is {(schema or '')[:200]!r}, expected iglu:vendor/name/jsonschema/1-0-0")
    found = [{**base, "ue_pr": _text({"schema": WRAPPER, "data": {"schema": schema, "data": each}})} for each in data]
    if "eid" in base:
        for index, event in enumerate(found):
            event["eid"] = own_id(base["eid"], index)
    return found


def read_redirect(query: Parameters, limits: SiteLimits) -> Parameters:
    """Returns the event of a redirect: that of its query with one entity more, or of the address alone."""
    described = {"schema": REDIRECT, "data": {"uri": query.get("u")}}
    rest: Parameters = {"p": "web", **query, "tv": REDIRECT_VERSION}
    if not query.get("e"):
        return {**rest, "e": "ue", "ue_pr": _text({"schema": WRAPPER, "data": described})}
    left = dict(rest)
    packed = text_of(left, "co", "cx", limits)
    entities = [] if packed is None else packed if isinstance(packed, Fault) else read_entities(*packed)
    if isinstance(entities, Fault):
        return rest  # the fault is found again, and named
    return {**left, "co": _text({"schema": ENTITIES, "data": [*entities, described]})}


def target_of(query: Mapping[str, str], admission: Admission) -> str | Refusal:
    """Returns the address that a redirect goes to, if the site allows its host."""
    allowed = admission.snowplow.redirect_hosts
    if not allowed:
        return admission.refuse(404, "unknown_path", "this site redirects nowhere; list hosts in its `snowplow.redirect_hosts`")
    address = query.get("u", "")
    host = _host_of(address)
    if host is None:
        return admission.refuse(400, "bad_request", "`u` is no address of http or https, without user and with printable letters")
    for each in allowed:
        bare = each.lower().removeprefix(ANY_SUBDOMAIN)
        if host == each.lower() or (bare != each.lower() and host.endswith(f".{bare}")):
            return address
    return admission.refuse(400, "bad_request", f"{host[:200]!r} is not among the site's `snowplow.redirect_hosts`")


def _host_of(address: str) -> str | None:
    """Returns the host that every browser reads out of an address; None if one could read another."""
    if len(address) > LONGEST_ADDRESS or "\\" in address or not all("!" <= each <= "~" for each in address):
        return None
    try:
        parts = urlsplit(address)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        return None
    if (
        parts.scheme not in ("http", "https")
        or not host
        or not _HOST.fullmatch(host)
        or "@" in parts.netloc
        or not address.lower().startswith(f"{parts.scheme}://")
    ):
        return None
    return host


def _several(body: bytes, most: int) -> list[Any]:
    if body.lstrip()[:1] == b"[":
        return [msgspec.Raw(each) for each in cut_events(body, most)]
    return [_check(body)]


def _text(value: Any) -> str:
    return str(_encode(value).decode())
