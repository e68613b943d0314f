"""Events to PostHog, by its batch endpoint. https://posthog.com/docs/api/capture

PostHog knows everything as an event: people are identified by `$identify`, groups by `$groupidentify`, aliases by
`$create_alias`. `uuid` is made from the `messageId`; PostHog keeps one of the events with the same `uuid`, name, person and day.

Known trap: an answer with 200 may say `quota_limited`. Then PostHog threw the batch away, so all calls wait and this one is tried
again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from loader.calls import fields
from loader.calls.batches import Batch, Piece, array, batched, encode, post
from loader.calls.moments import happened, iso
from loader.calls.options import Batching, address, send_limits
from loader.calls.verdicts import JSON_TYPE, alike, said, verdict
from loader.cloud import Service
from loader.contract.events import Call, Calls, EventCapabilities, EventDestination, Response
from loader.contract.warehouse import Environment
from shared.events.event import JSON
from shared.events.outcome import Drop, DropReason, Outcome, Retry

HOST = "https://us.i.posthog.com"
BATCH = Batch(events=1_000, bytes=20_000_000, event_bytes=1_000_000)
QUOTA_SECONDS = 900.0
"""How long all calls wait when the month's quota is used up."""

CONTEXT: fields.Table = {
    "$ip": fields.IP,
    "$raw_user_agent": fields.USER_AGENT,
    "$current_url": fields.URL,
    "$referrer": fields.REFERRER,
    "$pathname": ("properties.path", "context.page.path"),
    "title": fields.TITLE,
    "$locale": ("context.locale",),
    "$timezone": ("context.timezone",),
    "$os": ("context.os.name",),
    "$os_version": ("context.os.version",),
    "$device_type": ("context.device.type",),
    "$device_id": ("context.device.id",),
    "$device_manufacturer": ("context.device.manufacturer",),
    "$device_model": ("context.device.model",),
    "$app_name": ("context.app.name",),
    "$app_version": ("context.app.version",),
    "$app_build": ("context.app.build",),
    "$screen_width": ("context.screen.width",),
    "$screen_height": ("context.screen.height",),
    "utm_source": ("context.campaign.source",),
    "utm_medium": ("context.campaign.medium",),
    "utm_campaign": ("context.campaign.name",),
    "utm_term": ("context.campaign.term",),
    "utm_content": ("context.campaign.content",),
}
"""PostHog's properties that are filled from the context."""


class Options(Batching, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of PostHog. `endpoint` is `https://eu.i.posthog.com` for its cloud in the EU, or a server of one's own."""

    api_key: Annotated[str, Meta(min_length=1, extra={"secret": True}, description="project API key (phc_…)")]
    group_type: Annotated[str, Meta(min_length=1, description="the type that groups have in PostHog")] = "company"


OPTIONS = Options
CAPABILITIES = EventCapabilities()


async def open_destination(name: str, options: Options, environment: Environment) -> EventDestination:  # noqa: ARG001
    """Returns the destination; connects to nothing yet."""
    return PostHog(options)


class PostHog(Service):
    """One project."""

    def __init__(self, options: Options) -> None:
        super().__init__(send_limits(options, BATCH.events))
        self._group_type = options.group_type
        self._url = f"{address(options, HOST)}/batch/"
        self._head = b'{"api_key":' + encode(options.api_key) + b',"batch":'

    def calls(self, events: Sequence[JSON], at: float) -> Calls:
        def make(event: JSON) -> Piece | Drop:
            person = fields.person(event)
            if not person:
                return Drop(DropReason.UNIDENTIFIED)
            made = self._event(event)
            if made is None:
                return Drop(DropReason.UNSUPPORTED)
            name, own = made
            properties = {**fields.filled(event, CONTEXT), "$lib": "penstock", **own}
            group = fields.text(fields.lookup(event, "context.groupId"))
            if group and event.get("type") != "group":
                properties["$groups"] = {self._group_type: group}
            item = {
                "event": name,
                "distinct_id": person,
                "uuid": fields.as_uuid(fields.text(event.get("messageId"))),
                "timestamp": iso(happened(event, at)),
                "properties": properties,
            }
            return Piece("batch", encode(item))

        def wrap(_target: str, pieces: Sequence[Piece], places: Sequence[int]) -> Call:
            return post(self._url, {"Content-Type": JSON_TYPE}, self._head + array(pieces) + b"}", places)

        return batched(events, make, wrap, BATCH)

    def answer(self, call: Call, response: Response) -> Sequence[Outcome]:
        limited = said(response).get("quota_limited") if response.status == 200 else None
        if isinstance(limited, list) and "events" in limited:
            return alike(
                call, Retry("the project's quota of events is used up; raise it in PostHog", QUOTA_SECONDS, everyone=True)
            )
        return alike(call, verdict(response))

    def _event(self, event: JSON) -> tuple[str, JSON] | None:
        """Returns the name and the properties of PostHog's event; None: PostHog has no such event."""
        properties = fields.properties_of(event)
        match event.get("type"):
            case "track" if name := fields.name_of(event):
                return name, properties
            case "page":
                return "$pageview", properties
            case "screen":
                return "$screen", {"$screen_name": fields.text(event.get("name")), **properties}
            case "identify":
                own: JSON = {"$set": fields.object_at(event, "traits")}
                anonymous = fields.anonymous_id(event)
                if anonymous and anonymous != fields.person(event):
                    own["$anon_distinct_id"] = anonymous
                return "$identify", own
            case "group" if group := fields.text(event.get("groupId")):
                traits = fields.object_at(event, "traits")
                return "$groupidentify", {"$group_type": self._group_type, "$group_key": group, "$group_set": traits}
            case "alias" if previous := fields.text(event.get("previousId")):
                return "$create_alias", {"alias": previous}
            case _:
                return None
