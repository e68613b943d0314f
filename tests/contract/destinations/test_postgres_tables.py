"""Tables as only Postgres has them: deferred constraints, triggers, policies, views, things that are no tables."""

from __future__ import annotations

import re
import secrets
from typing import Any

import pytest

from loader.contract.warehouse import Kind
from tests.support.delivery import Delivery
from tests.support.destinations.opened import Open, opened
from tests.support.destinations.postgres import PostgresSubject
from tests.support.postgres import PASSWORD, PostgresServer

THREE = ({"messageId": "1", "n": 1}, {"messageId": "2", "n": -1}, {"messageId": "3", "n": 3})
TABLE = "CREATE TABLE {}.events (message_id text, n bigint, type text, received_at timestamptz, timestamp timestamptz)"
RAISES = (
    "CREATE FUNCTION {}.refuse() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN IF NEW.n < 0 THEN RAISE EXCEPTION 'no' USING ERRCODE = 'U0001'; END IF; RETURN NEW; END $$"
)


@pytest.fixture
async def pg(pg: Open) -> Open:
    """A schema of its own, which is there already."""
    await pg.subject.run("CREATE SCHEMA {}")
    return pg


async def delivery(pg: Open, *ddl: str, **options: Any) -> Delivery:
    for statement in ddl:
        await pg.subject.run(statement)
    return Delivery(pg, await pg.session(), **options)


async def numbers(pg: Open) -> list[int]:
    return [row["n"] for row in await pg.rows("events", {"message_id": Kind.TEXT, "n": Kind.BIGINT}, "message_id")]


@pytest.mark.parametrize("deduplicate", [False, True])
async def test_a_constraint_deferred_to_the_commit_names_its_row(pg: Open, deduplicate: bool) -> None:
    deferred = "n bigint REFERENCES {}.parents DEFERRABLE INITIALLY DEFERRED"
    one = await delivery(
        pg,
        "CREATE TABLE {}.parents (id bigint PRIMARY KEY)",
        "INSERT INTO {}.parents VALUES (1), (3)",
        f"CREATE TABLE {{}}.events (message_id text PRIMARY KEY, {deferred})",
        deduplicate=deduplicate,
    )
    assert list(await one.send(*THREE)) == ["2"]
    assert await numbers(pg) == [1, 3]


async def test_a_trigger_may_refuse_a_row_under_any_code(pg: Open) -> None:
    trigger = "CREATE TRIGGER t BEFORE INSERT ON {}.events FOR EACH ROW EXECUTE FUNCTION {}.refuse()"
    one = await delivery(pg, TABLE, RAISES, trigger)
    assert list(await one.send(*THREE)) == ["2"]
    assert await numbers(pg) == [1, 3]


async def test_a_trigger_that_does_not_work_says_which(pg: Open) -> None:
    broken = "CREATE FUNCTION {}.broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO nowhere VALUES (1); END $$"
    trigger = "CREATE TRIGGER t BEFORE INSERT ON {}.events FOR EACH ROW EXECUTE FUNCTION {}.broken()"
    one = await delivery(pg, TABLE, broken, trigger)
    assert await one.send(*THREE) == {}
    assert re.search(r"nowhere.*function.*broken", one.why())


async def test_a_table_under_row_level_security_takes_the_rows_its_policy_allows(
    postgres_server: PostgresServer, pg: Open
) -> None:
    role = f"r_{secrets.token_hex(4)}"
    for statement in (
        TABLE,
        f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'",
        f"GRANT ALL ON SCHEMA {{}} TO {role}; GRANT ALL ON {{}}.events TO {role}",
        "ALTER TABLE {}.events ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY positive ON {}.events USING (true) WITH CHECK (n > 0)",
    ):
        await pg.subject.run(statement)
    destination = await pg.another(dsn=postgres_server.dsn(user=role))
    one = Delivery(pg, await pg.session(destination=destination))
    assert list(await one.send(*THREE)) == ["2"]
    assert await numbers(pg) == [1, 3]
    assert await one.send({"messageId": "4", "n": 4, "more": 1}) == {}
    assert "only its owner may change it" in one.why()


async def test_rows_are_appended_to_a_view_that_takes_them(pg: Open) -> None:
    base = TABLE.replace("events", "base")
    one = await delivery(pg, base, "CREATE VIEW {}.events AS SELECT * FROM {}.base", schema_policy="freeze")
    assert await one.send(*THREE) == {}
    assert await numbers(pg) == [1, -1, 3]


@pytest.mark.parametrize("thing", ["MATERIALIZED VIEW {}.events AS SELECT 1", "SEQUENCE {}.events", "TYPE {}.events AS (n int)"])
async def test_a_thing_that_is_no_table_is_called_what_it_is(pg: Open, thing: str) -> None:
    one = await delivery(pg, f"CREATE {thing}")
    assert await one.send(*THREE) == {}
    assert thing.split(" {")[0].lower() in one.why()


async def test_text_and_names_that_the_encoding_of_the_database_lacks_hold_up_nobody(postgres_server: PostgresServer) -> None:
    subject = PostgresSubject(postgres_server.dsn())
    database = f"latin_{secrets.token_hex(4)}"
    await subject.run(f"CREATE DATABASE {database} ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    subject = PostgresSubject(postgres_server.dsn(database))
    async with opened(subject) as wh:
        one = Delivery(wh, await wh.session(), table="{{ event.event }}")
        good = {"messageId": "1", "event": "events", "text": "héllo"}
        assert list(await one.send(good, {"messageId": "2", "event": "events", "text": "名前"})) == ["2"]
        # the name has no form as a column, and none in the unmapped data
        assert list(await one.send({**good, "messageId": "3", "ключ": 1})) == ["3"]
        assert await one.send({"messageId": "4", "event": "名前"}, {"messageId": "5", "event": "events"}) == {}
        assert one.kept.aside == 1
        found = await wh.rows("events", {"message_id": Kind.TEXT, "text": Kind.TEXT, "_unmapped_data": Kind.JSON}, "message_id")
    assert [tuple(row.values()) for row in found] == [("1", "héllo", None), ("5", None, None)]
