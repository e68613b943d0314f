"""Events to Mixpanel's `/import`, people to `/engage`, groups to `/groups`.

https://developer.mixpanel.com/reference/import-events, https://developer.mixpanel.com/reference/profile-set,
https://developer.mixpanel.com/reference/group-set-property

It is for projects with simplified id merge (https://docs.mixpanel.com/docs/tracking-methods/id-management): each event has
`$device_id` and `$user_id`, and Mixpanel joins them itself, so `alias` is not sent. `$insert_id` is the `messageId`, or its hash
if it has characters that Mixpanel refuses.

Known trap: 400 of `/import` says that some events are wrong and that the others were taken; they are named by their index.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta

from loader.calls import fields
from loader.calls.answers import words_of
from loader.calls.batches import Batch, Piece, array, batched, encode, post
from loader.calls.moments import happened, millis
from loader.calls.options import Batching, address, send_limits
from loader.calls.verdicts import JSON_TYPE, alike, basic, refused, said, verdict
from loader.cloud import Service
from loader.contract.events import Call, Calls, EventCapabilities, EventDestination, Response
from loader.contract.warehouse import Environment
from shared.events.event import JSON
from shared.events.outcome import Dead, DeadReason, Drop, DropReason, Ok, Outcome

HOSTS = {"us": "https://api.mixpanel.com", "eu": "https://api-eu.mixpanel.com", "in": "https://api-in.mixpanel.com"}
BATCH = Batch(events=2_000, bytes=2_000_000, event_bytes=1_000_000)
PROFILES = 200
"""Most profiles of groups in a call; the same bound holds for people."""
PATHS = {"import": "/import?strict=1", "engage": "/engage?verbose=1", "groups": "/groups?verbose=1"}

CONTEXT: fields.Table = {
    "ip": fields.IP,
    "$current_url": fields.URL,
    "$referrer": fields.REFERRER,
    "$os": ("context.os.name",),
    "$os_version": ("context.os.version",),
    "$manufacturer": ("context.device.manufacturer",),
    "$model": ("context.device.model",),
    "$app_version_string": ("context.app.version",),
    "$app_build_number": ("context.app.build",),
    "$screen_width": ("context.screen.width",),
    "$screen_height": ("context.screen.height",),
    "$city": ("context.geo.city",),
    "mp_country_code": ("context.geo.country",),
    "utm_source": ("context.campaign.source",),
    "utm_medium": ("context.campaign.medium",),
    "utm_campaign": ("context.campaign.name",),
    "utm_term": ("context.campaign.term",),
    "utm_content": ("context.campaign.content",),
}
TRAITS = {
    "email": "$email",
    "name": "$name",
    "firstName": "$first_name",
    "lastName": "$last_name",
    "phone": "$phone",
    "avatar": "$avatar",
    "createdAt": "$created",
}
"""Traits that have names of Mixpanel's own."""
_INSERT_ID = re.compile(r"[A-Za-z0-9-]{1,36}", re.ASCII)


class Options(Batching, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of Mixpanel."""

    token: Annotated[str, Meta(min_length=1, extra={"secret": True}, description="token of the project")]
    region: Annotated[Literal["us", "eu", "in"], Meta(description="where the project keeps its data")] = "us"
    group_key: Annotated[str, Meta(min_length=1, description="the property that is the project's group key")] = "company"


OPTIONS = Options
CAPABILITIES = EventCapabilities()


async def open_destination(name: str, options: Options, environment: Environment) -> EventDestination:  # noqa: ARG001
    """Returns the destination; connects to nothing yet."""
    return Mixpanel(options)


class Mixpanel(Service):
    """One project."""

    def __init__(self, options: Options) -> None:
        super().__init__(send_limits(options, BATCH.events))
        self._options = options
        self._address = address(options, HOSTS[options.region])
        self._headers = {"Authorization": basic(options.token), "Content-Type": JSON_TYPE}

    def calls(self, events: Sequence[JSON], at: float) -> Calls:
        def wrap(target: str, pieces: Sequence[Piece], places: Sequence[int]) -> Call:
            url = self._address + PATHS[target]
            return post(url, self._headers, array(pieces), places)

        return batched(events, lambda event: self._piece(event, at), wrap, BATCH)

    def answer(self, call: Call, response: Response) -> Sequence[Outcome]:
        answered = said(response)
        if "/import" in call.url:
            failed = fields.objects(answered.get("failed_records"))
            if response.status == 400 and failed:
                found = [(each.get("index"), f"{each.get('field')}: {each.get('message')}") for each in failed]
                return refused(call, found, "answered 400")
        elif response.status == 200 and (answered.get("status") == 0 or response.body.strip() == b"0"):  # for the whole call
            return alike(call, Dead(DeadReason.REJECTED_BY_DESTINATION, words_of(response)))
        elif response.status == 200 and response.body.strip() == b"1":
            return alike(call, Ok())
        return alike(call, verdict(response))

    def trial(self) -> Call | str:
        """A batch without events."""
        return post(self._address + PATHS["import"], self._headers, b"[]", (0,))

    def _piece(self, event: JSON, at: float) -> Piece | Drop:
        kind = event.get("type")
        if kind == "identify":
            return self._profile(event)
        if kind == "group":
            return self._group(event)
        name = fields.name_of(event) if kind in ("track", "page", "screen") else ""
        if not name:
            return Drop(DropReason.UNSUPPORTED)
        user, device = fields.user_id(event), fields.anonymous_id(event)
        message = fields.text(event.get("messageId"))
        properties = {
            **fields.filled(event, CONTEXT),
            **fields.properties_of(event),
            "time": millis(happened(event, at)),
            "distinct_id": user or (f"$device:{device}" if device else ""),
            "$insert_id": message if _INSERT_ID.fullmatch(message) else _digest(message),
            "mp_lib": "penstock",
        }
        if user:
            properties["$user_id"] = user
        if device:
            properties["$device_id"] = device
        group = fields.text(fields.lookup(event, "context.groupId"))
        if group:
            properties.setdefault(self._options.group_key, group)
        return Piece("import", encode({"event": name, "properties": properties}))

    def _profile(self, event: JSON) -> Piece | Drop:
        user = fields.user_id(event)
        if not user:
            return Drop(DropReason.UNIDENTIFIED)
        traits = {TRAITS.get(key, key): value for key, value in fields.object_at(event, "traits").items()}
        item = {"$token": self._options.token, "$distinct_id": user, "$set": traits}
        ip = fields.first(event, fields.IP)
        item["$ip"] = ip if ip is not None else "0"  # otherwise Mixpanel takes this server's address
        return Piece("engage", encode(item), weight=BATCH.events // PROFILES)

    def _group(self, event: JSON) -> Piece | Drop:
        group = fields.text(event.get("groupId"))
        if not group:
            return Drop(DropReason.UNIDENTIFIED)
        item = {
            "$token": self._options.token,
            "$group_key": self._options.group_key,
            "$group_id": group,
            "$set": fields.object_at(event, "traits"),
        }
        return Piece("groups", encode(item), weight=BATCH.events // PROFILES)


def _digest(message: str) -> str:
    return hashlib.sha256(message.encode("utf-8", "surrogatepass")).hexdigest()[:36]
