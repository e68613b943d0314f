"""What the SQL kit decides, whatever the warehouse: the ledger, patches, loads. On SQLite, which is real and in memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa
import pytest

from loader.contract.warehouse import Column, Kind, LoadPlan, LoadReport, TableLoad, TablePatch, TableSchema
from loader.sql import ledger, patch
from loader.sql.ledger import Holder
from loader.sql.load import Loader, Way
from loader.sql.merge import Straight
from loader.sql.steps import Steps
from shared.errors import Fenced, NotConnected, Permanent, RowsRejected, TableChanged, WentBack
from tests.support.sqlite import Lite, LiteBulk, LiteDriver

DIALECT = Lite()
ID, NAME = Column("id", Kind.BIGINT), Column("name", Kind.TEXT)


class Place:
    """A database with the kit over it."""

    def __init__(self) -> None:
        self.driver = LiteDriver()
        self.bulk = LiteBulk(DIALECT)
        self.loader = Loader(DIALECT, self.bulk, "main", Straight())

    def claim(self, epoch: int) -> Holder:
        return self.driver.run(ledger.claim(DIALECT, "main", "c", epoch))

    def marks(self) -> Mapping[tuple[str, str], int]:
        return self.driver.run(ledger.read_marks(DIALECT, "main", "c"))

    def patch(self, *add: Column, key: Sequence[str] | None = None, widen: Sequence[Column] = ()) -> TableSchema:
        one = TablePatch("t", add, tuple(widen), None if key is None else tuple(key))
        return self.driver.run(patch.apply(DIALECT, "main", one))

    def load(self, holder: Holder, last: int, *loads: TableLoad) -> LoadReport:
        return self.driver.run(self.loader.bring(holder, LoadPlan("c", "live", last, last), loads))

    def rows(self, table: str = "t") -> list[Any]:
        return self.driver.link.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()


@pytest.fixture
def place() -> Iterator[Place]:
    """A database of its own."""
    one = Place()
    yield one
    one.driver.link.close()


def rows(*values: tuple[int | None, str | None], write: Literal["append", "merge"] = "append", table: str = "t") -> TableLoad:
    columns = pa.table(
        {"id": pa.array([each[0] for each in values], pa.int64()), "name": pa.array([each[1] for each in values], pa.string())}
    )
    return TableLoad(table, columns, write, ("id",) if write == "merge" else ())


def test_an_epoch_only_grows(place: Place) -> None:
    assert place.claim(2) == Holder("c", 2, 0)
    assert place.claim(2) == place.claim(2)
    with pytest.raises(Fenced) as fenced:
        place.claim(1)
    assert fenced.value.newest == 2
    assert place.claim(3).epoch == 3


def test_a_load_and_its_marks_are_there_together_and_a_mark_never_goes_back(place: Place) -> None:
    holder = place.claim(1)
    place.patch(ID, NAME)
    assert place.load(holder, 5, rows((1, "a"), (2, "b"))).rows == {"t": 2}
    place.load(holder._replace(loads=1), 3, rows((3, "c")))
    assert place.rows() == [(1, "a"), (2, "b"), (3, "c")]
    assert place.marks() == {("t", "live"): 5}
    assert place.claim(1).loads == 2


def test_marks_are_forgotten_by_table_and_lane(place: Place) -> None:
    holder = place.claim(1)
    place.patch(ID, NAME)
    for number, lane in enumerate(["a", "b", "c"]):
        one = LoadPlan("c", lane, 1, 1)
        place.driver.run(place.loader.bring(holder._replace(loads=number), one, [rows((number, "x"))]))
    place.driver.run(ledger.forget_marks(DIALECT, "main", "c", [("t", "a"), ("t", "c"), ("other", "b")]))
    place.driver.run(ledger.forget_marks(DIALECT, "main", "c", []))
    assert place.marks() == {("t", "b"): 1}
    assert place.claim(1).loads == 3


def test_nothing_is_loaded_under_an_old_epoch_or_into_an_older_database(place: Place) -> None:
    old = place.claim(1)
    place.patch(ID, NAME)
    with pytest.raises(WentBack):
        place.load(old._replace(loads=1), 1, rows((1, "a")))
    place.claim(2)
    with pytest.raises(Fenced):
        place.load(old, 1, rows((1, "a")))
    place.driver.link.execute("DROP TABLE _penstock_loads")
    with pytest.raises(NotConnected, match="ledger is gone"):
        place.load(old, 1, rows((1, "a")))
    assert place.rows() == []


def test_a_probe_takes_everything_back(place: Place) -> None:
    holder = place.claim(1)
    place.patch(ID, NAME)
    place.driver.run(place.loader.bring(holder, None, [rows((1, "a"))]))
    assert place.rows() == []
    assert place.marks() == {}
    assert place.claim(1).loads == 0


def test_tables_are_created_together_and_one_that_is_there_is_left_out(place: Place) -> None:
    place.patch(ID)
    patches = [TablePatch(name, (ID, NAME), primary_key=("id",)) for name in ("other", "t")]
    made = place.driver.run(patch.create(DIALECT, "main", patches))
    assert list(made) == ["other"]
    assert made["other"].primary_key == ("id",)
    assert made["other"].own_key
    assert set(place.patch(NAME).columns) == {"id", "name"}


def test_a_key_of_ours_is_replaced_and_a_foreign_one_stays(place: Place) -> None:
    place.patch(ID, NAME, key=["id"])
    place.driver.link.execute("CREATE UNIQUE INDEX theirs ON t (name)")
    after = place.patch(key=["name"])
    assert after.primary_key == ("name",)
    assert not after.own_key
    after = place.patch(key=["name", "id"])
    assert after.primary_key == ("name", "id")
    assert after.own_key
    assert not place.patch(key=[]).own_key


def test_rows_that_cannot_have_a_key_say_so_and_nothing_is_changed(place: Place) -> None:
    place.patch(ID, NAME)
    place.load(place.claim(1), 1, rows((1, "a"), (1, "b")))
    with pytest.raises(Permanent, match=r"cannot become the key.*deduplicate: false"):
        place.patch(Column("new", Kind.TEXT), key=["id"])
    with pytest.raises(Permanent, match="which the rows do not have"):
        place.patch(key=["missing"])
    assert set(place.patch().columns) == {"id", "name"}


def test_a_column_that_is_refused_is_named_and_the_others_are_added(place: Place) -> None:
    refuse = "ADD COLUMN " + DIALECT.definition(Column("bad", Kind.TEXT), "text", in_key=False)
    place.driver.fails = lambda sql: sqlite3.OperationalError("no") if refuse in sql or '"bad" text' in sql else None
    for new in ("of a new table", "of one that is there"):
        after = place.patch(ID, Column("bad", Kind.TEXT), NAME, Column(new, Kind.TEXT), key=["id"])
        assert after.refused == {"bad"}
        assert {"id", "name", new} <= set(after.columns)


def test_a_patch_that_lost_a_race_looks_again(place: Place) -> None:
    place.patch(ID)
    lost: list[str] = []

    def fails(sql: str) -> Exception | None:
        if "ADD COLUMN" in sql and not lost:
            lost.append(sql)
            return sqlite3.IntegrityError("UNIQUE")
        return None

    place.driver.fails = fails
    assert set(place.patch(NAME).columns) == {"id", "name"}
    place.driver.fails = lambda sql: sqlite3.IntegrityError("UNIQUE") if "ADD COLUMN" in sql else None
    before = len(place.driver.done)
    with pytest.raises(sqlite3.IntegrityError):
        place.patch(Column("never", Kind.TEXT))
    assert sum("ADD COLUMN" in sql for sql in place.driver.done[before:]) == patch.TRIES


def test_a_forced_type_is_read_by_the_server_before_it_is_ddl(place: Place) -> None:
    for native in ("text; DROP TABLE t", "text) --"):
        with pytest.raises(Permanent, match="is not"):
            place.patch(Column("x", Kind.TEXT, native))


def test_a_merge_goes_straight_until_it_meets_a_key_and_then_rests(place: Place) -> None:
    place.patch(ID, NAME, key=["id"])
    many = [(number, "a") for number in range(3)]
    holder = place.claim(1)
    for number, name in enumerate("abcd"):
        values = [(each + 10 * (number == 2), name) for each, _ in many]
        place.load(holder._replace(loads=number), number + 1, rows(*values, write="merge"))
    assert place.bulk.ways == ["t straight", "t straight", "t short", "t short", "t short"]
    assert place.rows() == [(0, "d"), (1, "d"), (2, "d"), (10, "c"), (11, "c"), (12, "c")]


def test_few_rows_that_are_refused_without_a_name_go_the_long_way(place: Place) -> None:
    place.patch(ID, NAME, key=["id"])

    def fails(table: str, way: Way) -> Exception | None:
        return RowsRejected(table, "no", None if way.short else {0: "this one"})

    place.bulk.fails = fails
    with pytest.raises(RowsRejected) as refused:
        place.load(place.claim(1), 1, rows((1, "a"), write="merge"))
    assert refused.value.rows == {0: "this one"}
    assert place.bulk.ways == ["t short", "t straight"]


def test_keys_that_are_one_there_are_merged_in_turn(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.patch(ID, NAME, key=["id"])
    monkeypatch.setattr(DIALECT, "trouble", lambda error: "twice" if isinstance(error, ZeroDivisionError) else None)
    place.bulk.fails = lambda table, way: None if way.in_turn else ZeroDivisionError()
    place.load(place.claim(1), 1, rows((1, "a"), write="merge"))
    assert place.bulk.ways == ["t short", "t in turn"]
    assert place.marks() == {("t", "live"): 1}


def test_a_row_that_needs_another_table_comes_behind_it_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.driver.run(patch.create(DIALECT, "main", [TablePatch("child", (ID, NAME)), TablePatch("parent", (ID, NAME))]))

    def references(schema: str, tables: Sequence[str]) -> Steps[list[tuple[str, str]]]:
        yield from ()
        return [("child", "parent")]

    monkeypatch.setattr(DIALECT, "references", references)
    place.bulk.fails = lambda table, way: (
        RowsRejected(table, "no", needs_others=True) if table == "child" and "parent short" not in place.bulk.ways else None
    )
    place.load(place.claim(1), 1, rows((1, "a"), table="child"), rows((2, "b"), table="parent"))
    assert place.bulk.ways == ["child short", "parent short", "child short"]
    assert (place.rows("child"), place.rows("parent")) == ([(1, "a")], [(2, "b")])


def test_rows_without_a_key_are_named_before_anything_is_sent(place: Place) -> None:
    place.patch(ID, NAME, key=["id"])
    holder = place.claim(1)
    before = len(place.driver.done)
    with pytest.raises(RowsRejected) as refused:
        place.load(holder, 1, rows((1, "a"), (None, "b"), write="merge"))
    assert list(refused.value.rows) == [1]
    assert len(place.driver.done) == before


def test_a_table_that_is_not_what_the_rows_were_shaped_for_is_told(place: Place) -> None:
    holder = place.claim(1)
    with pytest.raises(TableChanged, match="is gone"):
        place.load(holder, 1, rows((1, "a")))
    place.driver.link.execute("CREATE TABLE t (id text, name text)")
    with pytest.raises(TableChanged, match="is text now"):
        place.load(holder, 1, rows((1, "a")))
    place.driver.link.execute("ALTER TABLE t DROP COLUMN name")
    with pytest.raises(TableChanged):
        place.load(holder, 1, rows((1, "a")))
