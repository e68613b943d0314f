"""Tables are made, grow, widen and keep their key, also when others change them at the same time."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, date, datetime

import pytest

from loader.contract.warehouse import Column, Destination, Kind, Session, TableLoad, TablePatch
from shared.errors import Permanent, TableChanged, Transient
from tests.support.destinations.opened import Open, append, arrow, columns, make, merge, plan

pytestmark = pytest.mark.needs("evolve")

SMALL = {"id": Kind.TEXT, "n": Kind.BIGINT}
AT = datetime(2026, 2, 3, 4, 5, 6, 789123, UTC)


async def test_a_table_that_is_not_there_is_none(wh: Open) -> None:
    assert await (await wh.session()).describe(["nothing"]) == {"nothing": None}


async def test_a_patch_creates_the_table_and_describe_agrees(wh: Open) -> None:
    session = await wh.session()
    shape = {kind.value: kind for kind in Kind if kind not in (Kind.OTHER, Kind.NUMBER)}
    made = await session.patch(TablePatch("orders", add=columns(shape), primary_key=("text",)))
    assert {name: column.kind for name, column in made.columns.items()} == shape
    assert made.primary_key == ("text",)
    assert await session.describe(["orders"]) == {"orders": made}


async def test_a_patch_adds_columns_and_leaves_the_others_alone(wh: Open) -> None:
    session = await wh.session()
    await make(session, "orders", SMALL)
    await append(session, 1, "orders", SMALL, {"id": "a", "n": 1})
    after = await session.patch(TablePatch("orders", add=(Column("total", Kind.DOUBLE), Column("n", Kind.BIGINT))))
    assert {name: column.kind for name, column in after.columns.items()} == {**SMALL, "total": Kind.DOUBLE}
    shape = {**SMALL, "total": Kind.DOUBLE}
    await append(session, 2, "orders", shape, {"id": "b", "n": 2, "total": 2.5})
    assert await wh.rows("orders", shape) == [{"id": "a", "n": 1, "total": None}, {"id": "b", "n": 2, "total": 2.5}]


async def test_a_type_forced_by_the_user_is_the_type_of_the_new_column(wh: Open) -> None:
    session = await wh.session()
    after = await session.patch(TablePatch("orders", add=(Column("id", Kind.TEXT), Column("total", Kind.OTHER, "numeric(12,2)"))))
    assert "(12,2)" in (after.columns["total"].native or "").replace(" ", "")
    shape = {"id": Kind.TEXT, "total": after.columns["total"].kind}
    await append(session, 1, "orders", shape, {"id": "a", "total": "19.99"})
    assert [str(row["total"]) for row in await wh.rows("orders", shape)] == ["19.99"]


@pytest.mark.parametrize("type_", ["nosuchtype", "text); DROP TABLE x --", "text, y text", "integer DEFAULT 1/0"])
async def test_a_forced_type_that_is_no_type_is_refused_and_nothing_changes(wh: Open, type_: str) -> None:
    session = await wh.session()
    await make(session, "x", SMALL)
    with pytest.raises(Permanent):
        await session.patch(TablePatch("x", add=(Column("z", Kind.OTHER, type_),)))
    described = (await session.describe(["x"]))["x"]
    assert described is not None
    assert set(described.columns) == set(SMALL)


WIDENED: list[tuple[Kind, Kind, object, object]] = [
    (Kind.BOOLEAN, Kind.BIGINT, True, 1),
    (Kind.BOOLEAN, Kind.DOUBLE, False, 0.0),
    (Kind.BOOLEAN, Kind.TEXT, True, "true"),
    (Kind.BIGINT, Kind.DOUBLE, 7, 7.0),
    (Kind.BIGINT, Kind.DECIMAL, 2**62, 2**62),
    (Kind.BIGINT, Kind.TEXT, -(2**63), "-9223372036854775808"),
    (Kind.DOUBLE, Kind.TEXT, 0.1, "0.1"),
    (Kind.DOUBLE, Kind.TEXT, 5.0, "5"),
    (Kind.DOUBLE, Kind.TEXT, -1.5e-07, "-0.00000015"),
    (Kind.DOUBLE, Kind.TEXT, 1.25e20, "125000000000000000000"),
    (Kind.DECIMAL, Kind.TEXT, 10**37, "1" + "0" * 37),
    (Kind.DATE, Kind.TIMESTAMP, date(2026, 2, 3), datetime(2026, 2, 3, tzinfo=UTC)),
    (Kind.DATE, Kind.TEXT, date(2026, 2, 3), "2026-02-03"),
    (Kind.TIMESTAMP, Kind.TEXT, AT, "2026-02-03T04:05:06.789123Z"),
    (Kind.TIMESTAMP, Kind.TEXT, AT.replace(microsecond=789000), "2026-02-03T04:05:06.789Z"),
]


@pytest.mark.parametrize(("source", "target", "before", "after"), WIDENED, ids=[f"{s}-{t}-{b}" for s, t, b, _ in WIDENED])
async def test_a_column_widens_and_its_values_with_it(
    wh: Open, source: Kind, target: Kind, before: object, after: object
) -> None:
    if wh.subject.label == "clickhouse" and (source, target) not in wh.capabilities.widen:
        return  # it writes doubles and times as text in its own way, and rounds integers on their way to doubles
    assert (source, target) in wh.capabilities.widen
    session = await wh.session()
    shape = {"id": Kind.TEXT, "v": source}
    await make(session, "t", shape, ["id"])
    await append(session, 1, "t", shape, {"id": "a", "v": before}, {"id": "b"})
    patched = await session.patch(TablePatch("t", widen=(Column("v", target),), primary_key=("id",)))
    assert patched.columns["v"].kind is target
    assert patched.primary_key == ("id",)
    assert [row["v"] for row in await wh.rows("t", {"id": Kind.TEXT, "v": target})] == [after, None]


async def test_every_pair_a_destination_offers_can_be_widened(wh: Open) -> None:
    session = await wh.session()
    samples = {
        Kind.BOOLEAN: True, Kind.BIGINT: 3, Kind.DOUBLE: 2.5, Kind.DECIMAL: 4, Kind.TIMESTAMP: AT, Kind.DATE: AT.date(),
        Kind.TEXT: 'te"xt', Kind.JSON: '{"a": 1}', Kind.OTHER: "00000000-0000-0000-0000-000000000001",
    }  # fmt: skip
    for number, (source, target) in enumerate(sorted(wh.capabilities.widen)):
        table = f"t{number}"
        await session.patch(TablePatch(table, add=(Column("v", source, "uuid" if source is Kind.OTHER else None),)))
        await append(session, number + 1, table, {"v": source}, {"v": samples[source]})
        patched = await session.patch(TablePatch(table, widen=(Column("v", target),)))
        assert patched.columns["v"].kind is target, (source, target)
        (row,) = await wh.rows(table, {"v": target}, order="v")
        if target is Kind.JSON:
            assert json.loads(row["v"]) is not None, (source, target)


async def test_a_column_that_cannot_widen_so_stays_as_it_is(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", {"v": Kind.TEXT})
    patched = await session.patch(TablePatch("t", widen=(Column("v", Kind.BIGINT),)))
    assert patched.columns["v"].kind is Kind.TEXT


@pytest.mark.needs("merge")
@pytest.mark.apart("clickhouse", "the key of a table is what it was created with")
async def test_a_table_made_without_a_key_gets_it_when_rows_are_to_be_merged(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", SMALL)
    await append(session, 1, "t", SMALL, {"id": "a", "n": 1})
    after = await session.patch(TablePatch("t", primary_key=("id",)))
    assert after.primary_key == ("id",)
    await merge(session, 2, "t", SMALL, {"id": "a", "n": 2})
    assert await wh.rows("t", SMALL) == [{"id": "a", "n": 2}]


@pytest.mark.needs("merge")
@pytest.mark.apart("clickhouse", "the key of a table is what it was created with")
async def test_a_key_that_rows_share_is_refused_with_what_to_do(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", SMALL)
    await append(session, 1, "t", SMALL, {"id": "a", "n": 1}, {"id": "a", "n": 2})
    with pytest.raises(Permanent, match=r"cannot become the key.*deduplicate: false"):
        await session.patch(TablePatch("t", add=(Column("z", Kind.TEXT),), primary_key=("id",)))
    described = (await session.describe(["t"]))["t"]
    assert described is not None
    assert "z" not in described.columns


@pytest.mark.needs("merge")
@pytest.mark.apart("clickhouse", "the key of a table is what it was created with")
async def test_a_changed_key_replaces_ours_and_the_old_one_no_longer_binds(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", SMALL, ["id"])
    after = await session.patch(TablePatch("t", primary_key=("id", "n")))
    assert after.primary_key == ("id", "n")
    await merge(session, 1, "t", SMALL, {"id": "a", "n": 1}, {"id": "a", "n": 2}, key=["id", "n"])
    assert await wh.rows("t", SMALL) == [{"id": "a", "n": 1}, {"id": "a", "n": 2}]
    after = await session.patch(TablePatch("t", primary_key=("n",)))
    await append(session, 2, "t", {"n": Kind.BIGINT}, {"n": 3})
    assert after.primary_key == ("n",)


@pytest.mark.needs("merge")
@pytest.mark.apart("clickhouse", "the key of a table is what it was created with")
async def test_the_users_own_key_is_kept_beside_ours(wh: Open) -> None:
    session = await wh.session()
    await wh.subject.run('CREATE TABLE "{}".mine (a bigint PRIMARY KEY, id varchar)')
    patched = await session.patch(TablePatch("mine", primary_key=("id",)))
    assert patched.primary_key == ("id",)
    shape = {"a": Kind.BIGINT, "id": Kind.TEXT}
    await merge(session, 1, "mine", {"id": Kind.TEXT, "a": Kind.BIGINT}, {"id": "x", "a": 1}, {"id": "y", "a": 2})
    await session.patch(TablePatch("mine", primary_key=("a",)))
    await merge(session, 2, "mine", shape, {"id": "z", "a": 1}, key=["a"])
    assert await wh.rows("mine", shape) == [{"a": 2, "id": "y"}, {"a": 1, "id": "z"}]


@pytest.mark.needs("merge")
@pytest.mark.apart("clickhouse", "the key of a table is what it was created with")
async def test_a_renamed_table_keeps_its_key_and_the_new_one_gets_its_own(wh: Open) -> None:
    if wh.subject.label == "duckdb":
        await _rename_is_refused(wh)
        return
    session = await wh.session()
    await make(session, "t", SMALL, ["id"])
    await wh.subject.run('ALTER TABLE "{}".t RENAME TO t_old')
    await make(session, "t", SMALL, ["id"])
    await merge(session, 1, "t", SMALL, {"id": "a", "n": 1})
    assert await wh.rows("t", SMALL) == [{"id": "a", "n": 1}]


async def _rename_is_refused(wh: Open) -> None:
    """DuckDB itself does not rename a table with an index."""
    session = await wh.session()
    await make(session, "t", SMALL, ["id"])
    with pytest.raises(Exception, match="depend"):
        await wh.subject.run('ALTER TABLE "{}".t RENAME TO t_old')


async def test_new_tables_are_created_together_as_a_patch_would_make_each(wh: Open) -> None:
    session = await wh.session()
    shape = {kind.value: kind for kind in Kind if kind not in (Kind.OTHER, Kind.NUMBER)}
    wanted = (*columns(shape), Column("total", Kind.OTHER, "numeric(12,2)"), Column("owned", Kind.TEXT, owner='["a","b"]'))
    first = await session.patch(TablePatch("a", add=wanted, primary_key=("text",)))
    keyless = await session.patch(TablePatch("b", add=wanted, primary_key=()))
    made = await session.create(
        [TablePatch("a", add=columns(SMALL)), TablePatch("c", wanted, (), ("text",)), TablePatch("d", wanted, (), ()), TablePatch("e", wanted)]
    )  # fmt: skip
    assert made == {"c": first, "d": keyless, "e": keyless}, "and what is there already is left out"
    assert await session.describe(["a", "c", "d", "e", "f"]) == {"a": first, **made, "f": None}
    await merge(session, 1, "c", {"text": Kind.TEXT, "owned": Kind.TEXT}, {"text": "x"}, key=("text",))
    await merge(session, 2, "c", {"text": Kind.TEXT, "owned": Kind.TEXT}, {"text": "x", "owned": "1"}, key=("text",))
    assert await wh.rows("c", {"text": Kind.TEXT, "owned": Kind.TEXT}, "text") == [{"text": "x", "owned": "1"}]


@pytest.mark.parametrize(
    "odd",
    [
        TablePatch("b", (Column("id", Kind.TEXT), Column("z", Kind.OTHER, "nosuchtype"))),
        TablePatch("b", (Column("id", Kind.TEXT),), primary_key=("other",)),
        TablePatch("b", (Column("", Kind.TEXT),)),
    ],
)
async def test_with_a_table_that_cannot_be_made_none_of_those_beside_it_is(wh: Open, odd: TablePatch) -> None:
    session = await wh.session()
    small = columns(SMALL)
    with pytest.raises(Permanent):
        await session.create([TablePatch("a", small), odd, TablePatch("c", small, primary_key=("id",))])
    assert await session.describe(["a", "b", "c"]) == dict.fromkeys("abc")
    assert list(await session.create([TablePatch("a", small), TablePatch("c", small)])) == ["a", "c"]


async def test_writers_that_create_the_same_tables_at_once_make_each_once(wh: Open) -> None:
    sessions = [await wh.session(f"c{number}", destination=await wh.another()) for number in range(3)]
    patches = [TablePatch(f"t{number}", columns(SMALL), primary_key=("id",)) for number in range(12)]
    made: list[str] = []

    async def create(session: Session, part: list[TablePatch]) -> None:
        made.extend(await session.create(part))

    async with asyncio.TaskGroup() as group:
        for number, session in enumerate(sessions):
            group.create_task(create(session, patches[number * 3 : number * 3 + 6]))
    assert sorted(made) == sorted(patch.table for patch in patches)


async def test_two_writers_patch_one_table_at_once_and_both_columns_are_there(wh: Open) -> None:
    destinations = [wh.destination, *[await wh.another() for _ in range(3)]]
    sessions = [await destination.open_session(f"c{number}", 1) for number, destination in enumerate(destinations)]
    try:
        for round_ in range(3):
            table = f"t{round_}"
            patches = [
                TablePatch(table, add=(Column("id", Kind.TEXT), Column(f"c{number}", Kind.BIGINT)), primary_key=("id",))
                for number in range(len(sessions))
            ]
            async with asyncio.TaskGroup() as group:
                for session, patch in zip(sessions, patches, strict=True):
                    group.create_task(session.patch(patch))
            described = (await sessions[0].describe([table]))[table]
            assert described is not None
            assert set(described.columns) == {"id", "c0", "c1", "c2", "c3"}
            assert described.primary_key == ("id",)
    finally:
        for session in sessions:
            await session.close()


async def test_shards_add_the_same_and_other_columns_at_once_while_they_load(wh: Open) -> None:
    destinations = [wh.destination, *[await wh.another() for _ in range(2)]]

    async def grow(number: int, destination: Destination) -> None:
        name, epoch, turn = f"c={number + 2}", 1, 1
        session = await wh.session(name, destination=destination)
        while turn < 4:
            shape = {**SMALL, f"both{turn}": Kind.TEXT, f"own{turn}_{number}": Kind.BIGINT}
            row = {"id": f"{number}-{turn}", "n": turn, f"both{turn}": "x", f"own{turn}_{number}": number}
            try:
                await session.patch(TablePatch("t", add=columns(shape)))
                await session.load(plan(turn, connection=name), [TableLoad("t", arrow(shape, [row]))])
            except Transient:  # such as a deadlock that the server ended: a loader begins again, too
                epoch += 1
                session = await wh.session(name, epoch, destination=destination)
            else:
                turn += 1

    async with asyncio.TaskGroup() as group:
        for number, each in enumerate(destinations):
            group.create_task(grow(number, each))
    described = (await (await wh.session()).describe(["t"]))["t"]
    assert described is not None
    own = {f"own{turn}_{number}" for turn in range(1, 4) for number in range(3)}
    assert set(described.columns) == {*SMALL, "both1", "both2", "both3", *own}
    rows = await wh.rows("t", {"id": Kind.TEXT})
    assert sorted(row["id"] for row in rows) == sorted(f"{number}-{turn}" for number in range(3) for turn in range(1, 4))


async def test_a_column_added_behind_our_back_is_accepted_as_it_is(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", SMALL)
    await wh.subject.run('ALTER TABLE "{}".t ADD COLUMN extra varchar')
    patched = await session.patch(TablePatch("t", add=(Column("extra", Kind.BIGINT),)))
    assert patched.columns["extra"].kind is Kind.TEXT
    await append(session, 1, "t", SMALL, {"id": "a", "n": 1})
    assert await wh.rows("t", SMALL) == [{"id": "a", "n": 1}]


@pytest.mark.parametrize(
    "alteration",
    ['ALTER TABLE "{}".t DROP COLUMN n', 'DROP TABLE "{}".t', 'ALTER TABLE "{}".t ALTER COLUMN n TYPE varchar'],
)
async def test_a_table_altered_behind_our_back_is_told_and_nothing_is_loaded(wh: Open, alteration: str) -> None:
    session = await wh.session()
    await make(session, "t", SMALL)
    await wh.subject.run(alteration)
    with pytest.raises(TableChanged):
        await append(session, 1, "t", SMALL, {"id": "a", "n": 1})
    again = await wh.session(epoch=2)
    assert await again.marks() == {}
    await again.patch(TablePatch("t", add=columns(SMALL)))
    assert await wh.rows("t", SMALL) == []


async def test_hostile_long_and_reserved_names_are_only_names(wh: Open) -> None:
    session = await wh.session()
    limit = wh.capabilities.name_limit
    names = [
        "select", "table", "order by", 'x"; drop table "t"; --', "o'hara", "имя", "名前", "a.b", "per%cent", "$1", "?", "{}", "\\",
        " ", "é" * (limit // 2), "n" * limit, "line\nbreak",
    ]  # fmt: skip
    if wh.capabilities.unfit is not None:
        names = [name for name in names if not re.search(wh.capabilities.unfit, name)]
    shape = {"id": Kind.TEXT, **dict.fromkeys(names, Kind.TEXT)}
    for sequence, name in enumerate(names, 1):
        table = f"{name[:-2]}_t" if len(name.encode()) > limit - 8 else f"{name}_{sequence}"
        made = await session.patch(TablePatch(table, add=columns(shape), primary_key=("id", name)))
        assert set(made.columns) == set(shape)
        row = {"id": "a", **{column: f"value of {column}" for column in names}}
        rows = arrow(shape, [row])
        await session.load(plan(sequence), [TableLoad(table, rows, "merge" if wh.capabilities.merge else "append", ("id", name))])
        assert await wh.rows(table, shape) == [row]
