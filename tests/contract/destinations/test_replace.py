"""A full refresh takes the place of a table's rows in one moment and once, whatever ends the loader in the middle of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import pytest

from loader.contract.warehouse import Column, Kind, Part, Session, TableLoad, TablePatch
from shared.errors import Fenced, PenstockError, Permanent, RowsRejected, RunOver
from tests.support.destinations.clickhouse import ClickHouseSubject
from tests.support.destinations.duckdb import DuckDBSubject
from tests.support.destinations.mysql import MySQLSubject
from tests.support.destinations.opened import Open, append, arrow, make, merge, plan
from tests.support.destinations.postgres import PostgresSubject
from tests.support.destinations.subject import Row, Shape
from tests.support.dying import Killed, dying

SHAPE = {"id": Kind.BIGINT, "text": Kind.TEXT}
LANE = "live-1"
GIVEN = {
    "postgres": [
        'CREATE VIEW "{}".seen AS SELECT * FROM "{}".t',
        'CREATE INDEX mine ON "{}".t (text)',
        "COMMENT ON TABLE \"{}\".t IS 'of mine'",
        'GRANT SELECT ON "{}".t TO pg_monitor',
    ],
    "mysql": ["CREATE VIEW seen AS SELECT * FROM t", "CREATE INDEX mine ON t (id)", "ALTER TABLE t COMMENT 'of mine'"],
    "duckdb": [
        "CREATE VIEW main.seen AS SELECT * FROM main.t",
        "CREATE INDEX mine ON main.t (text)",
        "COMMENT ON TABLE main.t IS 'of mine'",
    ],
    "clickhouse": [
        "CREATE VIEW {}.seen AS SELECT * FROM {}.t",
        "ALTER TABLE {}.t ADD INDEX mine text TYPE bloom_filter",
        "ALTER TABLE {}.t MODIFY COMMENT 'of mine'",
        "CREATE TABLE {}.copied (id Int64, text String) ENGINE = MergeTree ORDER BY tuple()",
        "CREATE MATERIALIZED VIEW {}.copying TO {}.copied AS SELECT id, text FROM {}.t",
    ],
}
"""What users may give a table, by kind of destination."""
pytestmark = pytest.mark.needs("replace")


def part(run: int, *rows: Row, ends: bool = False, key: Sequence[str] = (), shape: Shape = SHAPE) -> TableLoad:
    """Returns a part of a run."""
    return TableLoad("t", arrow(shape, rows), "replace", tuple(key), part=Part(run, ends))


def ids(*numbers: int, text: str = "new") -> list[Row]:
    return [{"id": number, "text": text} for number in numbers]


async def loaded(wh: Open, shape: Shape = SHAPE) -> list[Row]:
    return await wh.rows("t", shape)


async def left_over(wh: Open) -> list[str]:
    """Returns the names of tables that are neither the test's nor the ledger's."""
    assert isinstance(wh.subject, PostgresSubject | DuckDBSubject | MySQLSubject | ClickHouseSubject)
    names = await wh.subject.tables()
    return sorted(name for name in names if name.startswith("_penstock") and name not in ("_penstock_loads", "_penstock_runs"))


async def send(session: Session, sequence: int, load: TableLoad) -> None:
    """Loads a part as the core does, which leaves out what the marks say is there."""
    if (await session.marks()).get((load.table, LANE), 0) < sequence:
        await session.load(plan(sequence), [load])


async def test_the_old_rows_are_seen_until_the_last_part_arrived_and_then_the_new_ones(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", SHAPE)
    await append(session, 1, "t", SHAPE, *ids(1, 2, text="old"))
    await send(session, 2, part(1, *ids(2, 3)))
    await send(session, 3, part(1, *ids(4)))
    assert await loaded(wh) == ids(1, 2, text="old")
    await send(session, 4, part(1, *ids(5), ends=True))
    assert await loaded(wh) == ids(2, 3, 4, 5)
    assert await left_over(wh) == []
    await append(session, 5, "t", SHAPE, *ids(6))
    assert await loaded(wh) == ids(2, 3, 4, 5, 6)


async def test_a_run_may_be_empty_and_its_end_may_come_alone(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", SHAPE)
    end = TableLoad("t", arrow({}, []), "replace", part=Part(1, True))
    await append(session, 1, "t", SHAPE, *ids(1, text="old"))
    await send(session, 2, part(1, *ids(2)))
    await send(session, 3, end)
    assert await loaded(wh) == ids(2)
    await send(session, 4, TableLoad("t", arrow({}, []), "replace", part=Part(2, True)))
    assert await loaded(wh) == []
    await send(session, 5, part(3, *ids(3), ends=True))
    assert await loaded(wh) == ids(3)
    assert await left_over(wh) == []


async def test_a_newer_run_takes_the_place_of_one_that_has_not_ended(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", SHAPE)
    await append(session, 1, "t", SHAPE, *ids(1, text="old"))
    await send(session, 2, part(4, *ids(2)))
    await send(session, 3, part(7, *ids(3)))
    for late in (part(4, *ids(4)), part(4, *ids(4), ends=True)):
        with pytest.raises(RunOver, match="run 7 took its place"):
            await session.load(plan(4), [late])
    assert await loaded(wh) == ids(1, text="old")
    assert len(await left_over(wh)) == 1
    await send(session, 4, part(7, *ids(5), ends=True))
    assert await loaded(wh) == ids(3, 5)
    assert await left_over(wh) == []


async def test_two_loads_of_one_table_may_end_its_run_together(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", SHAPE)
    await append(session, 1, "t", SHAPE, *ids(1, text="old"))
    only_ids = part(1, {"id": 2}, ends=True, shape={"id": Kind.BIGINT})
    await session.load(plan(2), [only_ids, part(1, *ids(3), ends=True)])
    assert await loaded(wh) == [{"id": 2, "text": None}, *ids(3)]
    assert await left_over(wh) == []


@pytest.mark.needs("transactional")
async def test_a_part_that_comes_after_the_end_of_its_run_is_refused(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", SHAPE)
    await session.load(plan(1), [part(1, *ids(1), ends=True)])
    for late in (part(1, *ids(2)), part(1, *ids(2), ends=True)):
        with pytest.raises(RunOver, match="it has ended"):
            await session.load(plan(2), [late])
    assert await loaded(wh) == ids(1)
    assert await left_over(wh) == []


async def test_a_run_that_is_given_up_leaves_its_table_as_it_is_and_nothing_behind(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", SHAPE)
    await append(session, 1, "t", SHAPE, *ids(1, text="old"))
    await session.abandon("t")
    await send(session, 2, part(1, *ids(2)))
    other = await wh.session(epoch=2)
    await other.abandon("t")
    await other.abandon("t")
    await other.abandon("never-there")
    assert await left_over(wh) == []
    assert await loaded(wh) == ids(1, text="old")
    with pytest.raises(RunOver):
        await other.load(plan(3), [part(1, *ids(3), ends=True)])
    await send(other, 3, part(2, *ids(4), ends=True))
    assert await loaded(wh) == ids(4)


async def test_a_new_session_goes_on_with_the_run_of_the_one_before(wh: Open) -> None:
    await make(await wh.session(), "t", SHAPE)
    for epoch in range(1, 5):
        session = await wh.session(epoch=epoch, destination=await wh.another())
        await send(session, epoch, part(1, *ids(epoch), ends=epoch == 4))
        await send(session, epoch, part(1, *ids(epoch), ends=epoch == 4))
    assert await loaded(wh) == ids(1, 2, 3, 4)
    assert await left_over(wh) == []


async def test_an_older_session_brings_neither_a_part_nor_the_end(wh: Open) -> None:
    older = await wh.session(epoch=1)
    await make(older, "t", SHAPE)
    await append(older, 1, "t", SHAPE, *ids(1, text="old"))
    await send(older, 2, part(1, *ids(2)))
    newer = await wh.session(epoch=2, destination=await wh.another())
    for load in (part(1, *ids(3)), part(1, *ids(3), ends=True), part(2, *ids(3))):
        with pytest.raises(PenstockError) as refused:
            await older.load(plan(3), [load])
        assert isinstance(refused.value, Fenced) or "closed" in str(refused.value) or "lost" in str(refused.value).lower()
    with pytest.raises(PenstockError):
        await older.abandon("t")
    assert await loaded(wh) == ids(1, text="old")
    await send(newer, 3, part(1, *ids(4), ends=True))
    assert await loaded(wh) == ids(2, 4)


async def test_connections_refresh_their_own_tables_apart(wh: Open) -> None:
    one, two = await wh.session("one"), await wh.session("two")
    await make(one, "t", SHAPE)
    await one.load(plan(1, connection="one"), [part(9, *ids(1))])
    await two.load(plan(1, connection="two"), [part(1, *ids(2), ends=True)])
    assert await loaded(wh) == ids(2)
    await one.load(plan(2, connection="one"), [part(9, *ids(3), ends=True)])
    assert await loaded(wh) == ids(1, 3)


@pytest.mark.needs("merge")
async def test_rows_of_a_run_that_share_the_key_become_one(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", SHAPE, ["id"])
    await merge(session, 1, "t", SHAPE, *ids(1, 2, 3, text="old"))
    await send(session, 2, part(1, *ids(2, 3), key=["id"]))
    await send(session, 3, part(1, *ids(3, 4, text="newer"), key=["id"]))
    await send(session, 4, part(1, *ids(2, text="newest"), ends=True, key=["id"]))
    assert await loaded(wh) == [*ids(2, text="newest"), *ids(3, 4, text="newer")]
    await merge(session, 5, "t", SHAPE, *ids(4, 5, text="last"))
    assert await loaded(wh) == [*ids(2, text="newest"), *ids(3, text="newer"), *ids(4, 5, text="last")]
    await send(session, 6, part(2, *ids(1, 2, 5), ends=True, key=["id"]))
    assert await loaded(wh) == ids(1, 2, 5)
    assert await left_over(wh) == []


async def test_parts_may_have_other_columns_and_the_table_may_grow_meanwhile(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", SHAPE)
    await append(session, 1, "t", SHAPE, *ids(1, text="old"))
    await send(session, 2, part(1, {"id": 2}, shape={"id": Kind.BIGINT}))
    await send(session, 3, part(1, *ids(3)))
    await session.patch(TablePatch("t", add=(Column("more", Kind.DOUBLE),)))
    wider = {**SHAPE, "more": Kind.DOUBLE}
    await send(session, 4, part(1, {"id": 4, "more": 0.5}, shape={"id": Kind.BIGINT, "more": Kind.DOUBLE}))
    await send(session, 5, part(1, {"id": 5, "text": "new", "more": 1.5}, ends=True, shape=wider))
    assert await loaded(wh, wider) == [
        {"id": 2, "text": None, "more": None},
        {"id": 3, "text": "new", "more": None},
        {"id": 4, "text": None, "more": 0.5},
        {"id": 5, "text": "new", "more": 1.5},
    ]


async def test_a_column_may_be_widened_in_the_middle_of_a_run(wh: Open) -> None:
    if (Kind.BIGINT, Kind.TEXT) not in wh.capabilities.widen:
        pytest.skip("nothing becomes text here")
    session = await wh.session()
    numbers = {"id": Kind.BIGINT, "n": Kind.BIGINT}
    await make(session, "t", numbers)
    await send(session, 1, part(1, {"id": 1, "n": 10}, shape=numbers))
    await session.patch(TablePatch("t", widen=(Column("n", Kind.TEXT),)))
    texts = {"id": Kind.BIGINT, "n": Kind.TEXT}
    await send(session, 2, part(1, {"id": 2, "n": "eleven"}, ends=True, shape=texts))
    assert await loaded(wh, texts) == [{"id": 1, "n": "10"}, {"id": 2, "n": "eleven"}]


@pytest.mark.only("postgres", "duckdb", "mysql")
async def test_tables_of_a_plan_are_refreshed_and_appended_to_together(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", SHAPE)
    await make(session, "u", SHAPE)
    await append(session, 1, "t", SHAPE, *ids(1, text="old"))
    both = [part(1, *ids(2), ends=True), TableLoad("u", arrow(SHAPE, ids(3)))]
    await session.load(plan(2), both)
    assert await loaded(wh) == ids(2)
    assert await wh.rows("u", SHAPE) == ids(3)
    assert await session.marks() == {("t", LANE): 2, ("u", LANE): 2}


@pytest.mark.needs("transactional")
async def test_a_row_that_a_part_cannot_bring_is_named_and_the_run_goes_on_without_it(wh: Open) -> None:
    session = await wh.session()
    shape = {"id": Kind.BIGINT, "doc": Kind.JSON}
    await make(session, "t", shape)
    good, bad = {"id": 1, "doc": "{}"}, {"id": 2, "doc": "{broken"}
    with pytest.raises(RowsRejected) as refused:
        await session.load(plan(1), [part(1, good, bad, shape=shape)])
    assert refused.value.table == "t"
    assert set(refused.value.rows) == {1}
    await session.probe([part(1, good, ends=True, shape=shape)])
    assert await loaded(wh, shape) == []
    await send(session, 1, part(1, good, ends=True, shape=shape))
    assert await loaded(wh, shape) == [good]
    assert await left_over(wh) == []


@pytest.mark.needs("transactional")
async def test_rows_that_the_table_refuses_in_the_end_leave_it_as_it_is(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", SHAPE)
    await append(session, 1, "t", SHAPE, *ids(1, text="old"))
    await wh.subject.run('CREATE UNIQUE INDEX mine ON "{}".t (id)')
    await send(session, 2, part(1, *ids(2)))
    with pytest.raises(Permanent, match="stays as it is"):
        await session.load(plan(3), [part(1, *ids(2, 3), ends=True)])
    again = await wh.session(epoch=2)
    assert await loaded(wh) == ids(1, text="old")
    await send(again, 3, part(2, *ids(2, 3), ends=True))
    assert await loaded(wh) == ids(2, 3)
    assert await left_over(wh) == []


async def test_a_cancelled_end_leaves_the_old_rows_or_the_new_ones(wh: Open) -> None:
    epoch = 1
    session = await wh.session(epoch=epoch)
    await make(session, "t", SHAPE)
    await append(session, 1, "t", SHAPE, *ids(0, text="old"))
    many = [*range(1, 20_001)]
    before = await loaded(wh)
    for run, delay in enumerate((0.0, 0.01, 0.03, 0.08), 1):
        await send(session, 10 * run, part(run, *ids(*many, text=f"run {run}")))
        ending = asyncio.ensure_future(session.load(plan(10 * run + 1), [part(run, *ids(20_001, text=f"run {run}"), ends=True)]))
        await asyncio.sleep(delay)
        ending.cancel()
        await asyncio.gather(ending, return_exceptions=True)
        seen = await loaded(wh)
        new = ids(*many, 20_001, text=f"run {run}")
        assert seen in (before, sorted(new, key=lambda row: str(row["id"]).rjust(20)))
        epoch += 1
        session = await wh.session(epoch=epoch)
        await send(session, 10 * run + 1, part(run, *ids(20_001, text=f"run {run}"), ends=True))
        before = await loaded(wh)
        assert {row["text"] for row in before} == {f"run {run}"}
        assert len(before) == 20_001
    assert await left_over(wh) == []


async def test_a_loader_killed_between_any_two_steps_of_a_run_loses_and_repeats_nothing(wh: Open) -> None:
    epoch, sequence, run = 1, 0, 0
    session = await wh.session(epoch=epoch)
    await make(session, "t", SHAPE, ["id"])
    before: list[Row] = []
    killed = True
    while killed:
        # the first round kills before the first step of a run, the next one before the second, until a run is over before that
        left, killed = run, False
        run += 1
        rows = ids(1, 2, 3, text=f"run {run}")
        first, last = part(run, *rows[:2], key=["id"]), part(run, *rows[1:], ends=True, key=["id"])
        for one in (first, last):
            sequence += 1
            with dying(session, left) as death, contextlib.suppress(Killed):
                await session.load(plan(sequence), [one])
            left -= death.steps
            if death.happened:
                killed, left = True, -1
                assert await loaded(wh) in (before, rows) if one is last else (before,)
                epoch += 1
                session = await wh.session(epoch=epoch)
                await send(session, sequence, one)
        assert await loaded(wh) == rows
        assert await left_over(wh) == []
        before = rows
    assert run > 20, "so few steps are no load"


@pytest.mark.apart("duckdb", "nobody else reads a file that is written")
async def test_readers_see_whole_runs_and_nothing_else(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", SHAPE)
    await session.load(plan(1), [part(1, *ids(*range(500), text="run 1"), ends=True)])
    seen: set[tuple[int, frozenset[str]]] = set()
    over = asyncio.Event()

    async def read() -> None:
        while not over.is_set():
            rows = await loaded(wh)
            seen.add((len(rows), frozenset(row["text"] for row in rows)))

    reading = asyncio.ensure_future(read())
    for run in range(2, 8):
        await session.load(plan(2 * run), [part(run, *ids(*range(300), text=f"run {run}"))])
        await session.load(plan(2 * run + 1), [part(run, *ids(*range(300, 500), text=f"run {run}"), ends=True)])
    over.set()
    await reading
    assert seen <= {(500, frozenset({f"run {run}"})) for run in range(1, 8)}
    assert len(seen) > 1


async def test_what_users_gave_the_table_stays(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", SHAPE)
    await append(session, 1, "t", SHAPE, *ids(1, text="old"))
    for statement in GIVEN[wh.subject.label]:
        await wh.subject.run(statement)
    await send(session, 2, part(1, *ids(2)))
    await send(session, 3, part(1, *ids(3), ends=True))
    assert await loaded(wh) == ids(2, 3)
    subject = wh.subject
    if isinstance(subject, DuckDBSubject):
        await subject.run("DROP INDEX mine")
        facts = (
            "(SELECT comment FROM duckdb_tables() WHERE table_name = 't') = 'of mine' AND (SELECT count(*) FROM main.seen) = 2"
        )
        await subject.run(f"SELECT CASE WHEN {facts} THEN 1 ELSE error('gone') END")
        return
    assert await wh.rows("seen", SHAPE) == ids(2, 3)
    if isinstance(subject, PostgresSubject):
        (found,) = await subject.fetch(
            "SELECT obj_description('{}.t'::regclass) AS comment, to_regclass('{}.mine') IS NOT NULL AS indexed,"
            " has_table_privilege('pg_monitor', '{}.t', 'SELECT') AS granted"
        )
        assert found == {"comment": "of mine", "indexed": True, "granted": True}
    elif isinstance(subject, MySQLSubject):
        (found,) = await subject.fetch("SHOW CREATE TABLE t")
        assert all(part in str(found) for part in ('KEY "mine"', "of mine"))
    else:
        assert isinstance(subject, ClickHouseSubject)
        made = await subject.ask("SELECT create_table_query FROM system.tables WHERE database = '{}' AND name = 't'")
        assert "INDEX mine text" in made
        assert "COMMENT \\'of mine\\'" in made
        await append(session, 4, "t", SHAPE, *ids(4))
        assert await wh.rows("copied", SHAPE) == ids(4)
