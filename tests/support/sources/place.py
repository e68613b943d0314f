"""A place: a source system of one plug-in with known rows, which a test can add to, change and widen.

The rows are orders: `id` (a whole number), `name` (text), `total` (a number), `updated_at` (the cursor, which grows; always two
orders share one). They lie in a stream `orders`; a stream `empty` has the same columns and no rows. Where a system cannot have
streams of these names, the place names its own.

To add a place: one file here, with a class of its own, and a line in `PLACES` of tests/contract/sources/conftest.py.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import pytest

from connector_runner import registry
from connector_runner.contract import (
    Checkpoint,
    Ended,
    Environment,
    JsonRows,
    Message,
    Row,
    Rows,
    Said,
    Selected,
    Source,
    Stream,
    StreamName,
    SyncMode,
)
from connector_runner.json_rows import json_rows

ROWS = 12
"""Orders that a place has at first: 1 to this."""
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
CACHE = Path(__file__).parents[3] / ".venv" / "connectors"
"""Installed connectors outlive a run of the tests."""


def moment(number: int) -> datetime:
    """Returns the value of the cursor of an order: two orders share one."""
    return BEGIN + timedelta(hours=(number + 1) // 2)


def order(number: int) -> dict[str, Any]:
    """Returns an order as a place has it at first."""
    return {
        "id": number,
        "name": f"Kunde №{number} 'x' \"y\"",
        "total": Decimal("1.25") * number,
        "updated_at": moment(number),
    }


class Place(ABC):
    """A source system. `start` makes it, with orders 1 to `ROWS`; `stop` takes it away.

    Args:
        folder: for its files.
        request: gives the fixtures of tests/conftest.py, such as a server that tests share.
    """

    type: ClassVar[str]
    """The plug-in."""
    waivers: ClassVar[Mapping[str, str]] = {}
    """What it need not do, by the name of the test or of a promise (see `PROMISES`), with the reason."""
    stream: ClassVar[str] = "orders"
    empty: ClassVar[str] = "empty"
    remedy: ClassVar[str]
    """What `check` says of `wrong`, as a regular expression: the words that tell a person what to do."""
    secret: ClassVar[str] = ""
    """A secret of `wrong`; no message has it."""
    sessions: ClassVar[str] = ""
    """The name of processes of a test's server that serve one session each; `leftovers` tells of them."""
    stops: ClassVar[int] = 40
    """At how many messages and moments, spread over a read, the suite breaks off; fewer where a read is dear."""

    def __init__(self, folder: Path, request: pytest.FixtureRequest) -> None:
        self.folder = folder
        self.request = request
        self.private = folder / "private"
        self.private.mkdir(parents=True)
        self.heard: list[Said] = []

    @abstractmethod
    async def start(self) -> None:
        """Makes the system with its rows."""

    async def stop(self) -> None:  # noqa: B027  # many have nothing to end
        """Takes the system away."""

    @abstractmethod
    def document(self) -> dict[str, Any]:
        """Returns the connector's entry in a project file; it works."""

    @abstractmethod
    def wrong(self) -> dict[str, Any]:
        """Returns options in place of some of the document's: they decode, and do not work (a bad password, no such file)."""

    @abstractmethod
    async def put(self, *rows: Mapping[str, Any]) -> None:
        """Adds these orders, or puts each in the place of the order with its id."""

    @abstractmethod
    async def widen(self, *rows: Mapping[str, Any]) -> None:
        """Gives the orders a column `note`, a text, and adds these orders, which have it."""

    async def leftovers(self) -> Sequence[str]:
        """Returns what of a broken-off read still runs in the system, such as sessions of a server, once it had time to end."""
        return ()

    async def open(self, **options: Any) -> Source:
        """Opens the connector, with some options in place of its own."""
        plugin, parsed = registry.parse_options("subject", {**self.document(), **options})
        return await plugin.open_source("subject", parsed, Environment(CACHE, self.private, self.heard.append))

    async def streams(self, source: Source) -> dict[str, Stream]:
        """Returns the streams `orders` and `empty`, by these names."""
        found = {each.name: each for each in await source.discover()}
        return {"orders": found[self.stream], "empty": found[self.empty]}


PROMISES = ("ties_once", "columns_left_out", "schema_told", "incremental")
"""What a place may waive beside tests.

ties_once: a read from a state does not give rows again whose cursor equals the newest. columns_left_out: columns that are not
chosen do not come. schema_told: `discover` names the columns. incremental: a read may go on from a state.
"""


@dataclass
class Reading:
    """What one read gave."""

    messages: list[Message] = field(default_factory=list)

    def rows(self) -> list[dict[str, Any]]:
        """Returns all rows; numbers with a point are decimals."""
        return [json.loads(row, parse_float=Decimal) for each in self.messages for row in written(each)]

    def ids(self) -> list[int]:
        """Returns the ids of all rows, sorted."""
        return sorted(int(row["id"]) for row in self.rows())

    @property
    def states(self) -> dict[StreamName | None, bytes]:
        """The newest states."""
        return states_of(self.messages)

    @property
    def complete(self) -> set[str]:
        """Names of the streams that came to their end."""
        return {each.stream.name for each in self.messages if isinstance(each, Ended) and each.complete}


def states_of(messages: Sequence[Message]) -> dict[StreamName | None, bytes]:
    """Returns the newest states, as a runner keeps them: one of all streams replaces all others."""
    states: dict[StreamName | None, bytes] = {}
    for each in messages:
        if isinstance(each, Checkpoint):
            if each.stream is None:
                states.clear()
            states[each.stream] = each.state
    return states


def written(message: Message) -> list[bytes]:
    """Returns the rows of a message as JSON; none if it is no message of rows."""
    if isinstance(message, Row):
        return [message.data]
    if isinstance(message, JsonRows):
        return message.rows
    return list(json_rows(message.rows)) if isinstance(message, Rows) else []


def spread(count: int, most: int) -> list[int]:
    """Returns numbers from 0 to `count`, both among them: all, or about so many."""
    step = min(count, most)
    return sorted({round(each * count / step) for each in range(step + 1)}) if step else [0]


def selected(stream: Stream, *, full: bool = False, columns: tuple[tuple[str, ...], ...] | None = None) -> Selected:
    """Returns a choice of a stream: incrementally where it can, unless `full`."""
    mode: SyncMode = "full_refresh" if full or "incremental" not in stream.modes else "incremental"
    return Selected(stream, mode, stream.cursor, stream.primary_key or (("id",),), columns)


async def read(
    source: Source,
    chosen: Sequence[Selected],
    states: Mapping[StreamName | None, bytes] | None = None,
    stop_after: int | None = None,
) -> Reading:
    """Reads what the chosen streams give, at most so many messages."""
    found = Reading()
    if stop_after == 0:
        return found
    async with aclosing(source.read(chosen, states or {})) as messages:
        async for message in messages:
            found.messages.append(message)
            if stop_after is not None and len(found.messages) >= stop_after:
                break
    return found
