"""Events to TikTok's Events API 2.0. https://business-api.tiktok.com/portal/docs?id=1771100865818625

`event_id` is the `messageId`, by which TikTok joins an event with its pixel's event. E-mail address, telephone number and the id
of the person are normalised and hashed by SHA-256.

Known trap: the status is always 200; `code` has the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta, field

from loader.calls import fields, personal
from loader.calls.answers import quoted, words_of
from loader.calls.batches import Batch, Piece, array, batched, encode, post
from loader.calls.moments import happened, seconds
from loader.calls.options import Batching, address, send_limits
from loader.calls.verdicts import JSON_TYPE, alike, held_up, said, verdict
from loader.cloud import Service
from loader.contract.events import Call, Calls, EventCapabilities, EventDestination, Response
from loader.contract.warehouse import Environment
from shared.events.event import JSON
from shared.events.outcome import Dead, DeadReason, Drop, DropReason, Ok, Outcome, Retry

HOST = "https://business-api.tiktok.com"
BATCH = Batch(events=1_000, bytes=4_000_000, event_bytes=200_000)
THROTTLED = frozenset({40_100, 40_133, 61_000})
HELD = frozenset({40_001, *range(40_101, 40_120)})
"""Codes of permissions and tokens (https://business-api.tiktok.com/portal/docs?id=1737172488964097)."""

NAMES = {
    "Order Completed": "Purchase",
    "Product Added": "AddToCart",
    "Product Added to Wishlist": "AddToWishlist",
    "Product Viewed": "ViewContent",
    "Products Searched": "Search",
    "Checkout Started": "InitiateCheckout",
    "Payment Info Entered": "AddPaymentInfo",
    "Signed Up": "CompleteRegistration",
    "Subscription Started": "Subscribe",
    "Trial Started": "StartTrial",
    "Lead Submitted": "Lead",
}
"""Names of events in Segment's specification, and TikTok's (https://ads.tiktok.com/help/article/supported-standard-events). `CompletePayment`
and `SubmitForm` are their names of before May 2025
(https://ads.tiktok.com/help/article/how-to-adopt-tiktoks-updated-standard-events); TikTok counts both as one event."""
USER: fields.Table = {
    "ttclid": ("context.clientIds.ttclid", "context.ttclid", "properties.ttclid"),
    "ttp": ("context.clientIds.ttp", "context.ttp", "properties.ttp"),
    "ip": fields.IP,
    "user_agent": fields.USER_AGENT,
    "locale": ("context.locale",),
}
PROPERTIES: fields.Table = {
    "currency": ("properties.currency",),
    "order_id": ("properties.order_id", "properties.orderId"),
    "query": ("properties.query",),
    "description": ("properties.description",),
}
CONTENT: fields.Table = {
    "content_id": ("product_id", "productId", "sku"),
    "content_name": ("name",),
    "content_category": ("category",),
    "brand": ("brand",),
    "price": ("price",),
    "quantity": ("quantity",),
}


class Options(Batching, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of TikTok."""

    pixel_code: Annotated[str, Meta(min_length=1, description="id of the pixel, or of the app, offline or CRM event set")]
    access_token: Annotated[str, Meta(min_length=1, extra={"secret": True}, description="token of the Events API")]
    event_source: Annotated[Literal["web", "app", "offline", "crm"], Meta(description="where the events happen")] = "web"
    events: Annotated[dict[str, str], Meta(description="names of events to names at TikTok, beside the names on the page")] = (
        field(default_factory=dict)
    )
    test_event_code: Annotated[str | None, Meta(description="shows the events under Test Events")] = None


OPTIONS = Options
CAPABILITIES = EventCapabilities()


async def open_destination(name: str, options: Options, environment: Environment) -> EventDestination:  # noqa: ARG001
    """Returns the destination; connects to nothing yet."""
    return TikTok(options)


class TikTok(Service):
    """One pixel."""

    def __init__(self, options: Options) -> None:
        super().__init__(send_limits(options, BATCH.events))
        self._names = {**NAMES, **options.events}
        self._url = f"{address(options, HOST)}/open_api/v1.3/event/track/"
        self._headers = {"Access-Token": options.access_token, "Content-Type": JSON_TYPE}
        head = {"event_source": options.event_source, "event_source_id": options.pixel_code}
        test = {"test_event_code": options.test_event_code} if options.test_event_code else {}
        self._head = encode(head | test)[:-1] + b',"data":'

    def calls(self, events: Sequence[JSON], at: float) -> Calls:
        def wrap(_target: str, pieces: Sequence[Piece], places: Sequence[int]) -> Call:
            return post(self._url, self._headers, self._head + array(pieces) + b"}", places)

        return batched(events, lambda event: self._piece(event, at), wrap, BATCH)

    def answer(self, call: Call, response: Response) -> Sequence[Outcome]:
        answered = said(response)
        code = answered.get("code")
        if response.status != 200:
            return alike(call, verdict(response))
        if isinstance(code, bool) or not isinstance(code, int):
            return alike(call, Retry(f"{words_of(response)}, which is no success of the service"))
        if code == 0:
            return alike(call, Ok())
        words = f"answered code {code}: {quoted(fields.text(answered.get('message')))}"
        if code in THROTTLED:
            return alike(call, Retry(words, everyone=True))
        if code in HELD:
            return alike(call, held_up(words))
        if code >= 50_000:
            return alike(call, Retry(words_of(response)))
        return alike(call, Dead(DeadReason.REJECTED_BY_DESTINATION, words))

    def trial(self) -> Call | str:
        """A batch without events, which TikTok refuses; a wrong token it refuses by another code."""
        return post(self._url, self._headers, self._head + b"[]}", (0,))

    def _piece(self, event: JSON, at: float) -> Piece | Drop:
        kind = event.get("type")
        name = fields.text(event.get("event")) if kind == "track" else "Pageview" if kind == "page" else ""
        if not name:
            return Drop(DropReason.UNSUPPORTED)
        hashed = {
            "email": personal.email(fields.first(event, fields.EMAIL)),
            "phone": personal.phone(fields.first(event, fields.PHONE), plus=True),
            "external_id": personal.exact(fields.person(event)),
        }
        user = {key: value for key, value in hashed.items() if value} | fields.filled(event, USER)
        if not user:
            return Drop(DropReason.UNIDENTIFIED)
        item: JSON = {
            "event": self._names.get(name, name),
            "event_time": seconds(happened(event, at)),
            "event_id": fields.text(event.get("messageId")),
            "user": user,
        }
        if page := fields.filled(event, {"url": fields.URL, "referrer": fields.REFERRER}):
            item["page"] = page
        if properties := _properties(event):
            item["properties"] = properties
        return Piece("track", encode(item))


def _properties(event: JSON) -> JSON:
    found = fields.filled(event, PROPERTIES)
    found |= fields.price(event, found.get("currency"))
    products = fields.products(event)
    if products:
        found |= {
            "contents": [fields.as_numbers(fields.filled(each, CONTENT), "price", "quantity") for each in products],
            "content_type": "product",
        }
    return found
