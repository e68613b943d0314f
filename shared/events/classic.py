"""The flat event of Jitsu's first generation: which of its members say the same as a member of the canonical event. Pure.

The edge moves the members of `PAGE`, `CONTEXT`, `CAMPAIGN` and `IDS` to their canonical place (`ingest/protocols/jitsu_classic/`);
`as_classic` moves them back for the layout `jitsu_legacy`, for events of all protocols.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

PAGE = {
    "url": "url", "page_title": "title", "doc_path": "path", "doc_host": "host", "doc_search": "search", "referer": "referrer",
    "doc_encoding": "encoding", "local_tz_offset": "timezoneOffset",
}  # fmt: skip
"""Members by their name in `context.page`."""
CONTEXT = {"user_agent": "userAgent", "user_language": "locale"}
"""Members by their name in `context`."""
UNNAMED = "unnamed"
"""The event of a track that the classic form gives no name; `context.jitsu` has the `event_type` that it came with, null for none."""
IDS = {"ids": "clientIds", "click_id": "clickIds"}
CAMPAIGN = {"campaign": "name"}
"""Members of `utm` by their name in `context.campaign`, where they differ."""
ODD = ("user", "utm", "ids", "click_id", "screen_resolution", "vp_size", "src", "eventn_ctx")
"""Members that an event may have in another form than SDKs write, such as `user` as a text: `context.jitsu` keeps them as they came."""
LOCATION = {
    "country": "country", "countryName": "country_name", "continent": "continent", "region": "region", "city": "city",
    "postalCode": "zip", "latitude": "latitude", "longitude": "longitude", "timezone": "timezone",
}  # fmt: skip
PARSED_AGENT = {
    "browser": "ua_family", "browserVersion": "ua_version", "os": "os_family", "osVersion": "os_version",
    "device": "device_family", "deviceBrand": "device_brand", "deviceModel": "device_model",
}  # fmt: skip

_CAMPAIGN_BACK = {ours: name for name, ours in CAMPAIGN.items()}


def as_classic(event: dict[Any, Any]) -> dict[Any, Any]:
    """Returns the flat form of a materialised event, which it takes apart. Properties stay an object, for the caller to lift.

    Members of the event and of its context that the classic form does not know keep their names; if another member has the name,
    they are in the object `event`, beside the event's own `event` if it has one.
    """
    found = event.pop("context", None)
    context: dict[Any, Any] = dict(found) if type(found) is dict else {}
    kind = event.pop("type", None)
    own = _taken(context, "jitsu")
    name = (event.pop("event", None) if kind == "track" else None) or kind
    row: dict[Any, Any] = {
        "eventn_ctx_event_id": event.pop("messageId", None),
        "event_type": own.pop("event_type", name),
        "_timestamp": event.pop("receivedAt", None),
        "utc_time": event.pop("timestamp", None),
    }
    if event.get("originalTimestamp") == row["utc_time"]:
        event.pop("originalTimestamp", None)
    library = context.get("library")
    if type(library) is dict and type(library.get("name")) is str:
        row["src"] = library["name"]
        context["library"] = {name: value for name, value in library.items() if name != "name"}
    ip = context.pop("ip", None)
    if ip is not None:
        row |= {"source_ip": ip, "anon_ip": _anonymous(ip)}
    row["user"] = _user(event, context)
    page = _taken(context, "page")
    row |= {name: page.pop(ours) for name, ours in PAGE.items() if ours in page}
    _complete(row)
    row |= {name: context.pop(ours) for name, ours in CONTEXT.items() if ours in context}
    screen = _taken(context, "screen")
    for name, width, height in (("screen_resolution", "width", "height"), ("vp_size", "innerWidth", "innerHeight")):
        if screen.get(width) is not None and screen.get(height) is not None:
            row[name] = f"{screen.pop(width)}x{screen.pop(height)}"
    row["utm"] = {_CAMPAIGN_BACK.get(name, name): value for name, value in _taken(context, "campaign").items()}
    for name, ours in IDS.items():
        row[name] = _taken(context, ours)
    row["location"] = {LOCATION.get(name, name): value for name, value in _taken(context, "geo").items()}
    row["parsed_ua"] = {PARSED_AGENT.get(name, name): value for name, value in _taken(context, "agent").items()}
    if "bot" in context:
        row["parsed_ua"]["bot"] = context.pop("bot")
    row |= {name: own.pop(name) for name in ODD if name in own}
    rest = {"page": page, "screen": screen, "jitsu": own}
    row["context"] = {**context, **{name: value for name, value in rest.items() if value}}
    taken = {name: value for name, value in event.items() if name in row}
    row |= {name: value for name, value in event.items() if name not in taken}
    if taken:
        there = row.get("event")
        row["event"] = {**(there if type(there) is dict else {} if there is None else {"event": there}), **taken}
    return row


def _complete(row: dict[Any, Any]) -> None:
    """Takes the port off `doc_host`, and adds what only `url` says of host, path and query."""
    host = row.get("doc_host")
    if type(host) is str:
        name, colon, port = host.rpartition(":")
        if colon and port.isdigit() and (":" not in name or name.endswith("]")):
            row["doc_host"] = name
    if "doc_host" in row and "doc_path" in row and "doc_search" in row:
        return
    try:
        parts = urlsplit(row["url"])
        found = {"doc_host": parts.hostname, "doc_path": parts.path, "doc_search": parts.query and f"?{parts.query}"}
    except (KeyError, ValueError, AttributeError, TypeError):  # no address, or none that can be read
        return
    if found["doc_host"]:
        row |= {member: value for member, value in found.items() if value and member not in row}


def _user(event: dict[Any, Any], context: dict[Any, Any]) -> dict[Any, Any]:
    """Takes ids and traits: those of the event win over those of its context."""
    user: dict[Any, Any] = {**_taken(context, "traits"), **_taken(event, "traits")}
    for name, ours in (("anonymous_id", "anonymousId"), ("id", "userId")):
        value = event.pop(ours, None)
        if value is None or (name == "id" in user and str(user.get("internal_id")) == value):  # a classic user with two ids
            continue
        user[name] = value
    return user


def _taken(holder: dict[Any, Any], name: str) -> dict[Any, Any]:
    """Takes an object out of its holder; any other value stays."""
    value = holder.get(name)
    if type(value) is not dict:
        return {}
    del holder[name]
    return dict(value)


def _anonymous(ip: object) -> object:
    """Returns an address without its last part."""
    if type(ip) is not str:
        return None
    start, dot, _ = ip.rpartition(".")
    if dot:
        return f"{start}.0"
    start, colon, _ = ip.rpartition(":")
    return f"{start}:0" if colon else None
