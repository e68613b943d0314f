"""Events to Segment's HTTP API, in batches. https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/

Events stay as they are, except times: `timestamp` is already corrected for the client's clock, so the inputs of that correction
are not sent, and Segment's own correction changes nothing.

Known traps: an answer with 200 says that Segment took the batch, not that each event was good; its Delivery Overview shows events
that it refused afterwards. A wrong write key mostly gets 200 too.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal

from msgspec import Meta

from loader.calls.batches import Batch, Piece, array, batched, encode, post
from loader.calls.moments import happened, iso
from loader.calls.options import Batching, address, send_limits
from loader.calls.verdicts import JSON_TYPE, alike, basic, verdict
from loader.cloud import Service
from loader.contract.events import Call, Calls, EventCapabilities, EventDestination, Response
from loader.contract.warehouse import Environment
from shared.events.event import JSON
from shared.events.outcome import Outcome

HOSTS = {"us": "https://api.segment.io", "eu": "https://events.eu1.segmentapis.com"}
BATCH = Batch(events=2_500, bytes=500_000, event_bytes=32 * 1024)
OURS = frozenset({"receivedAt", "sentAt", "originalTimestamp"})
"""Keys that are not sent."""


class Options(Batching, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of Segment."""

    write_key: Annotated[str, Meta(min_length=1, extra={"secret": True}, description="write key of the source")]
    region: Annotated[Literal["us", "eu"], Meta(description="where the workspace is")] = "us"


OPTIONS = Options
CAPABILITIES = EventCapabilities()


async def open_destination(name: str, options: Options, environment: Environment) -> EventDestination:  # noqa: ARG001
    """Returns the destination; connects to nothing yet."""
    return Segment(options)


class Segment(Service):
    """One source of a workspace."""

    def __init__(self, options: Options) -> None:
        super().__init__(send_limits(options, BATCH.events))
        self._url = f"{address(options, HOSTS[options.region])}/v1/batch"
        self._headers = {"Authorization": basic(options.write_key), "Content-Type": JSON_TYPE}

    def calls(self, events: Sequence[JSON], at: float) -> Calls:
        sent = encode(iso(datetime.fromtimestamp(at, UTC)))

        def make(event: JSON) -> Piece:
            kept = {key: value for key, value in event.items() if key not in OURS}
            kept["timestamp"] = iso(happened(event, at))
            return Piece("batch", encode(kept))

        def wrap(_target: str, pieces: Sequence[Piece], places: Sequence[int]) -> Call:
            body = b'{"batch":' + array(pieces) + b',"sentAt":' + sent + b"}"
            return post(self._url, self._headers, body, places)

        return batched(events, make, wrap, BATCH)

    def answer(self, call: Call, response: Response) -> Sequence[Outcome]:
        return alike(call, verdict(response))
