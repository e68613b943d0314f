"""An API over HTTP beside the test: a bearer token, pages by offset, a filter by time, and 429 with a date now and then."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC
from typing import Any

from connector_runner.contract import Source
from tests.support.paged_api import TOKEN, paged_api_apart
from tests.support.sources.place import ROWS, Place, order

PAST = "Wed, 21 Oct 2015 07:28:00 GMT"


class HttpApiPlace(Place):
    """The API, which has the orders in the order of their cursor."""

    type = "http_api"
    remedy = "answers 401.*check `auth`"
    secret = f"wrong-{TOKEN}"

    async def start(self) -> None:
        """Serves the API."""
        self.sources: list[Source] = []
        self._open = ExitStack()
        self.api = self._open.enter_context(paged_api_apart())
        self.api.pause = PAST
        self.rows = {number: order(number) for number in range(1, ROWS + 1)}
        self.serve()

    async def stop(self) -> None:
        """Ends the API."""
        for each in self.sources:
            await each.close()
        self._open.close()

    async def open(self, **options: Any) -> Source:
        """Opens the connector; `stop` closes it."""
        self.sources.append(await super().open(**options))
        return self.sources[-1]

    def serve(self) -> None:
        """Gives the API the orders."""
        rows = sorted(self.rows.values(), key=lambda row: (row["updated_at"], row["id"]))
        self.api.orders = [
            {**row, "total": float(row["total"]), "updated_at": f"{row['updated_at'].astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"}
            for row in rows
        ]

    def document(self) -> dict[str, Any]:
        """Describes the API."""
        cursor = {"field": "updated_at", "param": "since", "format": "iso", "order": "ascending"}
        orders = {
            "path": "orders",
            "records": "data",
            "primary_key": ["id"],
            "cursor": cursor,
            "paging": {"type": "offset", "size": 5},
        }
        streams = {"orders": orders, "empty": {"path": "empty", "records": "data"}}
        return {"type": "http_api", "base_url": self.api.url, "auth": {"type": "bearer", "token": TOKEN}, "streams": streams}

    def wrong(self) -> dict[str, Any]:
        """Has another token."""
        return {"auth": {"type": "bearer", "token": self.secret}}

    async def put(self, *rows: Mapping[str, Any]) -> None:
        """Adds orders to the API, which then refuses the next request with 429."""
        self.rows |= {row["id"]: dict(row) for row in rows}
        self.serve()
        self.api.busy = 1

    async def widen(self, *rows: Mapping[str, Any]) -> None:
        """Adds orders that have one key more."""
        await self.put(*rows)
