"""A connector of the Airbyte protocol: a low-code manifest, run by the published kit, against an HTTP API beside the test."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import UTC
from typing import Any, ClassVar

from connector_runner.contract import Source, Stream
from tests.support.paged_api import TOKEN, manifest, paged_api
from tests.support.sources.place import ROWS, Place, order


class AirbytePlace(Place):
    """The API, which has the orders."""

    type = "airbyte"
    waivers: ClassVar = {
        "ties_once": "the kit's cursor asks for rows at or after the newest moment, so those at it come again",
        "test_columns_that_are_not_chosen_do_not_come": "the kit gives the rows as the API wrote them",
        "test_a_column_that_comes_between_two_reads_loses_nothing": "the kit gives the rows as the API wrote them",
        "test_a_read_that_is_broken_off_anywhere_goes_on_without_a_gap": "an order of the kit has one state, at its end; a connector "
        "with several is in tests/contract/connectors/",
    }
    remedy = "ensure you are authenticated correctly"
    secret = f"wrong-{TOKEN}"
    stops = 2
    _streams: ClassVar[dict[str, Stream]] = {}

    async def start(self) -> None:
        """Serves the API."""
        self._open = AsyncExitStack()
        self.api = await self._open.enter_async_context(paged_api())
        self.rows = {number: order(number) for number in range(1, ROWS + 1)}
        self.serve()

    async def stop(self) -> None:
        """Ends the API."""
        await self._open.aclose()

    def serve(self) -> None:
        """Gives the API the orders."""
        self.api.orders = [
            {**row, "total": float(row["total"]), "updated_at": f"{row['updated_at'].astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"}
            for row in self.rows.values()
        ]

    def document(self) -> dict[str, Any]:
        """Has the manifest in place."""
        return {"type": "airbyte", "manifest": manifest(self.api.url), "config": {"token": TOKEN}}

    def wrong(self) -> dict[str, Any]:
        """Has another token."""
        return {"config": {"token": self.secret}}

    async def put(self, *rows: Mapping[str, Any]) -> None:
        """Adds orders to the API, which then refuses the next request with 429: the kit waits."""
        self.rows |= {row["id"]: dict(row) for row in rows}
        self.serve()
        self.api.busy = 1

    async def widen(self, *rows: Mapping[str, Any]) -> None:
        """Adds orders that have one key more."""
        await self.put(*rows)

    async def streams(self, source: Source) -> dict[str, Stream]:
        """Asks for the streams once: the manifest of all tests is the same, and the kit takes seconds to answer."""
        if not self._streams:
            self._streams.update(await super().streams(source))
        return self._streams
