"""Tables of a real PostgreSQL: found with their types, read whole and by a cursor, from every state on."""

from __future__ import annotations

import asyncpg
import pytest

from connector_runner.contract import Checkpoint, Message, Rows
from shared.errors import PenstockError
from tests.contract.postgres_source.conftest import Place, Reading, chosen, read

HOSTILE = ('Or"der', "naïve; DROP TABLE x", "sel ect", "a.b", "back\\slash")
"""Names that a quote forgotten anywhere makes a fault of."""


async def test_it_says_what_is_wrong_with_its_options(place: Place) -> None:
    source = await place.open()
    assert "no table" in (await source.check()).message
    await place.driver.execute("CREATE TABLE t (id int PRIMARY KEY)")
    assert (await source.check()).ok
    assert set((await source.spec())["properties"]) >= {"dsn", "schemas", "tables"}
    for options, words in (
        ({"password": "wrong-word"}, "password is wrong"),
        ({"database": "nowhere"}, "database does not exist"),
        ({"host": "no.such.host.invalid"}, "host name is unknown"),
        ({"dsn": "postgresql://a:secret-word@[::"}, "address is not readable"),
        ({"tables": ["nothing"]}, "no table is there"),
    ):
        message = await refusal(await place.open(**options))
        assert words in message
        assert "wrong-word" not in message
        assert "secret-word" not in message


async def refusal(source: object) -> str:
    """Returns what a connector says of options that do not work."""
    try:
        checked = await source.check()  # type: ignore[attr-defined]
    except PenstockError as exc:
        return str(exc)
    return "" if checked.ok else checked.message


async def test_it_says_which_tables_the_user_may_not_read(place: Place) -> None:
    role = f"reader_{place.dsn[-8:]}"
    await place.driver.execute(
        f"CREATE TABLE open (id int); CREATE TABLE closed (id int); CREATE ROLE {role} LOGIN PASSWORD 'x'; GRANT SELECT ON open TO {role}"
    )
    try:
        source = await place.open(user=role, password="x")
        assert "public.closed; GRANT SELECT" in (await source.check()).message
        assert [each.name for each in await source.discover()] == ["open"]
        assert (await (await place.open(user=role, password="x", exclude=["closed"])).check()).ok
    finally:
        for each in place.opened:
            await each.close()
        await place.driver.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_it_finds_tables_views_and_partitions_with_keys_and_types(place: Place) -> None:
    await place.driver.execute("""
        CREATE DOMAIN price AS numeric(12,2); CREATE DOMAIN dear AS price; CREATE TYPE mood AS ENUM ('calm', 'loud');
        CREATE TABLE orders (id bigint PRIMARY KEY, total dear NOT NULL, mood mood, tags text[], updated_at timestamptz, body jsonb);
        CREATE TABLE unique_one (a int NOT NULL, b text NOT NULL, UNIQUE (b, a));
        CREATE TABLE half_unique (a int UNIQUE); CREATE TABLE only_json (j json); CREATE TABLE no_columns ();
        CREATE TABLE days (day date, id int, PRIMARY KEY (day, id)) PARTITION BY RANGE (day);
        CREATE TABLE days_1 PARTITION OF days FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
        CREATE VIEW dear_orders AS SELECT id, total FROM orders; CREATE MATERIALIZED VIEW kept AS SELECT 1 AS one;
        CREATE SCHEMA other; CREATE TABLE other.orders (id int)
    """)
    source = await place.open()
    found = {str(each.known_as): each for each in await source.discover()}
    assert set(found) == {
        *(f"public.{name}" for name in ("orders", "unique_one", "half_unique", "only_json", "days", "dear_orders", "kept")),
        "other.orders",
    }
    orders = found["public.orders"]
    assert orders.primary_key == (("id",),)
    assert orders.cursor == ("updated_at",)
    assert orders.modes == ("full_refresh", "incremental")
    types = {name: each.get("type") for name, each in orders.json_schema["properties"].items()}
    assert types == {
        "id": "integer", "total": "number", "mood": ["null", "string"], "tags": ["null", "array"],
        "updated_at": ["null", "string"], "body": None,
    }  # fmt: skip
    assert found["public.unique_one"].primary_key == (("b",), ("a",))
    assert found["public.half_unique"].primary_key == ()
    assert found["public.days"].primary_key == (("day",), ("id",))
    assert found["public.only_json"].modes == ("full_refresh",)
    assert found["public.dear_orders"].primary_key == ()
    some = await (await place.open(schemas=["public"], tables=["*orders", "days"], exclude=["public.dear*"])).discover()
    assert {str(each.known_as) for each in some} == {"public.orders", "public.days"}


async def test_it_reads_hostile_names_and_only_wanted_columns(place: Place) -> None:
    columns = ", ".join(f"{_quoted(name)} text" for name in HOSTILE)
    await place.driver.execute(f"CREATE SCHEMA {_quoted(HOSTILE[0])}")
    table = f"{_quoted(HOSTILE[0])}.{_quoted(HOSTILE[4])}"
    await place.driver.execute(f'CREATE TABLE {table} ("Id" text PRIMARY KEY, id text, {columns})')
    await place.driver.execute(f"INSERT INTO {table} SELECT i, -i, i, i, i, i, i FROM generate_series(10, 30) i")
    source = await place.open(checkpoint_rows=1, fetch_size="1B")
    streams = await source.discover()
    got = await read(source, chosen(streams, HOSTILE[4], cursor=HOSTILE[3], columns=[HOSTILE[1], "sel ect"]))
    assert [set(row) for row in got.rows(HOSTILE[4])] == [{"Id", HOSTILE[1], "sel ect", "a.b"}] * 21
    state = next(each for each in got.messages if isinstance(each, Checkpoint))
    rest = await read(source, chosen(streams, HOSTILE[4], cursor=HOSTILE[3]), {state.stream: state.state})
    assert {row["Id"] for row in rest.rows(HOSTILE[4])} < {str(number) for number in range(10, 31)}


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@pytest.mark.parametrize("cursor", [None, "turn", "at", "key_only"])
async def test_a_read_cut_off_at_any_message_goes_on_without_a_gap(place: Place, cursor: str | None) -> None:
    """Many rows share a cursor, some have none, and keys are texts with quotes and backslashes."""
    await place.driver.execute(r"""
        CREATE TABLE t (id text, part int, turn int, at timestamptz, key_only text NOT NULL, long text, PRIMARY KEY (part, id));
        INSERT INTO t SELECT CASE i % 3 WHEN 0 THEN '''' WHEN 1 THEN '\' ELSE '"' END || i, i % 2, nullif(i / 7, 3),
            CASE WHEN i % 11 > 0 THEN '2024-01-01'::timestamptz + (i / 5) * interval '1 us' END, i, repeat('long ', 8000) FROM generate_series(1, 60) i
    """)
    whole = {(row["part"], row["id"]) for row in await place.driver.fetch("SELECT part, id FROM t")}
    source = await place.open(checkpoint_rows=1, fetch_size="256B")
    selected = chosen(await source.discover(), "t", cursor=cursor)
    length = len((await read(source, selected)).messages)
    assert length > 12, "several states are on the way"
    for cut in range(1, length):
        first = await read(source, selected, until=cut)
        rest = await read(source, selected, first.states)
        assert _keys(first) | _keys(rest) == whole, f"cut off behind message {cut}"
        if first.states and not any(b"complete" in each for each in first.states.values()):
            covered = _covered(first.messages)
            assert _keys(rest) == whole - covered, "what a state covers does not come again"


def _keys(reading: Reading) -> set[tuple[int, str]]:
    return {(row["part"], row["id"]) for row in reading.rows("t")}


def _covered(messages: list[Message]) -> set[tuple[int, str]]:
    last = max(index for index, each in enumerate(messages) if isinstance(each, Checkpoint))
    assert any(isinstance(each, Rows) for each in messages[:last])
    return _keys(Reading(messages[:last]))


async def test_the_next_read_gives_what_is_new_and_what_has_the_same_cursor(place: Place) -> None:
    await place.driver.execute("""
        CREATE TABLE t (id int PRIMARY KEY, updated_at timestamptz);
        INSERT INTO t VALUES (5, '2024-01-01'), (9, '2024-01-02'), (1, NULL)
    """)
    source = await place.open()
    selected = chosen(await source.discover(), "t")
    first = await read(source, selected)
    assert {row["id"] for row in first.rows("t")} == {1, 5, 9}
    assert 'no "updated_at"' in " ".join(first.said)
    assert {row["id"] for row in (await read(source, selected, first.states)).rows("t")} == {9}
    await place.driver.execute("INSERT INTO t VALUES (2, '2024-01-02'), (3, '2024-01-03'), (4, '2024-01-01 23:59:59')")
    second = await read(source, selected, first.states)
    assert {row["id"] for row in second.rows("t")} == {2, 3, 9}, "a smaller key with the same cursor is not missed"
    late = await place.open(lookback="1m")
    assert {row["id"] for row in (await read(late, selected, first.states)).rows("t")} == {2, 3, 4, 9}
    other = chosen(await source.discover(), "t", cursor="id")
    changed = await read(source, other, first.states)
    assert len(changed.rows("t")) == 6
    assert "another cursor" in " ".join(changed.said)


async def test_a_table_that_fails_alone_is_said_and_the_others_are_read(place: Place) -> None:
    await place.driver.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int); INSERT INTO b VALUES (1)")
    await place.driver.execute("CREATE VIEW broken AS SELECT 1 / (id - 1) AS one FROM b; CREATE TABLE empty (id int)")
    source = await place.open()
    streams = await source.discover()
    await place.driver.execute("DROP TABLE a")
    got = await read(source, chosen(streams, "a", "b", "broken", "empty"), fails=True)
    assert got.ended == {"a": False, "b": True, "broken": False, "empty": True}
    assert got.rows("b") == [{"id": 1}]
    assert "no such table" in got.said[0]
    assert any("division by zero" in line for line in got.said)
    await place.driver.execute("ALTER TABLE b ADD more int DEFAULT 7")
    assert (await read(source, chosen(streams, "b"))).rows("b") == [{"id": 1, "more": 7}]


async def test_a_server_that_ends_the_session_is_a_lost_link_and_the_next_read_connects(place: Place) -> None:
    await place.driver.execute(
        "CREATE TABLE t (id int PRIMARY KEY, long text); INSERT INTO t SELECT i, repeat('long', 2500) FROM generate_series(1, 2000) i"
    )
    source = await place.open(fetch_size="1KB")
    selected = chosen(await source.discover(), "t")
    messages = source.read(selected, {})
    await anext(messages)
    await place.driver.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with pytest.raises(PenstockError, match="reading"):
        async for _ in messages:
            pass
    assert len((await read(source, selected)).rows("t")) == 2000
    left = await read(source, selected, until=2)
    assert left.rows("t")
    running = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' AND pid <> pg_backend_pid()"
    while await place.driver.fetchval(running):
        pass
    assert isinstance(place.driver, asyncpg.Connection)
