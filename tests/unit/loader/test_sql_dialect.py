"""Names and texts of events never end the quotes they stand in, in any dialect; merges mean what the contract says."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.contract.warehouse import TableLoad
from loader.sql.merge import in_turn, insert
from shared.driving.spelling import Spelling
from shared.errors import Permanent
from tests.support.sqlite import Lite


class Escaping(Spelling):
    """As servers write it where a backslash escapes."""

    name_quote = "`"
    backslash_in_text = True
    backslash_in_names = True


HOSTILE = [
    "x; DROP TABLE y --",
    "'",
    '"',
    "`",
    "''",
    "\\",
    "\\'",
    "'\\",
    '\\"',
    "\\`",
    "a\\\\'b",
    "/* */",
    "$1",
    "%s",
    "{}",
    "ü\u2028",
]
TEXT = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1))
READERS: list[tuple[Spelling, str, bool]] = [(Spelling(), '"', False), (Escaping(), "`", True)]


def read(sql: str, quote: str, escapes: bool) -> str:
    """Returns what a server reads between quotes; fails where they end before the end, or not there."""
    assert sql[0] == quote
    found, place = "", 1
    while True:
        if escapes and sql[place] == "\\":
            found, place = found + sql[place + 1], place + 2
        elif sql[place] != quote:
            found, place = found + sql[place], place + 1
        elif sql[place : place + 2] == 2 * quote:
            found, place = found + quote, place + 2
        else:
            assert place == len(sql) - 1, "the quotes end inside"
            return found


@pytest.mark.parametrize(("dialect", "quote", "escapes"), READERS)
@given(text=TEXT)
def test_a_name_and_a_text_are_read_as_they_were_given(dialect: Spelling, quote: str, escapes: bool, text: str) -> None:
    assert read(dialect.identifier(text), quote, escapes) == text
    assert read(dialect.literal(text), "'", escapes) == text


@given(text=TEXT)
def test_a_database_reads_them_so(text: str) -> None:
    dialect = Spelling()
    with closing(sqlite3.connect(":memory:")) as link:
        cursor = link.execute(f"SELECT {dialect.literal(text)} AS {dialect.identifier(text)}")
        assert [each[0] for each in cursor.description] == [text]
        assert cursor.fetchall() == [(text,)]


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_what_no_warehouse_takes_as_a_name_is_refused(name: str) -> None:
    with pytest.raises(Permanent):
        Spelling().identifier(name)


def test_a_text_loses_its_nuls_and_nothing_else() -> None:
    assert Spelling().literal("a\0'b") == "'a''b'"


class Folding(Escaping, Lite):
    """As MySQL: no condition of its own, and one column is set after the other."""

    def upsert(self, schema: str, table: str, key: Sequence[str], changes: Mapping[str, str], condition: str | None) -> str:
        return f"{list(changes)} {condition}"


def merged(load: TableLoad, stored: list[tuple[object, ...]], others: tuple[str, ...] = ()) -> list[tuple[object, ...]]:
    """Returns the rows of a table `t(id, at, a, b)` after a merge, by a database that speaks the standard dialect."""
    with closing(sqlite3.connect(":memory:")) as link:
        link.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, at INTEGER, a TEXT, b TEXT DEFAULT 'x')")
        link.executemany("INSERT INTO t VALUES (?, ?, ?, ?)", stored)
        names = load.rows.column_names
        link.execute(f"CREATE TABLE rows ({', '.join(names)})")
        link.executemany(
            f"INSERT INTO rows VALUES ({', '.join('?' * len(names))})", [tuple(row.values()) for row in load.rows.to_pylist()]
        )
        dialect = Lite()
        given = {name: f"r.{name}" for name in names}
        sql = insert(dialect, "main", load, "rows AS r WHERE true", given, {"b": "'x'"}, others)
        link.execute(sql)
        return link.execute("SELECT * FROM t ORDER BY id").fetchall()


def load(rows: Sequence[Mapping[str, object]], **how: object) -> TableLoad:
    return TableLoad("t", pa.Table.from_pylist([dict(row) for row in rows]), "merge", ("id",), **how)  # type: ignore[arg-type]


def test_a_newer_row_takes_the_place_of_the_stored_one_and_an_older_one_does_not() -> None:
    rows = [{"id": 1, "at": 2, "a": "new"}, {"id": 2, "at": 2, "a": "old"}, {"id": 3, "at": 2, "a": "first"}]
    stored: list[tuple[object, ...]] = [(1, 2, "x", "kept"), (2, 3, "y", "kept"), (3, None, "z", None)]
    assert merged(load(rows, cursor="at"), stored) == [(1, 2, "new", "kept"), (2, 3, "y", "kept"), (3, 2, "first", None)]
    assert merged(load(rows, cursor="at"), stored, ("b",))[0] == (1, 2, "new", "x")


def test_a_row_without_a_cursor_counts_as_the_oldest() -> None:
    row = pa.table({"id": [1], "at": pa.array([None], pa.int64()), "a": ["late"]})
    assert merged(TableLoad("t", row, "merge", ("id",), "at"), [(1, 1, "x", None)]) == [(1, 1, "x", None)]


def test_nulls_leave_stored_values_alone_and_older_rows_fill_stored_nulls() -> None:
    rows: list[dict[str, object]] = [{"id": 1, "at": 2, "a": None, "b": None}, {"id": 2, "at": 2, "a": "filled", "b": "older"}]
    stored: list[tuple[object, ...]] = [(1, 1, "kept", "own"), (2, 3, None, "newer")]
    assert merged(load(rows, cursor="at", coalesce=True), stored) == [(1, 2, "kept", "own"), (2, 3, "filled", "newer")]


def test_a_row_without_a_value_gets_the_default_of_its_column() -> None:
    rows: list[dict[str, object]] = [{"id": 1, "b": None}, {"id": 2, "b": "own"}]
    assert merged(load(rows), []) == [(1, None, None, "x"), (2, None, None, "own")]


def test_a_row_that_is_its_key_changes_nothing() -> None:
    assert merged(load([{"id": 1}]), [(1, 1, "x", "y")]) == [(1, 1, "x", "y")]


def test_the_cursor_is_set_last() -> None:
    sql = insert(
        Folding(), "main", load([{"at": 1, "id": 1, "a": "x"}], cursor="at"), "r", dict.fromkeys(("at", "id", "a"), "1"), {}
    )
    assert sql.endswith("['a', 'at'] t.`at` IS NULL OR t.`at` <= EXCLUDED.`at`")


def test_rows_of_one_key_have_turns() -> None:
    with closing(sqlite3.connect(":memory:")) as link:
        link.execute("CREATE TABLE rows (id TEXT, place INTEGER)")
        link.executemany("INSERT INTO rows VALUES (?, ?)", [("A", 2), ("a", 1), ("b", 3)])
        found = link.execute(
            f"SELECT id, _penstock_turn FROM {in_turn('rows', ['lower(r.id)'], 'r.place')} ORDER BY 1"
        ).fetchall()
    assert found == [("A", 2), ("a", 1), ("b", 1)]
