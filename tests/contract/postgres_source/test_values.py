"""Every kind of value comes as it is in the database, or as near as said."""

from __future__ import annotations

from decimal import Decimal

import asyncpg

from connector_runner.contract import Rows
from tests.contract.postgres_source.conftest import Place, chosen, read
from tests.contract.postgres_source.values import EXPECTED, INSERTS, TYPES, meant


async def test_every_type_comes_as_it_is_or_as_near_as_said(place: Place) -> None:
    await place.driver.execute(TYPES)
    for insert in INSERTS:
        await place.driver.execute(insert)
    source = await place.open()
    selected = chosen(await source.discover(), "everything")
    got = await read(source, selected)
    assert {row["id"]: meant(row) for row in got.rows("everything")} == EXPECTED
    said = " ".join(got.said)
    assert '"tz": 2 times outside' in said
    assert '"n12": 1 numbers' in said
    assert '"n": 4 values came as text' in said, "one of them has more digits than a decimal"
    await place.driver.execute("DELETE FROM everything WHERE id > 2")
    (exact,) = [each.rows for each in (await read(source, selected)).messages if isinstance(each, Rows)]
    assert exact["n"].to_pylist() == [Decimal("12345678901234567890.0123456789"), None]
    assert exact["n40"].to_pylist()[0] == Decimal("123456789012345678901234567890123456789012.25")


async def test_one_column_of_nulls_and_empty_texts_keeps_them_apart(place: Place) -> None:
    await place.driver.execute(r"""CREATE TABLE t (v text); INSERT INTO t VALUES (NULL), (''), ('"'), ('\.'), (E'\n'), (NULL)""")
    source = await place.open()
    got = await read(source, chosen(await source.discover(), "t"))
    assert [row["v"] for row in got.rows("t")] == [None, "", '"', "\\.", "\n", None]


async def test_bytes_that_are_no_utf8_are_said(place: Place, postgres_dsn: str) -> None:
    name = "ascii_" + place.dsn[-8:]
    keeper = await asyncpg.connect(postgres_dsn)
    await keeper.execute(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    try:
        dsn = f"{postgres_dsn.rpartition('/')[0]}/{name}"
        driver = await asyncpg.connect(dsn)
        await driver.execute(r"CREATE TABLE t (id int, v text); INSERT INTO t VALUES (1, E'caf\xe9')")
        await driver.close()
        source = await place.open(dsn=dsn)
        got = await read(source, chosen(await source.discover(), "t"), fails=True)
        assert got.ended == {"t": False}
        assert "no UTF-8" in " ".join(got.said)
        await source.close()
    finally:
        await keeper.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await keeper.close()
