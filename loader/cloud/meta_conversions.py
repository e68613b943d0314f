"""Events to Meta's Conversions API. https://developers.facebook.com/docs/marketing-api/conversions-api/using-the-api

`event_id` is the `messageId`, by which Meta joins an event with its pixel's event. Personal data is normalised and hashed as
https://developers.facebook.com/docs/marketing-api/conversions-api/parameters/customer-information-parameters says.

Known traps: Meta refuses a whole call for one event older than seven days, so such events are left out first. It also refuses the
whole call for a wrong event; the core finds it by halves. The `code` of an error, not the status, says whether it is about the
event, the token or a limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal

from msgspec import Meta, field

from loader.calls import fields, personal
from loader.calls.answers import words_of
from loader.calls.batches import Batch, Piece, array, batched, encode, post
from loader.calls.moments import age, happened, seconds
from loader.calls.options import Batching, address, require, send_limits
from loader.calls.verdicts import JSON_TYPE, alike, held_up, said, verdict
from loader.cloud import Service
from loader.contract.events import Call, Calls, EventCapabilities, EventDestination, Response
from loader.contract.warehouse import Environment
from shared.events.event import JSON
from shared.events.outcome import Drop, DropReason, Outcome, Retry

HOST = "https://graph.facebook.com"
BATCH = Batch(events=1_000, bytes=5_000_000, event_bytes=200_000)
OLDEST_SECONDS, OLDEST_IN_STORES_SECONDS = 7 * 86_400.0, 62 * 86_400.0
"""How old an event may be; one of a store may be older
(https://developers.facebook.com/docs/marketing-api/conversions-api/parameters/server-event)."""
THROTTLED = frozenset({4, 17, 32, 341, 613, 80_000, 80_004, 80_005})
"""Codes of limits (https://developers.facebook.com/docs/graph-api/overview/rate-limiting)."""
PASSING = frozenset({1, 2})
HELD = frozenset({10, 102, 190, *range(200, 300)})
"""Codes of tokens and permissions (https://developers.facebook.com/docs/graph-api/guides/error-handling)."""

NAMES = {
    "Order Completed": "Purchase",
    "Product Added": "AddToCart",
    "Product Added to Wishlist": "AddToWishlist",
    "Product Viewed": "ViewContent",
    "Product List Viewed": "ViewContent",
    "Products Searched": "Search",
    "Checkout Started": "InitiateCheckout",
    "Payment Info Entered": "AddPaymentInfo",
    "Signed Up": "CompleteRegistration",
    "Subscription Started": "Subscribe",
    "Trial Started": "StartTrial",
    "Lead Submitted": "Lead",
}
HASHED: Mapping[str, tuple[Sequence[str], Callable[[object], str]]] = {
    "em": (fields.EMAIL, personal.email),
    "ph": (fields.PHONE, lambda value: personal.phone(value, plus=False)),
    "fn": (("traits.firstName", "context.traits.firstName"), personal.word),
    "ln": (("traits.lastName", "context.traits.lastName"), personal.word),
    "ge": (("traits.gender", "context.traits.gender"), lambda value: personal.hashed(fields.text(value).lower()[:1])),
    "db": (("traits.birthday", "context.traits.birthday"), lambda value: personal.word(fields.text(value)[:10])),
    "ct": (("traits.address.city", "context.traits.address.city"), personal.word),
    "st": (("traits.address.state", "context.traits.address.state"), personal.word),
    "zp": (("traits.address.postalCode", "context.traits.address.postalCode"), personal.postal_code),
    "country": (("traits.address.country", "context.traits.address.country"), personal.word),
    "external_id": (("userId", "anonymousId"), personal.exact),
}
PLAIN: fields.Table = {
    "client_ip_address": fields.IP,
    "client_user_agent": fields.USER_AGENT,
    "fbc": ("context.clientIds.fbc", "context.fbc", "properties.fbc"),
    "fbp": ("context.clientIds.fbp", "context.fbp", "properties.fbp"),
}
CUSTOM: fields.Table = {
    "currency": ("properties.currency",),
    "order_id": ("properties.order_id", "properties.orderId"),
    "search_string": ("properties.query",),
    "content_name": ("properties.name", "name"),
    "content_category": ("properties.category", "category"),
    "status": ("properties.status",),
}
CONTENT: fields.Table = {"id": ("product_id", "productId", "sku"), "quantity": ("quantity",), "item_price": ("price",)}


class Options(Batching, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of Meta."""

    pixel_id: Annotated[str, Meta(description="id of the pixel or dataset")]
    access_token: Annotated[str, Meta(min_length=1, extra={"secret": True}, description="token of the Conversions API")]
    api_version: Annotated[str, Meta(description="version of the Graph API")] = "v23.0"
    action_source: Annotated[
        Literal["website", "app", "physical_store", "system_generated", "email", "phone_call", "chat", "other"],
        Meta(description="where the events happen"),
    ] = "website"
    events: Annotated[dict[str, str], Meta(description="names of events to names at Meta, beside the names on the page")] = field(
        default_factory=dict
    )
    test_event_code: Annotated[str | None, Meta(description="shows the events under Test Events in the Events Manager")] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require("pixel_id", self.pixel_id, "[0-9]+", "digits")
        require("api_version", self.api_version, r"v\d+\.\d+", "a version such as v23.0")


OPTIONS = Options
CAPABILITIES = EventCapabilities()


async def open_destination(name: str, options: Options, environment: Environment) -> EventDestination:  # noqa: ARG001
    """Returns the destination; connects to nothing yet."""
    return MetaConversions(options)


class MetaConversions(Service):
    """One pixel."""

    def __init__(self, options: Options) -> None:
        super().__init__(send_limits(options, BATCH.events))
        self._source = options.action_source
        self._names = {**NAMES, **options.events}
        self._url = f"{address(options, HOST)}/{options.api_version}/{options.pixel_id}/events"
        token = {"access_token": options.access_token}
        test = {"test_event_code": options.test_event_code} if options.test_event_code else {}
        self._head = encode(token | test)[:-1] + b',"data":'

    def calls(self, events: Sequence[JSON], at: float) -> Calls:
        def wrap(_target: str, pieces: Sequence[Piece], places: Sequence[int]) -> Call:
            return post(self._url, {"Content-Type": JSON_TYPE}, self._head + array(pieces) + b"}", places)

        return batched(events, lambda event: self._piece(event, at), wrap, BATCH)

    def answer(self, call: Call, response: Response) -> Sequence[Outcome]:
        error = said(response).get("error")
        code = error.get("code") if isinstance(error, dict) else None
        if response.status >= 400 and isinstance(error, dict):
            if code in THROTTLED:
                return alike(call, Retry(words_of(response), everyone=True))
            if code in HELD:
                return alike(call, held_up(words_of(response)))
            if code in PASSING or error.get("is_transient") is True:
                return alike(call, Retry(words_of(response)))
        return alike(call, verdict(response, form="object"))

    def trial(self) -> Call | str:
        """A batch without events, which Meta refuses; a wrong token it refuses by another code."""
        return post(self._url, {"Content-Type": JSON_TYPE}, self._head + b"[]}", (0,))

    def _piece(self, event: JSON, at: float) -> Piece | Drop:
        kind = event.get("type")
        name = fields.text(event.get("event")) if kind == "track" else "PageView" if kind == "page" else ""
        if not name:
            return Drop(DropReason.UNSUPPORTED)
        moment = happened(event, at)
        if age(moment, at) > (OLDEST_IN_STORES_SECONDS if self._source == "physical_store" else OLDEST_SECONDS):
            return Drop(DropReason.TOO_OLD)
        user: JSON = {name: found for name, (paths, work) in HASHED.items() if (found := work(fields.first(event, paths)))}
        user |= fields.filled(event, PLAIN)
        if not user:
            return Drop(DropReason.UNIDENTIFIED)
        item: JSON = {
            "event_name": self._names.get(name, name),
            "event_time": seconds(moment),
            "event_id": fields.text(event.get("messageId")),
            "action_source": self._source,
            "user_data": user,
        }
        if url := fields.first_text(event, fields.URL):
            item["event_source_url"] = url
        if custom := _custom(event):
            item["custom_data"] = custom
        return Piece("events", encode(item))


def _custom(event: JSON) -> JSON:
    found = fields.filled(event, CUSTOM)
    found |= fields.price(event, found.get("currency"))
    products = fields.products(event)
    if products:
        found["contents"] = contents = [
            fields.as_numbers(fields.filled(each, CONTENT), "quantity", "item_price") for each in products
        ]
        found["content_ids"] = [each["id"] for each in contents if "id" in each]
        found["content_type"] = "product"
        found["num_items"] = len(products)
    return found
