"""Events to Amplitude's HTTP V2 API, users and groups to its Identify APIs.

https://amplitude.com/docs/apis/analytics/http-v2, https://amplitude.com/docs/apis/analytics/identify,
https://amplitude.com/docs/apis/analytics/group-identify

`insert_id` is the `messageId`; Amplitude forgets an event that repeats one of the last seven days.

Known traps: 400 refuses the whole call for one wrong event, so the core halves the call until it finds that event. 429 names the
users and devices with too many events; only if it names none, all calls wait. A wrong key gets 400, not 401.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal
from urllib.parse import urlencode

from msgspec import Meta

from loader.calls import fields
from loader.calls.answers import retry_after, words_of
from loader.calls.batches import Batch, Piece, array, batched, encode, post
from loader.calls.moments import happened, millis
from loader.calls.options import Batching, address, send_limits
from loader.calls.verdicts import JSON_TYPE, alike, held_up, said, verdict
from loader.cloud import Service
from loader.contract.events import Call, Calls, EventCapabilities, EventDestination, Response
from loader.contract.warehouse import Environment
from shared.events.event import JSON
from shared.events.outcome import Drop, DropReason, Outcome, Retry

HOSTS = {"us": "https://api2.amplitude.com", "eu": "https://api.eu.amplitude.com"}
BATCH = Batch(events=1_000, bytes=1_000_000, event_bytes=900_000)
IDENTIFIES = 10
"""The share of a batch that a change of a user takes: a hundred in a call, because form data is long."""
THROTTLED_SECONDS = 30.0
"""How long Amplitude asks to leave a throttled user alone."""

NAMED = (
    "throttled_users",
    "throttled_devices",
    "throttled_events",
    "exceeded_daily_quota_users",
    "exceeded_daily_quota_devices",
)
"""Parts of a 429 that name the users who sent too much."""

FIELDS: fields.Table = {
    "app_version": ("context.app.version",),
    "platform": ("context.device.type", "context.os.name"),
    "os_name": ("context.os.name",),
    "os_version": ("context.os.version",),
    "device_brand": ("context.device.brand",),
    "device_manufacturer": ("context.device.manufacturer",),
    "device_model": ("context.device.model",),
    "carrier": ("context.network.carrier",),
    "country": ("context.geo.country", "context.location.country"),
    "region": ("context.geo.region", "context.location.region"),
    "city": ("context.geo.city", "context.location.city"),
    "language": ("context.locale",),
    "ip": fields.IP,
    "idfa": ("context.idfa",),
    "idfv": ("context.idfv",),
    "adid": ("context.adid",),
    "user_agent": fields.USER_AGENT,
    "session_id": ("integrations.Amplitude.session_id", "integrations.Actions Amplitude.session_id"),
}
EVENTS_ONLY = frozenset({"ip", "idfa", "idfv", "adid", "user_agent", "session_id", "carrier"})
"""Fields that the Identify API does not know."""
MONEY: fields.Table = {
    "price": ("properties.price",),
    "quantity": ("properties.quantity",),
    "revenue": ("properties.revenue", "properties.total"),
}
PRODUCT: fields.Table = {
    "productId": ("properties.product_id", "properties.productId", "properties.sku"),
    "revenueType": ("properties.revenue_type", "properties.revenueType"),
    "currency": ("properties.currency",),
}


class Options(Batching, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of Amplitude."""

    api_key: Annotated[str, Meta(min_length=1, extra={"secret": True}, description="API key of the project")]
    region: Annotated[Literal["us", "eu"], Meta(description="where the project keeps its data")] = "us"
    group_type: Annotated[str, Meta(min_length=1, description="the type that groups have in Amplitude")] = "company"


OPTIONS = Options
CAPABILITIES = EventCapabilities()


async def open_destination(name: str, options: Options, environment: Environment) -> EventDestination:  # noqa: ARG001
    """Returns the destination; connects to nothing yet."""
    return Amplitude(options)


class Amplitude(Service):
    """One project."""

    def __init__(self, options: Options) -> None:
        super().__init__(send_limits(options, BATCH.events))
        self._key = options.api_key
        self._group_type = options.group_type
        self._address = address(options, HOSTS[options.region])

    def calls(self, events: Sequence[JSON], at: float) -> Calls:
        return batched(events, lambda event: self._piece(event, at), self._call, BATCH)

    def answer(self, call: Call, response: Response) -> Sequence[Outcome]:
        answered = said(response)
        if response.status == 429:
            asked = retry_after(response)
            after = THROTTLED_SECONDS if asked is None else asked
            named = any(answered.get(key) for key in NAMED)
            return alike(call, Retry(words_of(response), after, everyone=not named))
        error = answered.get("error") if answered else response.body.decode("utf-8", "replace")
        if response.status == 400 and re.search("api[_ ]key", str(error), re.IGNORECASE):
            return alike(call, held_up(words_of(response)))
        events = call.url.endswith("/httpapi")
        return alike(call, verdict(response, form="object or nothing" if events else "text"))

    def trial(self) -> Call | str:
        """A batch without events, which Amplitude refuses; a wrong key it refuses in other words."""
        return self._call("events", (), (0,))

    def _call(self, target: str, pieces: Sequence[Piece], places: Sequence[int]) -> Call:
        if target == "events":
            body = b'{"api_key":' + encode(self._key) + b',"events":' + array(pieces) + b',"options":{"min_id_length":1}}'
            return post(f"{self._address}/2/httpapi", {"Content-Type": JSON_TYPE}, body, places)
        form = urlencode({"api_key": self._key, "identification": array(pieces).decode()})
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return post(f"{self._address}/{target}", headers, form.encode(), places)

    def _piece(self, event: JSON, at: float) -> Piece | Drop:
        kind = event.get("type")
        who = {key: value for key, value in (("user_id", fields.user_id(event)), ("device_id", _device(event))) if value}
        if kind == "group":
            group = fields.text(event.get("groupId"))
            if not group:
                return Drop(DropReason.UNIDENTIFIED)
            traits = {"group_type": self._group_type, "group_value": group, "group_properties": fields.object_at(event, "traits")}
            return Piece("groupidentify", encode(traits), weight=IDENTIFIES)
        if kind not in ("track", "page", "screen", "identify"):
            return Drop(DropReason.UNSUPPORTED)
        if not who:
            return Drop(DropReason.UNIDENTIFIED)
        if kind == "identify":
            known = {key: value for key, value in fields.filled(event, FIELDS).items() if key not in EVENTS_ONLY}
            made = {**who, **known, "user_properties": fields.object_at(event, "traits")}
            return Piece("identify", encode(made), weight=IDENTIFIES)
        name = fields.name_of(event)
        if not name:
            return Drop(DropReason.UNSUPPORTED)
        made = {
            **who,
            "event_type": name,
            "time": millis(happened(event, at)),
            "insert_id": fields.text(event.get("messageId")),
            **fields.filled(event, FIELDS),
            "event_properties": fields.properties_of(event),
            "library": "penstock",
        }
        money = {key: found for key, paths in MONEY.items() if (found := fields.first_number(event, paths)) is not None}
        if "revenue" in money or "price" in money:
            made |= money | fields.filled(event, PRODUCT)
        group = fields.text(fields.lookup(event, "context.groupId"))
        if group:
            made["groups"] = {self._group_type: group}
        return Piece("events", encode(made))


def _device(event: JSON) -> str:
    return fields.text(fields.lookup(event, "context.device.id")) or fields.anonymous_id(event)
