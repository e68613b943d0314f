"""Events to Klaviyo, an event a call; people by creating or updating their profile.

https://developers.klaviyo.com/en/reference/create_event, https://developers.klaviyo.com/en/reference/create_or_update_profile

`unique_id` is the `messageId`: for a profile and a metric, Klaviyo keeps the first event with an id.

Known traps: Klaviyo refuses a whole profile for a phone number that is not in the form of E.164, so such a number stays among the
properties. It answers with 202 before it has worked on an event.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from loader.calls import fields
from loader.calls.batches import Batch, Piece, batched, encode, get, post
from loader.calls.moments import happened, iso
from loader.calls.options import Sending, address, require, send_limits
from loader.calls.verdicts import alike, verdict
from loader.cloud import Service
from loader.contract.events import Call, Calls, EventCapabilities, EventDestination, Response
from loader.contract.warehouse import Environment
from shared.events.event import JSON
from shared.events.outcome import Drop, DropReason, Outcome

HOST = "https://a.klaviyo.com"
REVISION = "2025-07-15"
BATCH = Batch(events=1, bytes=5_000_000, event_bytes=5_000_000, around=0)
TYPE = "application/vnd.api+json"
MOST_NAME = 127
"""Characters of a metric's name, which must have fewer than 128."""

PROFILE: fields.Table = {
    "first_name": ("firstName", "first_name"),
    "last_name": ("lastName", "last_name"),
    "organization": ("company.name", "organization"),
    "title": ("title",),
    "image": ("avatar",),
    "locale": ("locale",),
}
LOCATION: fields.Table = {
    "address1": ("address.street",),
    "city": ("address.city",),
    "region": ("address.state",),
    "zip": ("address.postalCode",),
    "country": ("address.country",),
}
TAKEN = frozenset(
    {"email", "phone", "firstName", "first_name", "lastName", "last_name", "organization", "title", "avatar", "locale", "address"}
)
E164 = re.compile(r"\+[1-9]\d{6,14}", re.ASCII)


class Options(Sending, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of Klaviyo."""

    api_key: Annotated[
        str, Meta(min_length=1, extra={"secret": True}, description="private API key (pk_…) that may write events and profiles")
    ]
    revision: Annotated[str, Meta(description="revision of the API")] = REVISION

    def __post_init__(self) -> None:
        super().__post_init__()
        require("revision", self.revision, r"\d{4}-\d\d-\d\d", "a date such as 2025-07-15")


OPTIONS = Options
CAPABILITIES = EventCapabilities()


async def open_destination(name: str, options: Options, environment: Environment) -> EventDestination:  # noqa: ARG001
    """Returns the destination; connects to nothing yet."""
    return Klaviyo(options)


class Klaviyo(Service):
    """One account."""

    def __init__(self, options: Options) -> None:
        super().__init__(send_limits(options))
        self._address = address(options, HOST)
        self._headers = {
            "Authorization": f"Klaviyo-API-Key {options.api_key}",
            "revision": options.revision,
            "Content-Type": TYPE,
            "Accept": TYPE,
        }

    def calls(self, events: Sequence[JSON], at: float) -> Calls:
        def wrap(target: str, pieces: Sequence[Piece], places: Sequence[int]) -> Call:
            return post(f"{self._address}/api/{target}", self._headers, pieces[0].body, places)

        return batched(events, lambda event: _piece(event, at), wrap, BATCH)

    def answer(self, call: Call, response: Response) -> Sequence[Outcome]:
        return alike(call, verdict(response))

    def trial(self) -> Call | str:
        return get(f"{self._address}/api/metrics", self._headers)


def _piece(event: JSON, at: float) -> Piece | Drop:
    kind = event.get("type")
    if kind not in ("track", "page", "screen", "identify"):
        return Drop(DropReason.UNSUPPORTED)
    traits = fields.object_at(event, "context.traits")
    if kind == "identify":
        traits |= fields.object_at(event, "traits")
    profile = _profile(event, traits)
    if profile is None:
        return Drop(DropReason.UNIDENTIFIED)
    if kind == "identify":
        return Piece("profile-import", encode({"data": {"type": "profile", "attributes": profile}}))
    name = fields.name_of(event)
    if not name:
        return Drop(DropReason.UNSUPPORTED)
    attributes: JSON = {
        "metric": {"data": {"type": "metric", "attributes": {"name": name[:MOST_NAME]}}},
        "profile": {"data": {"type": "profile", "attributes": profile}},
        "properties": fields.properties_of(event),
        "time": iso(happened(event, at)),
        "unique_id": fields.text(event.get("messageId")),
    }
    value = fields.first_number(event, ("properties.value", "properties.total", "properties.revenue"))
    if value is not None:
        attributes["value"] = value
        if currency := fields.first_text(event, ("properties.currency",)):
            attributes["value_currency"] = currency.upper()
    return Piece("events", encode({"data": {"type": "event", "attributes": attributes}}))


def _profile(event: JSON, traits: JSON) -> JSON | None:
    """Returns the profile of an event; None: it has no id that Klaviyo knows."""
    found: JSON = {}
    email, phone = fields.first_text(event, fields.EMAIL), fields.first_text(event, fields.PHONE)
    if "@" in email:
        found["email"] = email
    if E164.fullmatch(phone):
        found["phone_number"] = phone
    if user := fields.user_id(event):
        found["external_id"] = user
    if anonymous := fields.anonymous_id(event):
        found["anonymous_id"] = anonymous
    if not found:
        return None
    found |= fields.filled(traits, PROFILE)
    if location := fields.filled(traits, LOCATION):
        found["location"] = location
    others = {key: value for key, value in traits.items() if key not in TAKEN}
    if phone and "phone_number" not in found:
        others["phone"] = phone
    if others:
        found["properties"] = others
    return found
