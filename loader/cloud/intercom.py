"""Contacts, companies and events to Intercom.

https://developers.intercom.com/docs/references/rest-api/api.intercom.io/contacts/createcontact,
https://developers.intercom.com/docs/references/rest-api/api.intercom.io/data-events/createdataevent,
https://developers.intercom.com/docs/references/rest-api/api.intercom.io/companies/createorupdatecompany

Known traps: Intercom has no call that makes a contact or changes it. One that exists is refused with 409, and the words name its
id, so the contact of that id is changed then. Custom attributes must be defined in Intercom, so they are named in the options. An
event of a person that Intercom does not know is refused with 404.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from msgspec import Meta, field

from loader.calls import fields
from loader.calls.batches import Batch, Piece, batched, encode, get, post
from loader.calls.moments import happened, seconds
from loader.calls.options import Sending, address, send_limits
from loader.calls.verdicts import HELD, JSON_TYPE, alike, said, verdict
from loader.cloud import Service
from loader.contract.events import Call, Calls, EventCapabilities, EventDestination, Response
from loader.contract.warehouse import Environment
from shared.events.event import JSON, read_time
from shared.events.outcome import Drop, DropReason, Outcome

HOSTS = {"us": "https://api.intercom.io", "eu": "https://api.eu.intercom.io", "au": "https://api.au.intercom.io"}
BATCH = Batch(events=1, bytes=1_000_000, event_bytes=1_000_000, around=0)
MOST_METADATA = 20
"""Keys of an event's metadata; its values are texts, numbers and booleans."""

CONTACT: fields.Table = {"email": ("email",), "phone": ("phone",), "name": ("name",), "avatar": ("avatar",)}
COMPANY: fields.Table = {"name": ("name",), "plan": ("plan",), "website": ("website",), "industry": ("industry",)}
_CONFLICT = re.compile(r"^A contact matching those details already exists with id=([0-9a-zA-Z]+)")


class Options(Sending, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of Intercom."""

    access_token: Annotated[str, Meta(min_length=1, extra={"secret": True}, description="access token of an app")]
    region: Annotated[Literal["us", "eu", "au"], Meta(description="where the workspace is")] = "us"
    version: Annotated[str, Meta(min_length=1, description="version of the API")] = "2.11"
    attributes: Annotated[
        dict[str, str], Meta(description="traits to custom attributes of contacts and companies; others are not sent")
    ] = field(default_factory=dict)


OPTIONS = Options
CAPABILITIES = EventCapabilities()


async def open_destination(name: str, options: Options, environment: Environment) -> EventDestination:  # noqa: ARG001
    """Returns the destination; connects to nothing yet."""
    return Intercom(options)


class Intercom(Service):
    """One workspace."""

    def __init__(self, options: Options) -> None:
        super().__init__(send_limits(options))
        self._attributes = {name: (trait,) for trait, name in options.attributes.items()}
        self._address = address(options, HOSTS[options.region])
        self._headers = {
            "Authorization": f"Bearer {options.access_token}",
            "Intercom-Version": options.version,
            "Accept": JSON_TYPE,
            "Content-Type": JSON_TYPE,
        }

    def calls(self, events: Sequence[JSON], at: float) -> Calls:
        def wrap(target: str, pieces: Sequence[Piece], places: Sequence[int]) -> Call:
            return post(f"{self._address}/{target}", self._headers, pieces[0].body, places)

        return batched(events, lambda event: self._piece(event, at), wrap, BATCH)

    def answer(self, call: Call, response: Response) -> Sequence[Outcome] | Call:
        """See `EventDestination.answer`; a contact that exists is changed in a second call."""
        if response.status == 409 and call.method == "POST" and call.url.endswith("/contacts"):
            for error in fields.objects(said(response).get("errors")):
                if found := _CONFLICT.match(fields.text(error.get("message"))):
                    return replace(call, method="PUT", url=f"{call.url}/{found[1]}")
        return alike(call, verdict(response, held=HELD - {404}, reset="x-ratelimit-reset"))

    def trial(self) -> Call | str:
        return get(f"{self._address}/me", self._headers)

    def _piece(self, event: JSON, at: float) -> Piece | Drop:
        kind, user = event.get("type"), fields.user_id(event)
        traits = fields.object_at(event, "traits")
        custom = _plain(fields.filled(traits, self._attributes))
        if kind == "identify":
            if not user:
                return Drop(DropReason.UNIDENTIFIED)
            contact: JSON = {"role": "user", "external_id": user, **_plain(fields.filled(traits, CONTACT))}
            if "name" not in contact and (name := _whole_name(traits)):
                contact["name"] = name
            return Piece(
                "contacts", encode(contact | _created(traits, "signed_up_at") | ({"custom_attributes": custom} if custom else {}))
            )
        if kind == "group":
            group = fields.text(event.get("groupId"))
            if not group:
                return Drop(DropReason.UNIDENTIFIED)
            company: JSON = {
                "company_id": group,
                **_plain(fields.filled(traits, COMPANY)),
                **_created(traits, "remote_created_at"),
            }
            if (size := fields.first_number(traits, ("employees", "size", "seats"))) is not None:
                company["size"] = int(size)
            return Piece("companies", encode(company | ({"custom_attributes": custom} if custom else {})))
        if kind not in ("track", "page", "screen") or not fields.name_of(event):
            return Drop(DropReason.UNSUPPORTED)
        email = fields.first_text(event, fields.EMAIL)
        who = {"user_id": user} if user else {"email": email} if "@" in email else {}
        if not who:
            return Drop(DropReason.UNIDENTIFIED)
        metadata = dict(list(_plain(fields.properties_of(event)).items())[:MOST_METADATA])
        item = {"event_name": fields.name_of(event), "created_at": seconds(happened(event, at)), **who, "metadata": metadata}
        return Piece("events", encode(item))


def _plain(found: Mapping[str, object]) -> JSON:
    """Returns the values that are texts, numbers and booleans."""
    return {key: value for key, value in found.items() if isinstance(value, bool) or fields.text(value)}


def _whole_name(traits: JSON) -> str:
    return " ".join(part for key in ("firstName", "lastName") if (part := fields.text(traits.get(key))))


def _created(traits: JSON, name: str) -> JSON:
    moment = read_time(traits.get("createdAt"))
    return {} if moment is None else {name: seconds(moment)}
