"""Streams of a sync that fail leave the others alone, and rows that do not fit leave their neighbours alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from loader.contract.warehouse import LoadPlan, LoadReport, TableLoad
from loader.delivery.destinations import MaskedSession
from loader.fitting.fit import fit_batch
from loader.queue import persistence
from loader.syncs import deliver
from loader.syncs.suspect import MOST_SESSIONS
from shared.errors import UnknownDriverError
from shared.syncs.frames import Over, State
from tests.support.destinations.postgres import PostgresSubject
from tests.support.syncs import Loaders, Queue, Warehouse, arrow, ids, rows, stream


async def test_a_stream_whose_table_fails_fails_alone_and_its_state_stays(wh: Warehouse, queue: Queue, loaders: Loaders) -> None:
    assert isinstance(wh, PostgresSubject)
    await wh.run('CREATE SCHEMA "{}"')
    await wh.run("CREATE VIEW \"{}\".seen AS SELECT 1::bigint AS id, 'a' AS text")
    bad, good = stream("seen", "replace"), stream()
    states = [State(b"all")]
    await queue.put(1, 1, [(good, rows(1))], states=states)
    await queue.put(1, 2, [(bad, rows(2)), (good, rows(3))], states=[State(b"newer")])
    await queue.put(1, 3, [(bad, rows(4)), (good, rows(5))], states=[State(b"s", "seen"), State(b"o", "orders")])
    over = [Over(bad, complete=True), Over(good, complete=True)]
    await queue.put(1, 4, over=over, states=[State(b"newest")], last=True)
    async with loaders.life():
        await queue.is_empty()
    progress = await queue.progress()
    assert await ids(wh) == Counter((1, 3, 5))
    assert "seen" in progress.streams["seen"].failed
    assert (progress.streams["seen"].over, progress.streams["orders"].over) == (False, True)
    assert progress.states == (State(b"all"), State(b"o", "orders"))
    assert await queue.letters() == []
    # the next run brings them again, and the table can be written by then
    await wh.run('DROP VIEW "{}".seen')
    await queue.put(2, 1, [(bad, rows(2, 4))], over=[Over(bad, complete=True)], states=[State(b"s2", "seen")], last=True)
    async with loaders.life():
        await queue.is_empty()
    assert await ids(wh, "seen") == Counter((2, 4))
    assert (await queue.progress()).streams["seen"].failed == ""


async def test_a_row_that_does_not_fit_is_a_dead_letter_and_its_neighbours_are_loaded(
    wh: Warehouse, queue: Queue, loaders: Loaders
) -> None:
    await wh.run('CREATE SCHEMA "{}"')
    await wh.run('CREATE TABLE "{}".orders (id bigint CHECK (id < 100), text text)')
    bad: list[Any] = [*rows(1, 100), b"{", b"[1]", b'{"id": 2, "text": NaN}']
    await queue.put(1, 1, [(stream(), bad), (stream("people", "merge", key=["id"]), arrow(7))])
    await queue.put(1, 2, [(stream(), arrow(3, 200, 4))], last=True)
    async with loaders.life():
        await queue.is_empty()
    assert await ids(wh) == Counter((1, 2, 3, 4))
    assert await ids(wh, "people") == Counter((7,))
    letters = {letter.body: letter for letter in await queue.letters()}
    assert set(letters) == {b'{"id":100,"text":"a"}', b"{", b"[1]", b'{"id":200,"text":"a"}'}
    assert {letter.reason for letter in letters.values()} == {"rejected_by_destination", "malformed_json", "not_an_object"}
    assert {(letter.stage, letter.connection, letter.table) for letter in letters.values()} == {
        ("loader", "sync:orders", "orders")
    }
    found = (await queue.progress()).streams["orders"]
    assert (found.loaded, found.dead, found.failed) == (4, 4, "")


async def test_a_stream_with_too_many_dead_rows_fails_and_buries_none(wh: Warehouse, queue: Queue, loaders: Loaders) -> None:
    bad: list[Any] = [*rows(*range(80)), *[b"{"] * 20]
    await queue.put(1, 1, [(stream(), bad), (stream("people"), rows(1))], states=[State(b"o", "orders"), State(b"p", "people")])
    async with loaders.life():
        await queue.is_empty()
    progress = await queue.progress()
    assert "20 of 100 rows" in progress.streams["orders"].failed
    assert progress.states == (State(b"p", "people"),)
    assert (await ids(wh), await ids(wh, "people"), await queue.letters()) == (Counter(), Counter((1,)), [])


async def test_a_table_with_an_error_that_nobody_knows_holds_up_no_other_stream_for_good(
    queue: Queue, wh: Warehouse, loaders: Loaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, probe, tries = MaskedSession.load, MaskedSession.probe, list[int]()

    def judge(loads: Sequence[TableLoad]) -> None:
        if any(each.table == "people" for each in loads):
            tries.append(1)
            raise UnknownDriverError("oops")

    async def loads_not(self: MaskedSession, plan: LoadPlan, loads: Sequence[TableLoad]) -> LoadReport:
        judge(loads)
        return await load(self, plan, loads)

    async def probes_not(self: MaskedSession, loads: Sequence[TableLoad]) -> None:
        judge(loads)
        await probe(self, loads)

    monkeypatch.setattr(MaskedSession, "load", loads_not)
    monkeypatch.setattr(MaskedSession, "probe", probes_not)
    monkeypatch.setattr(persistence, "RETRY_SECONDS", (0.01, 0.01))
    states = [State(b"o", "orders"), State(b"p", "people")]
    await queue.put(1, 1, {"orders": rows(1), "people": rows(1)}, states=states, last=True)
    async with loaders.life():
        await queue.is_empty()
    assert (await ids(wh), await ids(wh, "people")) == (Counter((1,)), Counter())
    progress = await queue.progress()
    assert "oops" in progress.streams["people"].failed
    assert progress.states == (State(b"o", "orders"),)
    assert len(tries) > MOST_SESSIONS, "it may pass by itself"


async def test_a_stream_on_which_our_own_code_fails_fails_alone(
    queue: Queue, wh: Warehouse, loaders: Loaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(left: Any, *rest: Any) -> Any:
        if "people" in left.tables:
            raise KeyError("oops")
        return fit_batch(left, *rest)

    monkeypatch.setattr(deliver, "fit_batch", fails)
    await queue.put(1, 1, {"orders": rows(1), "people": rows(1)}, last=True)
    async with loaders.life():
        await queue.is_empty()
    assert await ids(wh) == Counter((1,))
    assert "KeyError" in (await queue.progress()).streams["people"].failed
