"""A canonical event as a row of Snowplow's `atomic.events`: columns by name, without columns that have no value. Pure.

`unstruct_event_{vendor}_{name}_{model}` and `contexts_{vendor}_{name}_{model}` stand beside the columns of the table: the data of a
self-describing event, and the entities of a schema.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any

import msgspec

from shared.reading.iglu import SchemaName, read_name
from shared.snowplow.addresses import of_page, of_referrer
from shared.snowplow.columns import COLUMNS, OF_PARAMETERS, OF_PLACE, SIZES
from shared.snowplow.values import READERS, size

Event = dict[Any, Any]

VERSION = "penstock"
EVENT_PREFIX, ENTITIES_PREFIX = "unstruct_event_", "contexts_"

_SNOWPLOW = "com.snowplowanalytics.snowplow"
_KINDS = {
    "pv": "page_view", "pp": "page_ping", "ue": "unstruct", "se": "struct", "ev": "struct", "tr": "transaction",
    "ti": "transaction_item", "ad": "ad_impression",
}  # fmt: skip
_SCHEMAS = {name: SchemaName(_SNOWPLOW, name, "jsonschema", "1-0-0") for name in _KINDS.values()}
_SCHEMAS["struct"] = SchemaName("com.google.analytics", "event", "jsonschema", "1-0-0")
_AGENT = f"iglu:{_SNOWPLOW}/ua_parser_context/jsonschema/1-0-0"
_PARAMETERS = tuple((name, column, READERS[COLUMNS[column]]) for name, column in OF_PARAMETERS)
NOBODY = "00000000-0000-0000-0000-000000000000"
NO_ADDRESS = "unknown"
"""The network user id and the address of an event whose sender asks for server-side anonymisation."""
_NOT_IN_FINGERPRINT = ("eid", "nuid", "stm", "cv")
_ELSEWHERE = frozenset({"messageId", "receivedAt", "timestamp", "originalTimestamp", "sentAt", "integrations"})
_MOBILE = frozenset({"iOS", "Android", "Windows Phone"})
_encode = msgspec.json.Encoder(decimal_format="number", enc_hook=str, order="sorted").encode


def row_of(event: Event) -> Event:
    """Returns the columns of an event."""
    context = _object(event.get("context"))
    sent = _object(context.get("snowplow"))
    get = sent.get
    received = event.get("receivedAt")
    row: Event = {
        "event_id": event.get("messageId"),
        "collector_tstamp": received,
        "etl_tstamp": received,
        "v_collector": get("cv") or VERSION,
        "v_etl": VERSION,
        "user_id": event.get("userId"),
        "domain_userid": event.get("anonymousId") if get("duid") or not sent else None,
        "user_ipaddress": get("ip") or context.get("ip") or (NO_ADDRESS if get("nuid") == NOBODY else None),
        "useragent": get("ua") or context.get("userAgent"),
    }
    for name, column, read in _PARAMETERS:
        value = get(name)
        if value is not None:
            row[column] = read(value)
    if not sent:
        _foreign(row, event, context)
    for name, (width, height) in SIZES.items():
        found = size(get(name))
        if found is not None:
            row[width], row[height] = found
    _addresses(row)
    _event(row, event, get("schema"), _KINDS.get(get("e") or ""))
    entities = get("contexts")
    if type(entities) is list and entities:
        row["contexts"] = entities
        _entities(row, entities)
    _facts(row, context, header_agent=not get("ua"))
    row["derived_tstamp"] = _derived(row, received)
    if sent:
        row["event_fingerprint"] = _fingerprint(event, sent)
    return {column: value for column, value in row.items() if value is not None}


def _event(row: Event, event: Event, uri: Any, kind: str | None) -> None:
    """Fills the columns of an event's kind, and those of a self-describing one."""
    properties = event.get("properties")
    if kind is None:
        kind = "page_view" if event.get("type") == "page" else "unstruct"
        row["unstruct_event"] = _whole_event(event)
    row["event"] = kind
    schema = read_name(uri) if type(uri) is str else None
    if kind != "unstruct":
        schema = _SCHEMAS[kind]
    elif schema is None:
        row["event_name"] = event.get("event") or event.get("type")
        return
    else:
        data = {} if properties is None else properties
        row["unstruct_event"] = {"schema": uri, "data": data}
        row[EVENT_PREFIX + _suffix(schema)] = data
    row["event_vendor"], row["event_name"], row["event_format"], row["event_version"] = schema


def _entities(row: Event, entities: list[Any]) -> None:
    """Fills a column for each schema."""
    for entity in entities:
        schema = read_name(entity["schema"]) if type(entity) is dict and type(entity.get("schema")) is str else None
        if schema is not None:
            data = entity.get("data")
            version = {"_schema_version": schema.version}
            kept = {**version, **data} if type(data) is dict else {**version, "data": data}
            row.setdefault(ENTITIES_PREFIX + _suffix(schema), []).append(kept)


def _suffix(schema: SchemaName) -> str:
    return f"{schema.vendor}_{schema.name}_{schema.model}"


def _addresses(row: Event) -> None:
    url, referrer = row.get("page_url"), row.get("page_referrer")
    if type(url) is str:
        row.update(of_page(url))
    if type(referrer) is str:
        row.update(of_referrer(referrer, row.get("page_urlhost")))


def _facts(row: Event, context: Event, *, header_agent: bool) -> None:
    """Fills what the edge knows: place, browser and system."""
    for name, column in OF_PLACE.items():
        row[column] = _object(context.get("geo")).get(name)
    agent = _object(context.get("agent"))
    if not agent or not header_agent:
        return
    browser, system = agent.get("browser"), agent.get("os")
    row["br_name"] = row["br_family"] = browser
    row["br_version"], row["os_name"], row["os_family"] = agent.get("browserVersion"), system, system
    row["dvce_ismobile"] = system in _MOBILE if system else None
    derived = {
        "useragentFamily": browser,
        **_version("useragent", browser, agent.get("browserVersion")),
        "osFamily": system,
        **_version("os", system, agent.get("osVersion")),
        "deviceFamily": agent.get("device"),
    }
    entity = {"schema": _AGENT, "data": {name: value for name, value in derived.items() if value is not None}}
    row["derived_contexts"] = [entity]
    _entities(row, [entity])


def _version(prefix: str, family: Any, version: Any) -> dict[str, str]:
    if type(version) is not str or type(family) is not str:
        return {}
    parts = dict(zip((f"{prefix}Major", f"{prefix}Minor", f"{prefix}Patch"), version.split("."), strict=False))
    return {**parts, f"{prefix}Version": f"{family} {version}"}


def _derived(row: Event, received: Any) -> Any:
    """Returns when the event happened by the server's clock."""
    true, created, sent = (row.get(name) for name in ("true_tstamp", "dvce_created_tstamp", "dvce_sent_tstamp"))
    if type(true) is datetime:
        return true
    if type(created) is datetime and type(sent) is datetime and type(received) is datetime and created < sent:
        try:
            return received - (sent - created)
        except OverflowError:
            return received
    return received


def _foreign(row: Event, event: Event, context: Event) -> None:
    """Fills columns of an event that no Snowplow tracker sent."""
    page = _object(context.get("page"))
    properties = _object(event.get("properties"))
    row["page_url"] = page.get("url") or properties.get("url")
    row["page_title"] = page.get("title") or properties.get("title")
    row["page_referrer"] = page.get("referrer") or properties.get("referrer")
    row["br_lang"], row["os_timezone"] = context.get("locale"), context.get("timezone")
    library = _object(context.get("library"))
    row["v_tracker"] = "-".join(str(each) for each in (library.get("name"), library.get("version")) if each) or None
    row["dvce_created_tstamp"], row["dvce_sent_tstamp"] = event.get("originalTimestamp"), event.get("sentAt")


def _whole_event(event: Event) -> Event:
    """Returns all that a sender of another protocol said, `data` being the properties."""
    kept = {key: value for key, value in event.items() if key not in _ELSEWHERE and value is not None}
    return {"data": kept.pop("properties", {}), **kept}


def _fingerprint(event: Event, sent: Event) -> str:
    """Returns a hash of all that the tracker said about an event, but for its id and the time of sending."""
    said = {name: value for name, value in sent.items() if name not in _NOT_IN_FINGERPRINT}
    return hashlib.md5(_encode([said, event.get("properties")]), usedforsecurity=False).hexdigest()


def _object(value: Any) -> Event:
    return value if type(value) is dict else {}
