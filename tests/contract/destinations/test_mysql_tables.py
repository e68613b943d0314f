"""Tables as only MySQL has them: engines, keys and blanks, unique values of other rows, wide rows, and types that are more than a type."""

from __future__ import annotations

from typing import Any

import pytest

from loader.contract.warehouse import Column, Kind, TablePatch
from loader.servers.session import ServerSession
from shared.errors import NotConnected, Permanent, RowsRejected, TableSetupError
from tests.contract.destinations.servers import SHAPE, batch
from tests.support.delivery import Delivery
from tests.support.destinations.opened import Open, append, columns, make, merge, plan


@pytest.mark.parametrize("step", ["ALTER TABLE", "UPDATE", "DROP COLUMN"])
async def test_a_loader_killed_between_the_steps_of_a_widening_leaves_every_value(my: Open, step: str) -> None:
    session = await my.session()
    await make(session, "t", {"id": Kind.BIGINT, "v": Kind.BOOLEAN})
    await append(session, 1, "t", {"id": Kind.BIGINT, "v": Kind.BOOLEAN}, {"id": 1, "v": True}, {"id": 2})
    assert isinstance(session, ServerSession)
    run = session.link.run

    async def dying(statement: str) -> Any:
        if step in statement and "_penstock_widened" in statement:
            session.link.close()
        return await run(statement)

    session.link.run = dying
    with pytest.raises(NotConnected):
        await session.patch(TablePatch("t", widen=(Column("v", Kind.TEXT),)))
    again = await my.session(epoch=2)
    patched = await again.patch(TablePatch("t", widen=(Column("v", Kind.TEXT),)))
    assert {name: column.kind for name, column in patched.columns.items()} == {"id": Kind.BIGINT, "v": Kind.TEXT}
    assert [row["v"] for row in await my.rows("t", {"id": Kind.BIGINT, "v": Kind.TEXT})] == ["true", None]


async def test_a_numbered_column_goes_on_numbering_when_it_is_widened_and_never_becomes_text(my: Open) -> None:
    session = await my.session()
    await my.subject.run("CREATE TABLE {}.t (id int AUTO_INCREMENT PRIMARY KEY, text longtext)")
    patched = await session.patch(TablePatch("t", widen=(Column("id", Kind.BIGINT),)))
    assert patched.columns["id"].native in ("bigint", "bigint(20)")
    await append(session, 1, "t", SHAPE, {"text": "a"}, {"id": 7, "text": "b"}, {"text": "c"})
    assert [row["id"] for row in await my.rows("t", SHAPE)] == [1, 7, 8]
    patched = await session.patch(TablePatch("t", widen=(Column("id", Kind.TEXT),)))
    assert patched.refused == {"id"}
    assert patched.columns["id"].kind is Kind.BIGINT


async def test_a_table_that_takes_nothing_back_is_refused(my: Open) -> None:
    session = await my.session()
    await my.subject.run("CREATE TABLE {}.t (id bigint, text longtext) ENGINE = MyISAM")
    with pytest.raises(TableSetupError, match="ENGINE = InnoDB"):
        await session.load(plan(1), [batch()])
    assert await my.rows("t", SHAPE) == []


async def test_keys_keep_blanks_and_case_apart_and_long_ones_are_refused_whole(my: Open) -> None:
    one = Delivery(my, await my.session(), deduplicate=True)
    keys = ["a", "a ", "A", "á", "x" * 255]
    assert await one.send(*({"messageId": key} for key in keys)) == {}
    dead = await one.send({"messageId": "y" * 256}, {"messageId": "z"})
    assert list(dead) == ["y" * 256]
    found = await my.rows("events", {"message_id": Kind.TEXT}, "message_id")
    assert {row["message_id"] for row in found} == {*keys, "z"}


async def test_a_merge_never_touches_the_row_of_another_key_that_shares_a_unique_value(my: Open) -> None:
    session = await my.session()
    await my.subject.run("CREATE TABLE {}.t (id bigint PRIMARY KEY, email varchar(99) UNIQUE, n bigint, at datetime(6))")
    shape = {"id": Kind.BIGINT, "email": Kind.TEXT, "n": Kind.BIGINT}
    await merge(session, 1, "t", shape, {"id": 1, "email": "a", "n": 1}, {"id": 2, "email": "b", "n": 1})
    with pytest.raises(RowsRejected):
        await merge(session, 2, "t", shape, {"id": 3, "email": "a", "n": 2})
    await merge(session, 3, "t", shape, {"id": 2, "email": "c", "n": 3}, {"id": 3, "email": "b", "n": 3}, cursor="n")
    await merge(session, 4, "t", shape, {"id": 2, "n": 2}, {"id": 1, "n": 4}, cursor="n", coalesce=True)
    found = [tuple(row.values()) for row in await my.rows("t", shape)]
    assert found == [(1, "a", 4), (2, "c", 3), (3, "b", 3)]


async def test_a_table_of_a_thousand_columns_takes_rows_and_refuses_only_one_that_no_page_holds(my: Open) -> None:
    session = await my.session()
    shape = {"id": Kind.TEXT, **{f"c{n}": Kind.TEXT for n in range(990)}}
    made = await session.patch(TablePatch("t", add=columns(shape), primary_key=("id",)))
    assert not made.refused
    assert len(made.columns) == 991
    wide = {f"c{n}": "x" * 30 for n in range(990)}
    await append(session, 1, "t", shape, {"id": "a", "c1": "x" * 100_000})
    with pytest.raises(RowsRejected, match="Row size too large"):
        await append(session, 2, "t", shape, {"id": "b"}, {"id": "c", **wide})
    assert [row["id"] for row in await my.rows("t", shape)] == ["a"]


@pytest.mark.parametrize(
    "type_", ["varchar(3) DEFAULT 'x'", "int, z int", "int) --", "int PRIMARY KEY", "enum('a'", "text COMMENT 'x'"]
)
async def test_what_is_more_than_a_type_is_none(my: Open, type_: str) -> None:
    session = await my.session()
    with pytest.raises(Permanent):
        await session.patch(TablePatch("t", add=(Column("z", Kind.OTHER, type_),)))
    assert await session.describe(["t"]) == {"t": None}
