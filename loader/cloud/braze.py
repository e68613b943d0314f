"""Events to Braze's `/users/track`, aliases to `/users/identify`.

https://www.braze.com/docs/api/endpoints/user_data/post_user_track,
https://www.braze.com/docs/api/endpoints/user_data/post_user_identify

Braze knows identified people by `external_id`, others by an alias with the label `anonymous_id`. Traits become attributes,
tracks, pages and screens become events, and `Order Completed` becomes a purchase for each of its products.

Known traps: an answer with 201 may hold `errors` for some of the objects, named by array and index; the others were taken. Braze
has no id for events: an event that comes twice counts twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from loader.calls import fields
from loader.calls.batches import Batch, Piece, array, batched, encode, post
from loader.calls.moments import happened, iso
from loader.calls.options import Batching, require, send_limits
from loader.calls.verdicts import JSON_TYPE, alike, refused, said, verdict
from loader.cloud import Service
from loader.contract.events import Call, Calls, EventCapabilities, EventDestination, Response
from loader.contract.warehouse import Environment
from shared.events.event import JSON
from shared.events.outcome import Dead, DeadReason, Drop, DropReason, Outcome

BATCH = Batch(events=75, bytes=4_000_000, event_bytes=400_000)
LABEL = "anonymous_id"
ORDER = "Order Completed"
ATTRIBUTES = {
    "firstName": "first_name",
    "lastName": "last_name",
    "birthday": "dob",
    "avatar": "image_url",
    "locale": "language",
    "timezone": "time_zone",
}
"""Traits that Braze knows by other names; all other traits keep their names."""
PRODUCT_ID = ("product_id", "productId", "sku", "name")


class Options(Batching, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of Braze."""

    instance: Annotated[str, Meta(description="the instance, such as `iad-01` or `fra-02`")]
    api_key: Annotated[
        str, Meta(min_length=1, extra={"secret": True}, description="REST API key that may call users.track and users.identify")
    ]
    app_id: Annotated[str | None, Meta(description="app that the events are of")] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require("instance", self.instance, "[a-z0-9-]+", "an instance such as iad-01")


OPTIONS = Options
CAPABILITIES = EventCapabilities()


async def open_destination(name: str, options: Options, environment: Environment) -> EventDestination:  # noqa: ARG001
    """Returns the destination; connects to nothing yet."""
    return Braze(options)


class Braze(Service):
    """One workspace."""

    def __init__(self, options: Options) -> None:
        super().__init__(send_limits(options, BATCH.events))
        self._app = {"app_id": options.app_id} if options.app_id else {}
        own = "eu" if options.instance.startswith("fra-") else "com"
        self._address = (options.endpoint or f"https://rest.{options.instance}.braze.{own}").rstrip("/")
        self._headers = {"Authorization": f"Bearer {options.api_key}", "Content-Type": JSON_TYPE}

    def calls(self, events: Sequence[JSON], at: float) -> Calls:
        return batched(events, lambda event: self._piece(event, at), self._call, BATCH)

    def answer(self, call: Call, response: Response) -> Sequence[Outcome]:
        errors = fields.objects(said(response).get("errors"))
        if response.status in (200, 201) and errors:
            if b'"purchases":' in call.body[:20]:  # one event; its products share its fate
                return alike(
                    call, Dead(DeadReason.REJECTED_BY_DESTINATION, f"answered {response.status}: {errors[0].get('type')}")
                )
            return refused(call, [(each.get("index"), str(each.get("type"))) for each in errors], f"answered {response.status}")
        return alike(call, verdict(response, reset="x-ratelimit-reset"))

    def trial(self) -> Call | str:
        """A call without an object, which Braze refuses; a wrong key it refuses with 401."""
        return post(f"{self._address}/users/track", self._headers, b"{}", (0,))

    def _call(self, target: str, pieces: Sequence[Piece], places: Sequence[int]) -> Call:
        if target == "aliases_to_identify":
            body = b'{"aliases_to_identify":' + array(pieces) + b',"merge_behavior":"merge"}'
            return post(f"{self._address}/users/identify", self._headers, body, places)
        items = pieces[0].body if target == "purchases" else array(pieces)
        return post(f"{self._address}/users/track", self._headers, f'{{"{target}":'.encode() + items + b"}", places)

    def _piece(self, event: JSON, at: float) -> Piece | Drop:
        kind, user, anonymous = event.get("type"), fields.user_id(event), fields.anonymous_id(event)
        if kind not in ("track", "page", "screen", "identify", "alias"):
            return Drop(DropReason.UNSUPPORTED)
        if kind == "alias":
            previous = fields.text(event.get("previousId"))
            if not user or not previous:
                return Drop(DropReason.UNIDENTIFIED)
            alias = {"alias_name": previous, "alias_label": LABEL}
            return Piece("aliases_to_identify", encode({"external_id": user, "user_alias": alias}), weight=2)
        if not user and not anonymous:
            return Drop(DropReason.UNIDENTIFIED)
        who: JSON = {"external_id": user} if user else {"user_alias": {"alias_name": anonymous, "alias_label": LABEL}}
        if not user:
            who["_update_existing_only"] = False
        if kind == "identify":
            traits = {ATTRIBUTES.get(key, key): value for key, value in fields.object_at(event, "traits").items()}
            return Piece("attributes", encode({**traits, **who}))
        name = fields.name_of(event)
        if not name:
            return Drop(DropReason.UNSUPPORTED)
        common = {**who, **self._app, "time": iso(happened(event, at))}
        purchases = _purchases(event, common) if name == ORDER else []
        if purchases:
            return Piece("purchases", encode(purchases), once="order", weight=len(purchases))
        return Piece("events", encode({**common, "name": name, "properties": fields.properties_of(event)}))


def _purchases(event: JSON, common: JSON) -> list[JSON]:
    """Returns a purchase for each product of an order that has a name and a price."""
    properties = fields.object_at(event, "properties")
    products = fields.objects(properties.pop("products", None))
    currency = fields.text(properties.get("currency")).upper() or "USD"
    found: list[JSON] = []
    for product in products:
        price = fields.number(product.get("price"))
        name = fields.first_text(product, PRODUCT_ID)
        if price is None or not name:
            continue
        quantity = fields.number(product.get("quantity"))
        item = {
            **common,
            "product_id": name,
            "currency": fields.text(product.get("currency")).upper() or currency,
            "price": price,
        }
        item["quantity"] = int(quantity) if quantity is not None and 1 <= quantity <= 100 else 1
        item["properties"] = {**properties, **product}
        found.append(item)
    return found
