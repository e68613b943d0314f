"""Change data capture loses nothing: under writers, cut off anywhere, with a server that ends it; and what is lost is said."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import aclosing
from typing import Any

import asyncpg
import pytest

from connector_runner.contract import Checkpoint, Message, Rows, Selected, Source, StreamName
from connector_runner.sources.postgres.changes import slots
from shared.errors import NotConnected, PenstockError, SetupError, Transient
from shared.tasks import task_group
from tests.contract.postgres_source.conftest import Place, Reading, Replica, chosen, read
from tests.support.postgres import PostgresServer

TABLE = "CREATE TABLE t (id int PRIMARY KEY, version int, body text)"
LONG = "long" * 1000


READS = 20


async def write(dsn: str, seed: int, enough: asyncio.Event) -> None:
    """Writes at random: transactions of several rows, some rolled back, keys that change, rows that go and come again."""
    chance, driver, step = random.Random(seed), await asyncpg.connect(dsn), 0
    while not enough.is_set() or step < 50:
        step += 1
        transaction = driver.transaction()
        await transaction.start()
        try:
            for _ in range(chance.randrange(1, 6)):
                one, other = chance.randrange(200) * 4 + seed, chance.randrange(200) * 4 + seed  # no two writers share a key
                match chance.randrange(5):
                    case 0 | 1:
                        await driver.execute(
                            "INSERT INTO t VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET version = $2", one, step, LONG
                        )
                    case 2:
                        await driver.execute("UPDATE t SET version = $2 WHERE id = $1", one, step)
                    case 3:
                        await driver.execute("DELETE FROM t WHERE id = $1", one)
                    case _:
                        await driver.execute("DELETE FROM t WHERE id = $1", other)
                        await driver.execute("UPDATE t SET id = $2 WHERE id = $1", one, other)
        finally:
            await (transaction.rollback() if chance.random() < 0.2 else transaction.commit())
    await driver.close()


async def lives(
    source: Source, selected: list[Selected], *, kept: bool, enough: asyncio.Event, until: asyncio.Task[Any]
) -> Replica:
    """Reads again and again, each time to one message more, while others write; then to the end.

    Args:
        kept: whether rows behind the last state were loaded too, as they may have been.
    """
    replica, states, cut, times = Replica(), dict[Any, bytes](), 1, 0
    while True:
        last = until.done()
        got = await read(source, selected, states, until=None if last else cut)
        behind = [index for index, each in enumerate(got.messages) if isinstance(each, Checkpoint)]
        loaded: list[Message] = got.messages if kept else got.messages[: behind[-1] + 1 if behind else 0]
        replica.take(loaded, "t")
        states.update(got.states)
        if last:
            return replica
        cut, times = cut % 9 + 1, times + 1
        if times >= READS:
            enough.set()


@pytest.mark.parametrize("kept", [True, False])
async def test_copy_and_log_together_miss_nothing_however_often_a_read_is_cut_off(place: Place, kept: bool) -> None:
    await place.driver.execute(f"{TABLE}; INSERT INTO t SELECT i * 4, 0, repeat('long', 1000) FROM generate_series(1, 199) i")
    await place.driver.execute("ALTER TABLE t ALTER body SET STORAGE EXTERNAL")
    source = await place.open(method="cdc", checkpoint_rows=1, fetch_size="4KiB")
    selected = chosen(await source.discover(), "t")
    enough = asyncio.Event()
    async with task_group() as group:
        writers = [group.create_task(write(place.dsn, seed, enough)) for seed in range(3)]
        done = group.create_task(_all(writers))
        replica = await lives(source, selected, kept=kept, enough=enough, until=done)
    there = {row["id"]: dict(row) for row in await place.driver.fetch("SELECT * FROM t")}
    assert replica.rows() == there
    gone = [row for row in replica.held.values() if row["_deleted_at"] is not None]
    assert gone


async def _all(tasks: list[asyncio.Task[None]]) -> None:
    await asyncio.wait(tasks)


async def test_rows_that_come_while_a_read_follows_are_given_at_once_and_the_slot_moves_behind_states(place: Place) -> None:
    await place.driver.execute(TABLE)
    source: Any = await place.open(method="cdc", follow="1h")
    selected = chosen(await source.discover(), "t")
    confirmed = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE database = current_database()"
    async with aclosing(source.read(selected, {})) as messages:
        first = await anext(messages)
        while not (isinstance(first, Checkpoint) and b'"done":true' in first.state):
            first = await anext(messages)
        before = await place.driver.fetchval(confirmed)
        for number in range(5):
            insert = asyncio.ensure_future(place.driver.execute("INSERT INTO t VALUES ($1, 0, '')", number))
            message = await anext(messages)
            while not isinstance(message, Rows):
                message = await anext(messages)
            assert [row["id"] for row in Reading([message]).rows("t")] == [number]
            await insert
        state = await anext(messages)
        assert isinstance(state, Checkpoint)
        assert await place.driver.fetchval(confirmed) == before, "nothing is stored yet"
        await source.stored({state.stream: state.state})
        while await place.driver.fetchval(confirmed) != json.loads(state.state)["lsn"]:
            pass
        assert (await source.lag()).bytes >= 0
    while await place.driver.fetchval("SELECT active FROM pg_replication_slots WHERE database = current_database()"):
        pass
    rest = await read(await place.open(method="cdc"), selected, {state.stream: state.state})
    assert rest.rows("t") == []


async def test_a_stream_that_the_server_ends_is_a_lost_link_and_the_next_read_goes_on(place: Place) -> None:
    await place.driver.execute(TABLE)
    source = await place.open(method="cdc", follow="1h")
    selected = chosen(await source.discover(), "t")
    states = (await read(source, selected, until=4)).states
    messages = source.read(selected, states)
    await place.driver.execute("INSERT INTO t VALUES (1, 1, '')")
    while not isinstance(await anext(messages), Rows):
        pass
    await place.driver.fetch(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = current_database()"
    )
    with pytest.raises(NotConnected):
        async for _ in messages:
            pass
    got = await read(await place.open(method="cdc"), selected, states)
    assert [row["id"] for row in got.rows("t")] == [1]


async def test_a_server_that_is_killed_loses_no_change(place: Place, postgres: PostgresServer) -> None:
    await place.driver.execute(TABLE)
    source = await place.open(method="cdc", follow="1h")
    selected = chosen(await source.discover(), "t")
    replica, states, committed = Replica(), dict[Any, bytes](), set[int]()

    async def insert() -> None:
        driver = await asyncpg.connect(place.dsn)
        for number in range(10_000):
            await driver.execute("INSERT INTO t VALUES ($1, 0, '')", number)
            committed.add(number)

    writer = asyncio.ensure_future(insert())
    with pytest.raises(NotConnected):
        async with aclosing(source.read(selected, {})) as messages:
            async for message in messages:
                if isinstance(message, Rows):
                    replica.load(Reading([message]).rows("t"))
                elif isinstance(message, Checkpoint):
                    states[message.stream] = message.state
                if len(replica.held) > 100 and postgres.running:
                    await asyncio.to_thread(postgres.kill)
    await asyncio.gather(writer, return_exceptions=True)
    await asyncio.to_thread(postgres.start)
    replica.load((await read(await place.open(method="cdc"), selected, states)).rows("t"))
    driver = await asyncpg.connect(place.dsn)
    there = {row["id"] for row in await driver.fetch("SELECT id FROM t")}
    await driver.close()
    assert set(replica.rows()) == there >= committed


async def test_a_second_reader_of_the_slot_waits_for_the_first(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "RELEASE_SECONDS", 0.0)
    await place.driver.execute(TABLE)
    source = await place.open(method="cdc", follow="1h")
    selected = chosen(await source.discover(), "t")
    states = (await read(await place.open(method="cdc"), selected)).states
    await place.driver.execute("INSERT INTO t VALUES (1, 1, '')")
    async with aclosing(source.read(selected, states)) as messages:
        while not isinstance(await anext(messages), Rows):
            pass
        with pytest.raises(Transient, match="another program uses it"):
            await read(await place.open(method="cdc"), selected, states)


async def test_lost_changes_are_said_with_what_to_do(place: Place) -> None:
    await place.driver.execute(TABLE)
    source: Any = await place.open(method="cdc")
    selected = chosen(await source.discover(), "t")
    states = (await read(source, selected)).states
    await place.driver.execute("INSERT INTO t VALUES (1, 1, '')")

    name = selected[0].stream.known_as

    async def refused(stored: bytes) -> str:
        with pytest.raises(SetupError) as caught:
            await read(source, selected, {name: stored})
        return str(caught.value)

    state = json.loads(states[name])
    server = state["server"]
    assert "another server" in await refused(json.dumps({**state, "server": {**server, "system": "1"}}).encode())
    assert "timeline" in await refused(json.dumps({**state, "server": {**server, "timeline": 99}}).encode())
    assert "put back from a backup" in await refused(json.dumps({**state, "lsn": 1 << 60}).encode())
    assert "of the slot other" in await refused(json.dumps({**state, "slot": "other"}).encode())
    assert "not of change data capture" in await refused(b'{"cursor": "id"}')
    slot = state["slot"]
    await place.driver.execute("SELECT pg_replication_slot_advance($1, pg_current_wal_lsn())", slot)
    assert "was moved to" in await refused(states[name])
    assert await source.cleanup() == [f"slot {slot}", f"publication {slot}"]
    assert await source.cleanup() == []
    assert "is gone" in (message := await refused(states[name]))
    assert "copied again" in message
    assert [row["id"] for row in (await read(source, selected)).rows("t")] == [1], "without the state it begins anew"


async def test_tables_that_the_log_cannot_tell_of_are_refused_and_never_published(place: Place) -> None:
    await place.driver.execute("""
        CREATE TABLE no_key (id int); CREATE UNLOGGED TABLE quick (id int PRIMARY KEY); CREATE TABLE t (id int PRIMARY KEY);
        CREATE VIEW v AS SELECT * FROM t; INSERT INTO t VALUES (1); INSERT INTO no_key VALUES (2)
    """)
    source = await place.open(method="cdc")
    streams = {each.name: each for each in await source.discover()}
    assert {name for name, each in streams.items() if "incremental" in each.modes} == {"t"}
    all_of_them = [Selected(each, "incremental", ("_lsn",)) for each in streams.values()]
    got = await read(source, all_of_them)
    assert got.ended == {"no_key": False, "quick": False, "v": False, "t": True}
    assert "REPLICA IDENTITY FULL" in " ".join(got.said)
    await place.driver.execute("UPDATE no_key SET id = 3")  # a table without identity that is published would refuse it
    whole = await read(source, [Selected(streams["no_key"], "full_refresh"), Selected(streams["t"], "incremental")], got.states)
    assert whole.rows("no_key") == [{"id": 3}]
    assert {name.name for name in whole.states if name is not None} == {"t", "no_key"}


async def test_tables_join_leave_and_are_made_again(place: Place) -> None:
    await place.driver.execute(
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); INSERT INTO b VALUES (1)"
    )
    source = await place.open(method="cdc")
    streams = await source.discover()
    states = (await read(source, chosen(streams, "a"))).states
    await place.driver.execute("INSERT INTO a VALUES (1); INSERT INTO b VALUES (2)")
    first = got = await read(source, chosen(streams, "a", "b"), states)
    assert ([row["id"] for row in got.rows("a")], [row["id"] for row in got.rows("b")]) == ([1], [1, 2])
    states = got.states
    del states[StreamName("b", "public")]
    states |= (await read(source, chosen(streams, "a"), states)).states
    await place.driver.execute(
        "INSERT INTO b VALUES (3); DROP TABLE a; CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (9)"
    )
    got = await read(source, chosen(streams, "a", "b"), states)
    assert {row["id"] for row in got.rows("b")} == {1, 2, 3}
    assert {row["id"] for row in got.rows("a")} == {9}
    assert "made again" in " ".join(got.said)
    mirror = Replica()
    mirror.take([*first.messages, *got.messages], "a")
    assert set(mirror.rows()) == {9}, "rows of the former table are gone"
    (publication,) = await place.driver.fetch("SELECT pubname FROM pg_publication")
    await place.driver.execute(f"ALTER PUBLICATION {publication['pubname']} DROP TABLE b")
    await place.driver.execute("INSERT INTO b VALUES (4)")
    got = await read(source, chosen(streams, "a", "b"), got.states)
    assert [row["id"] for row in got.rows("b")] == [1, 2, 3, 4]
    assert "not published" in " ".join(got.said)


async def test_tables_that_are_read_alone_cost_the_others_no_change(place: Place) -> None:
    await place.driver.execute("""
        CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)
    """)
    source = await place.open(method="cdc")
    streams = await source.discover()
    states = (await read(source, chosen(streams, "a", "b"))).states
    for step in (2, 3):
        await place.driver.execute(
            f"INSERT INTO a VALUES ({step}); INSERT INTO b VALUES ({step}); DELETE FROM b WHERE id = {step - 1}"
        )
        alone = await read(source, chosen(streams, "a"), states)
        assert [row["id"] for row in alone.rows("a")] == [step]
        states |= alone.states
    both = await read(source, chosen(streams, "a", "b"), states)
    assert both.rows("a") == []
    assert [(row["id"], row["_deleted_at"] is None) for row in both.rows("b")] == [(2, True), (1, False), (3, True), (2, False)]
    states |= both.states
    # a person forgets the state of one (`penstock sync reset SYNC --stream public.a`)
    del states[StreamName("a", "public")]
    await place.driver.execute("DELETE FROM b")
    again = await read(source, chosen(streams, "a", "b"), states)
    assert [row["id"] for row in again.rows("a")] == [1, 2, 3]
    assert [row["id"] for row in again.rows("b")] == [3]


async def test_a_table_under_another_name_is_another_stream_and_is_copied(place: Place) -> None:
    await place.driver.execute("CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1)")
    source = await place.open(method="cdc")
    states = (await read(source, chosen(await source.discover(), "a"))).states
    await place.driver.execute("INSERT INTO a VALUES (2); ALTER TABLE a RENAME TO b; INSERT INTO b VALUES (3)")
    got = await read(source, chosen(await source.discover(), "b"), states)
    assert {row["id"] for row in got.rows("b")} == {1, 2, 3}


async def test_a_publication_that_does_not_tell_all_is_refused_and_one_that_lacked_a_table_is_noticed(place: Place) -> None:
    await place.driver.execute("CREATE TABLE t (id int PRIMARY KEY, n int); CREATE PUBLICATION mine FOR TABLE t")
    source = await place.open(method="cdc", publication="mine")
    selected = chosen(await source.discover(), "t")
    states = (await read(source, selected)).states
    await place.driver.execute(
        "ALTER PUBLICATION mine DROP TABLE t; INSERT INTO t VALUES (1, 1); ALTER PUBLICATION mine ADD TABLE t"
    )
    got = await read(source, selected, states)
    assert [row["id"] for row in got.rows("t")] == [1]
    assert "not published for a while" in " ".join(got.said)
    for change, words in (
        ("ALTER PUBLICATION mine SET (publish = 'insert')", "all kinds of changes"),
        ("DROP PUBLICATION mine; CREATE PUBLICATION mine FOR TABLE t WHERE (id > 1)", "only some rows or columns"),
        ("DROP PUBLICATION mine; CREATE PUBLICATION mine FOR TABLE t (id)", "only some rows or columns"),
        ("DROP PUBLICATION mine", "does not have"),
    ):
        await place.driver.execute(change)
        with pytest.raises(SetupError, match=words):
            await read(source, selected, got.states)


async def test_a_key_that_the_log_does_not_tell_of_deleted_rows_is_refused(place: Place) -> None:
    await place.driver.execute("CREATE TABLE t (id int PRIMARY KEY, code text NOT NULL); INSERT INTO t VALUES (1, 'a')")
    source = await place.open(method="cdc")
    (stream,) = await source.discover()
    by_code = [Selected(stream, "incremental", ("_lsn",), (("code",),))]
    refused = await read(source, by_code)
    assert refused.ended == {"t": False}
    assert "cannot be told apart by code" in " ".join(refused.said)
    await place.driver.execute("ALTER TABLE t REPLICA IDENTITY FULL")
    states = (await read(source, by_code)).states
    await place.driver.execute("UPDATE t SET code = 'b'; DELETE FROM t")
    rows = (await read(source, by_code, states)).rows("t")
    assert [(row["code"], row["_deleted_at"] is None) for row in rows] == [("a", False), ("b", True), ("b", False)]


async def test_a_copy_waits_for_transactions_that_wrote_before_it_was_published(place: Place) -> None:
    await place.driver.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)")
    source = await place.open(method="cdc", statement_timeout="300ms")
    streams = await source.discover()
    transaction = place.driver.transaction()
    await transaction.start()
    await place.driver.execute("INSERT INTO a VALUES (1)")
    with pytest.raises(Transient, match=r"has been open.*a slot is made when"):
        await read(source, chosen(streams, "a"))
    await transaction.rollback()
    states = (await read(source, chosen(streams, "a"))).states
    transaction = place.driver.transaction()
    await transaction.start()
    await place.driver.execute("INSERT INTO b VALUES (1)")
    with pytest.raises(Transient, match="has been open"):
        await read(source, chosen(streams, "a", "b"), states)
    await transaction.commit()
    got = await read(source, chosen(streams, "a", "b"), states)
    assert [row["id"] for row in got.rows("b")] == [1]


async def test_rights_and_settings_that_lack_are_said(place: Place) -> None:
    role = f"reader_{place.dsn[-8:]}"
    await place.driver.execute(
        f"CREATE TABLE t (id int PRIMARY KEY); CREATE ROLE {role} LOGIN PASSWORD 'x'; GRANT SELECT ON t TO {role}"
    )
    try:
        source = await place.open(method="cdc", user=role, password="x")
        assert "REPLICATION" in (await source.check()).message
        await place.driver.execute(f"ALTER ROLE {role} REPLICATION")
        assert (await source.check()).ok
        selected = chosen(await source.discover(), "t")
        with pytest.raises(PenstockError, match="CREATE PUBLICATION"):
            await read(source, selected)
        await place.driver.execute("CREATE PUBLICATION theirs")
        theirs = await place.open(method="cdc", user=role, password="x", publication="theirs", slot="their_slot")
        with pytest.raises(PenstockError, match="does not have"):
            await read(theirs, selected)
        await place.driver.execute("ALTER PUBLICATION theirs ADD TABLE t; INSERT INTO t VALUES (1)")
        got = await read(theirs, selected)
        await place.driver.execute("INSERT INTO t VALUES (2)")
        assert [row["id"] for row in got.rows("t") + (await read(theirs, selected, got.states)).rows("t")] == [1, 2]
        assert await theirs.cleanup() == ["slot their_slot"]  # type: ignore[attr-defined]
    finally:
        for each in place.opened:
            await each.close()
        await place.driver.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
