"""Events to Customer.io's Track API v2, in batches. https://docs.customer.io/integrations/api/track/tag/track_v2/batch/

People are identified by `userId`. What happens before that bears an `anonymous_id`, and Customer.io adds it to the person whose
attribute `anonymous_id` is the same (https://docs.customer.io/journeys/merge-anonymous); batches do not take it, so it goes out
one by one (https://docs.customer.io/integrations/api/track/tag/track-events/trackAnonymous/). Groups are objects, related to the
person.

Known traps: 207 says that a part of the batch was refused; `batch_index` names each event. The id by which Customer.io recognises
a repeat must be a ULID, so one is made from the event's time and `messageId`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta

from loader.calls import fields
from loader.calls.batches import Batch, Piece, array, batched, encode, get, post
from loader.calls.moments import as_ulid, happened, seconds
from loader.calls.options import Batching, address, send_limits
from loader.calls.verdicts import JSON_TYPE, alike, basic, refused, said, verdict
from loader.cloud import Service
from loader.contract.events import Call, Calls, EventCapabilities, EventDestination, Response
from loader.contract.warehouse import Environment
from shared.events.event import JSON, read_time
from shared.events.outcome import Drop, DropReason, Outcome

HOSTS = {"us": "https://track.customer.io", "eu": "https://track-eu.customer.io"}
BATCH = Batch(events=1_000, bytes=500_000, event_bytes=32_000)


class Options(Batching, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of Customer.io."""

    site_id: Annotated[str, Meta(min_length=1, description="site id of the workspace's tracking credentials")]
    api_key: Annotated[str, Meta(min_length=1, extra={"secret": True}, description="API key of the tracking credentials")]
    region: Annotated[Literal["us", "eu"], Meta(description="where the account is")] = "us"
    object_type: Annotated[str, Meta(min_length=1, description="id of the object type that groups are")] = "1"


OPTIONS = Options
CAPABILITIES = EventCapabilities()


async def open_destination(name: str, options: Options, environment: Environment) -> EventDestination:  # noqa: ARG001
    """Returns the destination; connects to nothing yet."""
    return CustomerIO(options)


class CustomerIO(Service):
    """One workspace."""

    def __init__(self, options: Options) -> None:
        super().__init__(send_limits(options, BATCH.events))
        self._object_type = options.object_type
        self._address = address(options, HOSTS[options.region])
        self._headers = {"Authorization": basic(options.site_id, options.api_key), "Content-Type": JSON_TYPE}

    def calls(self, events: Sequence[JSON], at: float) -> Calls:
        def wrap(target: str, pieces: Sequence[Piece], places: Sequence[int]) -> Call:
            if target == "anonymous":
                return post(f"{self._address}/api/v1/events", self._headers, pieces[0].body, places)
            body = b'{"batch":' + array(pieces) + b"}"
            return post(f"{self._address}/api/v2/batch", self._headers, body, places)

        return batched(events, lambda event: self._piece(event, at), wrap, BATCH)

    def answer(self, call: Call, response: Response) -> Sequence[Outcome]:
        errors = fields.objects(said(response).get("errors"))
        if response.status in (200, 207, 400) and errors:
            failed = [(each.get("batch_index"), f"{each.get('field')}: {each.get('message')}") for each in errors]
            return refused(call, failed, f"answered {response.status}")
        return alike(call, verdict(response))

    def trial(self) -> Call | str:
        return get(f"{self._address}/api/v1/accounts/region", self._headers)

    def _piece(self, event: JSON, at: float) -> Piece | Drop:
        kind, user, anonymous = event.get("type"), fields.user_id(event), fields.anonymous_id(event)
        moment = happened(event, at)
        item: JSON
        match kind:
            case "identify" if user:
                attributes = fields.object_at(event, "traits")
                if (created := read_time(attributes.get("createdAt"))) is not None:
                    attributes["created_at"] = seconds(created)  # the name and the form that Customer.io knows
                if anonymous:
                    attributes["anonymous_id"] = anonymous
                item = {"type": "person", "identifiers": {"id": user}, "action": "identify", "attributes": attributes}
            case "track" | "page" | "screen" if user or anonymous:
                name = fields.text(event.get("event")) if kind == "track" else _view(event)
                if not name:
                    return Drop(DropReason.UNSUPPORTED)
                action = "event" if kind == "track" else kind
                known = as_ulid(moment, fields.text(event.get("messageId")))
                item = {"name": name, "timestamp": seconds(moment), "id": known}
                if not user:
                    item |= {"anonymous_id": anonymous, "type": action, "data": fields.properties_of(event)}
                    return Piece("anonymous", encode(item), once="anonymous")
                item |= {
                    "type": "person",
                    "action": action,
                    "identifiers": {"id": user},
                    "attributes": fields.properties_of(event),
                }
            case "group" if group := fields.text(event.get("groupId")):
                item = {
                    "type": "object",
                    "identifiers": {"object_type_id": self._object_type, "object_id": group},
                    "action": "identify",
                    "attributes": fields.object_at(event, "traits"),
                }
                if user:
                    item["cio_relationships"] = [{"identifiers": {"id": user}}]
                elif anonymous:
                    related = [{"identifiers": {"anonymous_id": anonymous}}]
                    item |= {"action": "identify_anonymous", "cio_relationships": related}
            case "alias" if user and (previous := fields.text(event.get("previousId"))):
                item = {"type": "person", "action": "merge", "primary": {"id": user}, "secondary": {"id": previous}}
            case "identify" | "track" | "page" | "screen" | "group" | "alias":
                return Drop(DropReason.UNIDENTIFIED)
            case _:
                return Drop(DropReason.UNSUPPORTED)
        return Piece("batch", encode(item))


def _view(event: JSON) -> str:
    """Returns the name of a page or a screen, which is its place."""
    paths = (*fields.URL, "name") if event.get("type") == "page" else ("name",)
    return fields.first_text(event, paths) or fields.name_of(event)
