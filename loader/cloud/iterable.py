"""Events, purchases and people to Iterable. https://api.iterable.com/api/docs

`id` of an event is the `messageId`: Iterable keeps one event with an id. It knows people by `userId` if there is one, else by
e-mail address.

Known trap: an answer with 200 names refused records by person, not by place: `invalidEmails`, `invalidUserIds`, and the lists of
`failedUpdates`. All events of such a person in the call count as refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from loader.calls import fields
from loader.calls.answers import words_of
from loader.calls.batches import Batch, Piece, array, batched, encode, get, post
from loader.calls.moments import happened, seconds
from loader.calls.options import Batching, address, send_limits
from loader.calls.verdicts import JSON_TYPE, alike, said, split, verdict
from loader.cloud import Service
from loader.contract.events import Call, Calls, EventCapabilities, EventDestination, Response
from loader.contract.warehouse import Environment
from shared.events.event import JSON
from shared.events.outcome import Dead, DeadReason, Drop, DropReason, Outcome

HOSTS = {"us": "https://api.iterable.com", "eu": "https://api.eu.iterable.com"}
BATCH = Batch(events=1_000, bytes=4_000_000, event_bytes=1_000_000)
ORDER = "Order Completed"
PATHS = {"events": "/api/events/trackBulk", "users": "/api/users/bulkUpdate", "purchase": "/api/commerce/trackPurchase"}
REFUSED = ("invalidEmails", "invalidUserIds")
ITEM: fields.Table = {
    "id": ("product_id", "productId", "sku"),
    "sku": ("sku",),
    "name": ("name",),
    "url": ("url",),
    "imageUrl": ("image_url",),
}


class Options(Batching, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of Iterable."""

    api_key: Annotated[str, Meta(min_length=1, extra={"secret": True}, description="server-side API key of the project")]
    region: Annotated[Literal["us", "eu"], Meta(description="where the project keeps its data")] = "us"


OPTIONS = Options
CAPABILITIES = EventCapabilities()


async def open_destination(name: str, options: Options, environment: Environment) -> EventDestination:  # noqa: ARG001
    """Returns the destination; connects to nothing yet."""
    return Iterable(options)


class Iterable(Service):
    """One project."""

    def __init__(self, options: Options) -> None:
        super().__init__(send_limits(options, BATCH.events))
        self._address = address(options, HOSTS[options.region])
        self._headers = {"Api-Key": options.api_key, "Content-Type": JSON_TYPE}

    def calls(self, events: Sequence[JSON], at: float) -> Calls:
        return batched(events, lambda event: _piece(event, at), self._call, BATCH)

    def answer(self, call: Call, response: Response) -> Sequence[Outcome]:
        answered = said(response)
        if 200 <= response.status < 300:
            failed = _failed(call, answered)
            if failed:
                return split(call, failed, f"answered {response.status}")
            count = answered.get("failCount")
            if (isinstance(count, int) and count > 0) or answered.get("code", "Success") != "Success":
                return alike(call, Dead(DeadReason.REJECTED_BY_DESTINATION, words_of(response)))  # it names no event
        return alike(call, verdict(response))

    def trial(self) -> Call | str:
        return get(f"{self._address}/api/lists", self._headers)

    def _call(self, target: str, pieces: Sequence[Piece], places: Sequence[int]) -> Call:
        body = pieces[0].body if target == "purchase" else f'{{"{target}":'.encode() + array(pieces) + b"}"
        return post(f"{self._address}{PATHS[target]}", self._headers, body, places)


def _piece(event: JSON, at: float) -> Piece | Drop:
    kind = event.get("type")
    if kind not in ("track", "page", "screen", "identify"):
        return Drop(DropReason.UNSUPPORTED)
    user, email = fields.user_id(event), fields.first_text(event, fields.EMAIL)
    who: JSON = {"userId": user} if user else {"email": email} if "@" in email else {}
    if not who:
        return Drop(DropReason.UNIDENTIFIED)
    if kind == "identify":
        known = {**who, "dataFields": fields.object_at(event, "traits"), "mergeNestedObjects": True}
        if user:
            known["preferUserId"] = True
            if "@" in email:
                known["email"] = email
        return Piece("users", encode(known), once=user or email)
    name = fields.name_of(event)
    if not name:
        return Drop(DropReason.UNSUPPORTED)
    common: JSON = {"id": fields.text(event.get("messageId")), "createdAt": seconds(happened(event, at))}
    if name == ORDER and (items := _items(event)):
        return Piece("purchase", encode(_purchase(event, common, who, items)), once="purchase")
    return Piece("events", encode({**who, "eventName": name, **common, "dataFields": fields.properties_of(event)}))


def _purchase(event: JSON, common: JSON, who: JSON, items: Sequence[JSON]) -> JSON:
    properties = fields.object_at(event, "properties")
    properties.pop("products", None)
    total = fields.first_number(event, ("properties.total", "properties.revenue"))
    order = fields.first_text(event, ("properties.order_id", "properties.orderId"))
    user = {**who, "preferUserId": True} if "userId" in who else who
    summed = sum(float(item["price"]) * item["quantity"] for item in items)
    return {
        **common,
        "id": order or common["id"],
        "user": user,
        "items": items,
        "total": summed if total is None else total,
        "dataFields": properties,
    }


def _items(event: JSON) -> list[JSON]:
    """Returns the products of an order that Iterable takes: with id, name, price and quantity."""
    found: list[JSON] = []
    for product in fields.objects(fields.lookup(event, "properties.products")):
        price, quantity = fields.number(product.get("price")), fields.number(product.get("quantity"))
        item: JSON = {key: fields.text(value) for key, value in fields.filled(product, ITEM).items()}
        if price is None or not item.get("id"):
            continue
        category = fields.text(product.get("category"))
        item |= {"name": item.get("name") or item["id"], "price": price, "quantity": max(1, int(quantity or 1))}
        found.append(item | ({"categories": [category]} if category else {}))
    return found


def _failed(call: Call, answered: JSON) -> dict[int, str]:
    """Returns why records were refused, by their place."""
    lists: dict[str, Any] = {name: answered.get(name) for name in REFUSED} | fields.object_at(answered, "failedUpdates")
    reasons = {
        person.casefold(): name
        for name, people in lists.items()
        if isinstance(people, list)
        for person in people
        if isinstance(person, str)
    }
    names = answered.get("disallowedEventNames")
    if not reasons and not names:
        return {}
    sent = msgspec.json.decode(call.body)
    records = sent.get("events") or sent.get("users") or []
    failed: dict[int, str] = {}
    for place, record in enumerate(records):
        for person in (record.get("userId"), record.get("email")):
            if isinstance(person, str) and person.casefold() in reasons:
                failed[place] = f"{reasons[person.casefold()]} names the person"
        if isinstance(names, list) and record.get("eventName") in names:
            failed[place] = "disallowedEventNames has the event's name"
    return failed
