"""Contacts, companies and custom events to HubSpot.

https://developers.hubspot.com/docs/api-reference/crm-contacts-v3/batch/post-crm-v3-objects-contacts-batch-upsert,
https://developers.hubspot.com/docs/api-reference/events-send-event-completions-v3/batch/post-events-v3-send-batch

HubSpot knows contacts by e-mail address. `uuid` of an event is made from the `messageId`; HubSpot refuses an event that repeats
one.

Known traps: HubSpot takes only properties and events that are defined there, so the options name both. It refuses a batch that
names a contact twice, so a call has each contact once. It refuses a date for a property that is a number, and so on: the letter
has HubSpot's words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta, field

from loader.calls import fields
from loader.calls.batches import Batch, Piece, array, batched, encode, get, post
from loader.calls.moments import happened, iso
from loader.calls.options import Batching, address, send_limits
from loader.calls.verdicts import HELD, JSON_TYPE, alike, refused, said, verdict
from loader.cloud import Service
from loader.contract.events import Call, Calls, EventCapabilities, EventDestination, Response
from loader.contract.warehouse import Environment
from shared.events.event import JSON
from shared.events.outcome import Drop, DropReason, Outcome

HOST = "https://api.hubapi.com"
BATCH = Batch(events=100, bytes=3_000_000, event_bytes=200_000)
PATHS = {
    "contacts": "/crm/v3/objects/contacts/batch/upsert",
    "companies": "/crm/v3/objects/companies/batch/upsert",
    "events": "/events/v3/send/batch",
}

CONTACT = {
    "firstname": ("firstName", "first_name"),
    "lastname": ("lastName", "last_name"),
    "phone": ("phone",),
    "company": ("company.name", "company"),
    "jobtitle": ("title", "jobTitle"),
    "website": ("website",),
    "address": ("address.street",),
    "city": ("address.city", "city"),
    "state": ("address.state", "state"),
    "zip": ("address.postalCode",),
    "country": ("address.country", "country"),
}
"""HubSpot's own properties of contacts to traits."""
COMPANY = {
    "name": ("name",),
    "domain": ("domain", "website"),
    "phone": ("phone",),
    "industry": ("industry",),
    "numberofemployees": ("employees",),
    "city": ("address.city",),
    "country": ("address.country",),
}


class Options(Batching, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of HubSpot."""

    access_token: Annotated[str, Meta(min_length=1, extra={"secret": True}, description="token of a private app")]
    properties: Annotated[dict[str, str], Meta(description="traits to properties of contacts, beside the traits on the page")] = (
        field(default_factory=dict)
    )
    events: Annotated[
        dict[str, str], Meta(description="names of events to the names of custom events (pe…_…); others are not sent")
    ] = field(default_factory=dict)
    event_properties: Annotated[
        dict[str, str], Meta(description="properties of events to properties of custom events; others are not sent")
    ] = field(default_factory=dict)
    company_id: Annotated[
        str | None,
        Meta(description="property of companies with unique values that holds the `groupId`; none: groups are not sent"),
    ] = None


OPTIONS = Options
CAPABILITIES = EventCapabilities()


async def open_destination(name: str, options: Options, environment: Environment) -> EventDestination:  # noqa: ARG001
    """Returns the destination; connects to nothing yet."""
    return HubSpot(options)


class HubSpot(Service):
    """One account."""

    def __init__(self, options: Options) -> None:
        super().__init__(send_limits(options, BATCH.events))
        self._options = options
        self._contact = {**CONTACT, **{name: (trait,) for trait, name in options.properties.items()}}
        self._event = {name: (f"properties.{key}",) for key, name in options.event_properties.items()}
        self._address = address(options, HOST)
        self._headers = {"Authorization": f"Bearer {options.access_token}", "Content-Type": JSON_TYPE}

    def calls(self, events: Sequence[JSON], at: float) -> Calls:
        def wrap(target: str, pieces: Sequence[Piece], places: Sequence[int]) -> Call:
            body = b'{"inputs":' + array(pieces) + b"}"
            return post(f"{self._address}{PATHS[target]}", self._headers, body, places)

        return batched(events, lambda event: self._piece(event, at), wrap, BATCH)

    def answer(self, call: Call, response: Response) -> Sequence[Outcome]:
        errors = fields.objects(said(response).get("errors"))
        if response.status == 207 and errors:
            return refused(call, _failed(call, errors), "answered 207")
        return alike(call, verdict(response, held=HELD - {404}))

    def trial(self) -> Call | str:
        return get(f"{self._address}/crm/v3/objects/contacts?limit=1", self._headers)

    def _piece(self, event: JSON, at: float) -> Piece | Drop:
        kind = event.get("type")
        email = fields.first_text(event, fields.EMAIL).lower()
        if kind == "group" and self._options.company_id is not None:
            group = fields.text(event.get("groupId"))
            if not group:
                return Drop(DropReason.UNIDENTIFIED)
            known = {self._options.company_id: group, **_texts(fields.filled(fields.object_at(event, "traits"), COMPANY))}
            return Piece(
                "companies", encode({"idProperty": self._options.company_id, "id": group, "properties": known}), once=group
            )
        if kind == "identify":
            if "@" not in email:
                return Drop(DropReason.UNIDENTIFIED)
            known = {"email": email, **_texts(fields.filled(fields.object_at(event, "traits"), self._contact))}
            return Piece("contacts", encode({"idProperty": "email", "id": email, "properties": known}), once=email)
        name = self._options.events.get(fields.name_of(event)) if kind in ("track", "page", "screen") else None
        if name is None:
            return Drop(DropReason.UNSUPPORTED)
        token = fields.first_text(event, ("context.clientIds.hubspotutk", "context.hubspotutk"))
        who = {key: value for key, value in (("email", email if "@" in email else ""), ("utk", token)) if value}
        if not who:
            return Drop(DropReason.UNIDENTIFIED)
        item: JSON = {
            "eventName": name,
            **who,
            "occurredAt": iso(happened(event, at)),
            "uuid": fields.as_uuid(fields.text(event.get("messageId"))),
            "properties": _texts(fields.filled(event, self._event)),
        }
        return Piece("events", encode(item))


def _texts(found: Mapping[str, object]) -> JSON:
    """Returns values as the texts that HubSpot reads; leaves out values without one."""
    texts = {
        key: ("true" if value else "false") if isinstance(value, bool) else fields.text(value) for key, value in found.items()
    }
    return {key: value for key, value in texts.items() if value}


def _failed(call: Call, errors: Sequence[JSON]) -> list[tuple[object, str]]:
    """Returns the places of records and HubSpot's words; HubSpot names records by id, in lists of the error's context.

    The place is None for an error that names no record of the call.
    """
    inputs = msgspec.json.decode(call.body)["inputs"]
    places = {str(each.get("id", each.get("uuid"))).casefold(): place for place, each in enumerate(inputs)}
    failed: list[tuple[object, str]] = []
    for error in errors:
        named = [
            places[text.casefold()]
            for value in fields.object_at(error, "context").values()
            for each in (value if isinstance(value, list) else [value])
            if (text := fields.text(each)) and text.casefold() in places
        ]
        words = str(error.get("message"))
        failed += [(place, words) for place in named] or [(None, words)]
    return failed
