"""The kit of databases as sources: an incremental read, killed anywhere, misses no row, on a real engine (SQLite)."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing

import pyarrow as pa
import pytest

from connector_runner.contract import Checkpoint, Ended, Message, Rows, Said, Selected, StreamName
from connector_runner.sql.dialect import Dialect
from connector_runner.sql.reading import Reader, cut
from connector_runner.sql.tables import Column, Table, stream_of
from shared.errors import SetupError, Transient

NAME = StreamName("odd \"na'me")
ID = Column("id", "INTEGER", "integer", '"id"', nullable=False, ordered=True)
CURSOR = Column('up"dated', "INTEGER", "integer", '"up""dated"', nullable=True, ordered=True)
NOTE = Column("note", "TEXT", "text", '"note"')
TABLE = Table(NAME, source='"odd ""na\'me"', columns=(ID, CURSOR, NOTE), key=("id",))
PAGE = 3


class SQLite(Dialect):
    """Its numbers as text, and back."""

    def text(self, column: Column) -> str:
        return f"CAST({self.identifier(column.name)} AS TEXT)"

    def value(self, column: Column, text: str) -> str:
        return self.literal(text) if column.kind == "text" else str(int(text))


class Database:
    """One table; `ask` and `rows` as a server's. `open`: statements that are under way."""

    def __init__(self) -> None:
        self.link = sqlite3.connect(":memory:")
        self.link.execute(f'CREATE TABLE {TABLE.source} ("id" INTEGER PRIMARY KEY, "up""dated" INTEGER, "note" TEXT)')
        self.open = 0
        self.asked = list[str]()

    def add(self, id_: int, cursor: int | None) -> None:
        self.link.execute(f"INSERT INTO {TABLE.source} VALUES (?, ?, 'x')", (id_, cursor))

    async def ask(self, sql: str) -> Sequence[Sequence[str | None]]:
        self.asked.append(sql)
        return self.link.execute(sql).fetchall()

    async def rows(self, sql: str, columns: Sequence[Column]) -> AsyncGenerator[pa.Table, None]:
        self.asked.append(sql)
        self.open += 1
        try:
            found = self.link.execute(sql).fetchall()
            for start in range(0, len(found), 2):
                part = found[start : start + 2]
                yield pa.table({each.name: [row[place] for row in part] for place, each in enumerate(columns)})
        finally:
            self.open -= 1


@pytest.fixture
def database() -> Iterator[Database]:
    found = Database()
    yield found
    found.link.close()


States = dict[StreamName | None, bytes]


async def read(
    database: Database,
    states: States,
    *,
    most: int = 10**6,
    table: Table = TABLE,
    add: Mapping[int, tuple[int, int]] | None = None,
) -> list[Message]:
    """Reads incrementally until so many messages came, and keeps the states that came; `add`: rows to insert behind a message."""
    selected = Selected(stream_of(table), "incremental", (CURSOR.name,), (("id",),))
    messages: list[Message] = []
    async with aclosing(Reader(database, SQLite(), PAGE).read([selected], [table], states)) as found:
        async for message in found:
            messages.append(message)
            if isinstance(message, Checkpoint):
                states[message.stream] = message.state
            if add is not None and (row := add.get(len(messages))):
                database.add(*row)
            if len(messages) >= most:
                break
    return messages


def ids(messages: Sequence[Message]) -> list[int]:
    return [value for each in messages if isinstance(each, Rows) for value in each.rows["id"].to_pylist()]


@pytest.mark.parametrize("key", [("id",), ()], ids=["key", "no key"])
async def test_a_read_killed_at_any_message_goes_on_from_its_state_and_misses_no_row(
    database: Database, key: tuple[str, ...]
) -> None:
    table = TABLE._replace(key=key)
    for id_ in range(40):
        database.add(id_, None if id_ % 13 == 5 else 10 + id_ // 8)
    whole = len(await read(database, {}, table=table))
    for most in range(1, whole + 1):
        states: States = {}
        got = ids(await read(database, states, most=most, table=table))
        assert database.open == 0, "no statement outlives the read"
        rest = await read(database, states, table=table)
        assert set(got) | set(ids(rest)) == set(range(40))
        # what is behind a state does not come again, but for the rows of the last value and those without one
        assert len(ids(rest)) <= 40 - len(got) + 2 * PAGE + 8 + 3


async def test_rows_that_come_with_an_equal_value_in_the_middle_of_a_read_are_not_missed(database: Database) -> None:
    for id_ in range(100, 110):
        database.add(id_, 10)
    whole = len(await read(database, {}))
    for place in range(1, whole + 1):
        fresh = Database()
        for id_ in range(100, 110):
            fresh.add(id_, 10)
        # its key stands before all that was read, then the cursor goes on
        states: States = {}
        got = await read(fresh, states, add={place: (1, 10), place + 1: (2, 11)})
        got += await read(fresh, states)
        assert set(ids(got)) >= {row[0] for row in fresh.link.execute(f"SELECT id FROM {TABLE.source}")}
        fresh.link.close()


async def test_the_next_read_gives_the_rows_of_the_last_value_again_and_newer_ones(database: Database) -> None:
    for id_, cursor in enumerate([1, 2, 3, 3]):
        database.add(id_, cursor)
    states: States = {}
    await read(database, states)
    database.add(9, 3)
    database.add(10, 4)
    assert sorted(ids(await read(database, states))) == [2, 3, 9, 10]


async def test_many_rows_with_one_value_are_several_pages_where_there_is_a_key(database: Database) -> None:
    for id_ in range(10):
        database.add(id_, 5)
    messages = await read(database, {})
    assert sum(isinstance(each, Checkpoint) for each in messages) == 4
    assert sorted(ids(messages)) == list(range(10)), "each row once"
    assert sum(each.rows or 0 for each in messages if isinstance(each, Checkpoint)) == 10


async def test_an_empty_table_is_complete_and_has_a_state_from_which_the_first_row_comes(database: Database) -> None:
    states: States = {}
    messages = await read(database, states)
    assert [type(each) for each in messages] == [Checkpoint, Ended]
    assert messages[-1] == Ended(NAME, complete=True)
    database.add(1, 1)
    assert ids(await read(database, states)) == [1]


async def test_rows_without_a_value_come_with_every_read_and_are_told_of(database: Database) -> None:
    database.add(1, None)
    database.add(2, 2)
    states: States = {}
    first = await read(database, states)
    assert ids(first) == [1, 2]
    assert [each.text for each in first if isinstance(each, Said)] == [
        f'stream "{NAME}": 1 rows without up"dated; they come with every read'
    ]
    assert ids(await read(database, states)) == [1, 2]


async def test_another_key_of_the_table_does_not_make_an_old_position_wrong(database: Database) -> None:
    for id_ in range(20):
        database.add(id_, id_ // 7)
    states: States = {}
    got = ids(await read(database, states, most=4))
    assert states
    rest = ids(await read(database, states, table=TABLE._replace(key=())))
    assert set(got) | set(rest) == set(range(20))


async def test_a_state_of_another_cursor_is_forgotten_with_a_word(database: Database) -> None:
    database.add(1, 1)
    selected = Selected(stream_of(TABLE), "incremental", ("id",))
    reader = Reader(database, SQLite(), PAGE)
    first = [each async for each in reader.read([selected], [TABLE], {})]
    (state,) = [each.state for each in first if isinstance(each, Checkpoint)]
    again = await read(database, {NAME: state})
    assert any(isinstance(each, Said) and "another cursor now" in each.text for each in again)
    assert ids(again) == [1]


async def test_a_state_of_another_writer_is_for_a_person(database: Database) -> None:
    with pytest.raises(SetupError, match="reset the stream"):
        await read(database, {NAME: b'{"page": 2}'})


async def test_a_stream_that_is_gone_ends_incomplete_and_the_others_are_read(database: Database) -> None:
    database.add(1, 1)
    gone = stream_of(TABLE._replace(name=StreamName("gone")))
    messages = list[Message]()
    with pytest.raises(SetupError, match='"gone" is not there'):
        async for each in Reader(database, SQLite(), PAGE).read(
            [Selected(gone, "full_refresh"), Selected(stream_of(TABLE), "full_refresh")], [TABLE], {}
        ):
            messages.append(each)
    assert [each for each in messages if isinstance(each, Ended)] == [
        Ended(StreamName("gone"), complete=False),
        Ended(NAME, complete=True),
    ]
    assert ids(messages) == [1]


@pytest.mark.parametrize(
    ("cursor", "words"),
    [
        ((), "needs a cursor"),
        (("note",), r"\(TEXT\) cannot be a cursor; choose one of id, up"),
        (("ID",), 'no column "ID"'),
    ],
)
async def test_a_cursor_that_cannot_be_one_is_for_a_person(database: Database, cursor: tuple[str, ...], words: str) -> None:
    selected = Selected(stream_of(TABLE), "incremental", cursor)
    with pytest.raises(SetupError, match=words):
        async for _ in Reader(database, SQLite(), PAGE).read([selected], [TABLE], {}):
            pass


async def test_columns_that_are_not_wanted_are_not_asked_for_but_the_key_and_the_cursor_are(database: Database) -> None:
    database.add(1, 1)
    selected = Selected(stream_of(TABLE), "incremental", (CURSOR.name,), (("id",),), columns=())
    messages = [each async for each in Reader(database, SQLite(), PAGE).read([selected], [TABLE], {})]
    assert [each.rows.column_names for each in messages if isinstance(each, Rows)] == [["id", CURSOR.name]]
    assert not any("note" in sql for sql in database.asked)


async def test_a_lost_server_ends_the_read_at_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lost(sql: str) -> Sequence[Sequence[str | None]]:
        raise Transient("lost")

    monkeypatch.setattr(database, "ask", lost)
    with pytest.raises(Transient):
        await read(database, {})


def test_tables_are_cut_by_bytes_into_rows_in_order() -> None:
    table = pa.table({"id": list(range(1000)), "text": ["x" * (id_ % 100) for id_ in range(1000)]})
    parts = list(cut(table, 5_000))
    assert pa.concat_tables(parts) == table
    assert len(parts) > 5
    assert all(each.nbytes <= 5_000 for each in parts)
    assert list(cut(table.slice(0, 0), 100)) == []
    assert [each.num_rows for each in cut(table.slice(0, 2), 1)] == [1, 1], "a row is never cut"
