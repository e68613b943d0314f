"""What the contract must allow: a warehouse with stored tables and no transactions, which drops a repeated insert by its token.

So does ClickHouse (`insert_deduplication_token`), and so do BigQuery's load jobs (the id of a job is used once). This one is a stand-in of a
few lines; a plug-in for a real one must be able to do as much through the same four calls, without a change of the core.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest

from loader.contract.warehouse import (
    Capabilities,
    Column,
    Kind,
    LoadPlan,
    LoadReport,
    Session,
    TableLoad,
    TablePatch,
    TableSchema,
)
from shared.errors import NotConnected, RowsRejected
from tests.support.delivery import Delivery
from tests.support.destinations.opened import Open

CAPABILITIES = Capabilities(
    name_limit=127, name_unit="bytes", transactional=False, merge="no", coalesce=False, stream=True, evolve=True,
    kinds=frozenset(Kind) - {Kind.JSON, Kind.DECIMAL},
)  # fmt: skip


class Server:
    """Tables, and the tokens of the inserts each of them took."""

    def __init__(self) -> None:
        self.columns: dict[str, dict[str, Column]] = {}
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.tokens: set[tuple[str, str]] = set()

    def insert(self, table: str, rows: list[dict[str, Any]], token: str) -> None:
        """One insert: all its rows or none, and nothing the second time."""
        if (table, token) not in self.tokens:
            self.tokens.add((table, token))
            self.rows[table] += rows


class TokenSession:
    """As a plug-in would write it. `inserts`: after so many the connection is lost, before the answer arrives."""

    def __init__(self, server: Server, inserts: int = 1000) -> None:
        self._server = server
        self._inserts = inserts

    async def marks(self) -> Mapping[tuple[str, str], int]:
        return {}

    async def describe(self, tables: Sequence[str]) -> Mapping[str, TableSchema | None]:
        columns = self._server.columns
        return {name: TableSchema(dict(columns[name])) if name in columns else None for name in tables}

    async def create(self, patches: Sequence[TablePatch]) -> Mapping[str, TableSchema]:
        return {patch.table: await self.patch(patch) for patch in patches}

    async def patch(self, patch: TablePatch) -> TableSchema:
        columns = self._server.columns.setdefault(patch.table, {})
        self._server.rows.setdefault(patch.table, [])
        for column in patch.add:
            columns.setdefault(column.name, column)
        return TableSchema(dict(columns))

    async def load(self, plan: LoadPlan, loads: Sequence[TableLoad]) -> LoadReport:
        await self.probe(loads)  # before anything is sent: nothing can be taken back
        for load in loads:
            self._server.insert(load.table, load.rows.to_pylist(), f"{plan.lane}-{plan.first}-{plan.last}")
            self._inserts -= 1
            if self._inserts <= 0:
                raise NotConnected("no answer")
        return LoadReport({load.table: load.rows.num_rows for load in loads})

    async def probe(self, loads: Sequence[TableLoad]) -> None:
        for load in loads:
            if "n" in load.rows.column_names:
                bad = {index: "too small" for index, n in enumerate(load.rows.column("n").to_pylist()) if n is not None and n < 0}
                if bad:
                    raise RowsRejected(load.table, "out of range", bad)

    async def close(self) -> None:
        return


class _Opened:
    capabilities = CAPABILITIES


def connect(server: Server, inserts: int = 1000) -> Delivery:
    return Delivery(cast("Open", _Opened()), cast("Session", TokenSession(server, inserts)), layout="segment")


EVENTS = [{"messageId": str(number), "event": name, "properties": {"n": number}} for number, name in enumerate("aabbc")]


def ids(server: Server, table: str) -> list[str]:
    return [row["id"] for row in server.rows.get(table, [])]


@pytest.mark.parametrize("inserts", [1, 2, 3, 4])
async def test_a_plan_that_is_repeated_after_any_of_its_inserts_arrives_once(inserts: int) -> None:
    server = Server()
    with pytest.raises(NotConnected):
        await connect(server, inserts).send(*EVENTS)
    assert await connect(server).send(*EVENTS) == {}
    assert ids(server, "tracks") == ["0", "1", "2", "3", "4"]
    assert (ids(server, "a"), ids(server, "b"), ids(server, "c")) == (["0", "1"], ["2", "3"], ["4"])


async def test_an_event_that_one_table_refuses_is_in_none_of_them() -> None:
    server = Server()
    bad = {"messageId": "bad", "event": "c", "properties": {"n": -1}}
    assert list(await connect(server).send(*EVENTS, bad)) == ["bad"]
    assert "bad" not in ids(server, "tracks")
    assert ids(server, "c") == ["4"]
