"""Events to Google Analytics 4, by the Measurement Protocol.
https://developers.google.com/analytics/devguides/collection/protocol/ga4/reference

One event a call, because the ids and the time of a call hold for all its events. Names follow Google's recommendations
(https://developers.google.com/analytics/devguides/collection/ga4/reference/events); Segment's names of e-commerce become
Google's, and `products` become `items`.

Known traps: every call gets 204, also with a wrong secret or a wrong event. So this module mends or leaves out faulty parts:
names with other characters, too many parameters, texts that are too long, and events older than 72 hours. Google has no id for
events; only purchases are recognised, by `transaction_id`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated
from urllib.parse import urlencode

from msgspec import Meta

from loader.calls import fields
from loader.calls.batches import Batch, Piece, batched, encode, post
from loader.calls.moments import age, happened
from loader.calls.options import Sending, address, require, send_limits
from loader.calls.verdicts import JSON_TYPE, alike, verdict
from loader.cloud import Service
from loader.contract.events import Call, Calls, EventCapabilities, EventDestination, Response
from loader.contract.warehouse import Environment
from shared.events.event import JSON, micros
from shared.events.outcome import Drop, DropReason, Outcome

HOST = "https://www.google-analytics.com"
BATCH = Batch(events=1, bytes=130_000, event_bytes=130_000, around=0)
OLDEST_SECONDS = 72 * 3600.0
MOST_PARAMETERS, MOST_NAME, MOST_VALUE = 25, 40, 100
MOST_USER_PROPERTIES, MOST_USER_NAME, MOST_USER_VALUE = 25, 24, 36

NAMES = {
    "Order Completed": "purchase",
    "Order Refunded": "refund",
    "Product Added": "add_to_cart",
    "Product Removed": "remove_from_cart",
    "Product Viewed": "view_item",
    "Product Clicked": "select_item",
    "Product List Viewed": "view_item_list",
    "Product Added to Wishlist": "add_to_wishlist",
    "Products Searched": "search",
    "Cart Viewed": "view_cart",
    "Checkout Started": "begin_checkout",
    "Payment Info Entered": "add_payment_info",
    "Promotion Viewed": "view_promotion",
    "Promotion Clicked": "select_promotion",
    "Signed Up": "sign_up",
    "Signed In": "login",
}
"""Names of events in Segment's specification, and the names that Google recommends."""
PARAMETERS: fields.Table = {
    "transaction_id": ("properties.order_id", "properties.orderId"),
    "value": ("properties.total", "properties.revenue", "properties.value"),
    "tax": ("properties.tax",),
    "shipping": ("properties.shipping",),
    "coupon": ("properties.coupon",),
    "currency": ("properties.currency",),
    "search_term": ("properties.query",),
    "page_location": fields.URL,
    "page_referrer": fields.REFERRER,
    "page_title": fields.TITLE,
    "screen_name": (),
    "session_id": ("properties.session_id", "context.clientIds.ga4.sessionId", "context.sessionId"),
    "engagement_time_msec": ("properties.engagement_time_msec",),
}
TAKEN = frozenset({"order_id", "orderId", "total", "revenue", "query", "url", "path", "referrer", "title", "search", "products"})
"""Properties that became parameters with other names."""
ITEM: fields.Table = {
    "item_id": ("product_id", "productId", "sku"),
    "item_name": ("name",),
    "item_brand": ("brand",),
    "item_category": ("category",),
    "item_variant": ("variant",),
    "coupon": ("coupon",),
    "index": ("position",),
    "price": ("price",),
    "quantity": ("quantity",),
}
RESERVED = frozenset(
    [
        "ad_activeview",
        "ad_click",
        "ad_exposure",
        "ad_query",
        "ad_reward",
        "adunit_exposure",
        "app_clear_data",
        "app_exception",
        "app_install",
        "app_remove",
        "app_store_refund",
        "app_store_subscription_cancel",
        "app_store_subscription_renew",
        "app_update",
        "app_upgrade",
        "click",
        "error",
        "file_download",
        "first_open",
        "first_visit",
        "form_start",
        "form_submit",
        "in_app_purchase",
        "notification_dismiss",
        "notification_foreground",
        "notification_open",
        "notification_receive",
        "os_update",
        "scroll",
        "session_start",
        "user_engagement",
        "video_complete",
        "video_progress",
        "video_start",
        "view_complete",
        "view_search_results",
    ]
)
"""Names that Google keeps for itself; it drops a client's event of such a name (https://support.google.com/analytics/answer/13316687)."""
RESERVED_TRAITS = frozenset(
    ["first_open_after_install", "first_open_time", "first_visit_time", "last_deep_link_referrer", "user_id"]
)
"""Names of user properties that Google keeps for itself (https://developers.google.com/analytics/devguides/collection/protocol/ga4/user-properties)."""
RESERVED_PREFIX = re.compile(r"^(ga|google|firebase)_", re.IGNORECASE)


class Options(Sending, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of GA4. `endpoint` is `https://region1.google-analytics.com` for data that must be collected in the EU."""

    measurement_id: Annotated[str, Meta(description="measurement ID of the web stream (G-…)")]
    api_secret: Annotated[str, Meta(min_length=1, extra={"secret": True}, description="API secret of the stream")]

    def __post_init__(self) -> None:
        super().__post_init__()
        require("measurement_id", self.measurement_id, "[A-Za-z0-9-]+", "an ID such as G-ABC123")


OPTIONS = Options
CAPABILITIES = EventCapabilities()


async def open_destination(name: str, options: Options, environment: Environment) -> EventDestination:  # noqa: ARG001
    """Returns the destination; connects to nothing yet."""
    return GA4(options)


class GA4(Service):
    """One web stream."""

    def __init__(self, options: Options) -> None:
        super().__init__(send_limits(options))
        query = urlencode({"measurement_id": options.measurement_id, "api_secret": options.api_secret})
        self._url = f"{address(options, HOST)}/mp/collect?{query}"

    def calls(self, events: Sequence[JSON], at: float) -> Calls:
        def wrap(_target: str, pieces: Sequence[Piece], places: Sequence[int]) -> Call:
            return post(self._url, {"Content-Type": JSON_TYPE}, pieces[0].body, places)

        return batched(events, lambda event: _piece(event, at), wrap, BATCH)

    def answer(self, call: Call, response: Response) -> Sequence[Outcome]:
        return alike(call, verdict(response, form="text"))


def _piece(event: JSON, at: float) -> Piece | Drop:
    name = _name(event)
    if not name:
        return Drop(DropReason.UNSUPPORTED)
    client = fields.first_text(event, ("context.clientIds.ga4.clientId", "anonymousId", "userId"))
    if not client:
        return Drop(DropReason.UNIDENTIFIED)
    moment = happened(event, at)
    if age(moment, at) > OLDEST_SECONDS:
        return Drop(DropReason.TOO_OLD)
    body: JSON = {
        "client_id": client,
        "timestamp_micros": micros(moment),
        "events": [{"name": name, "params": _parameters(event, name)}],
    }
    if user := fields.user_id(event):
        body["user_id"] = user[:256]
    if traits := _user_properties(event):
        body["user_properties"] = traits
    if ip := fields.first_text(event, fields.IP):
        body["ip_override"] = ip
    if agent := fields.first_text(event, fields.USER_AGENT):
        body["user_agent"] = agent
    return Piece("collect", encode(body))


def _name(event: JSON) -> str:
    match event.get("type"):
        case "page":
            return "page_view"
        case "screen":
            return "screen_view"
        case "group":
            return "join_group"
        case "track":
            name = fields.name_of(event)
            spelt = NAMES.get(name) or _spelt(name, MOST_NAME)
            return f"n_{spelt}" if spelt in RESERVED else spelt
        case _:
            return ""


def _spelt(name: str, most: int) -> str:
    """Returns a name of letters, digits and underscores that begins with a letter; empty if nothing is left."""
    plain = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")
    while RESERVED_PREFIX.match(plain):
        plain = plain.partition("_")[2]
    if plain and not plain[0].isalpha():
        plain = f"n_{plain}"
    return plain[:most]


def _parameters(event: JSON, name: str) -> JSON:
    found = fields.filled(event, PARAMETERS)
    found.setdefault("engagement_time_msec", 1)  # without it Google counts no user as active
    if event.get("type") == "screen":
        found["screen_name"] = fields.text(event.get("name"))
    if event.get("type") == "group":
        found["group_id"] = fields.text(event.get("groupId"))
    found = fields.as_numbers(found, "value", "tax", "shipping")
    if isinstance(found.get("currency"), str):
        found["currency"] = found["currency"].upper()
    items = [_item(product) for product in fields.objects(fields.lookup(event, "properties.products"))[:200]]
    if not items and name in ("add_to_cart", "remove_from_cart", "view_item", "select_item", "add_to_wishlist"):
        items = [_item(fields.object_at(event, "properties"))]
    for key, value in fields.object_at(event, "properties").items():
        spelt = _spelt(key, MOST_NAME)
        if key not in TAKEN and spelt and spelt not in found and isinstance(value, str | int | float | bool):
            found[spelt] = value
    kept = {key: _cut(key, value) for key, value in list(found.items())[: MOST_PARAMETERS - bool(items)]}
    return {**kept, "items": items} if items else kept


def _item(product: JSON) -> JSON:
    return fields.as_numbers(fields.filled(product, ITEM), "index", "price", "quantity")


def _cut(key: str, value: object) -> object:
    most = {"page_location": 1_000, "page_referrer": 420, "page_title": 300}.get(key, MOST_VALUE)
    return value[:most] if isinstance(value, str) else value


def _user_properties(event: JSON) -> JSON:
    traits = fields.object_at(event, "context.traits")
    found: JSON = {}
    for key, value in traits.items():
        name = _spelt(key, MOST_USER_NAME)
        # Google forbids data that identifies a person
        name = f"n_{name}" if name in RESERVED_TRAITS else name
        if name and key not in ("email", "phone", "name", "firstName", "lastName", "address") and fields.text(value):
            found[name[:MOST_USER_NAME]] = {"value": fields.text(value)[:MOST_USER_VALUE]}
    return dict(list(found.items())[:MOST_USER_PROPERTIES])
