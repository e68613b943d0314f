"""`penstock load` and `penstock.load`, as people use them: a file and a project file, no stack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

import penstock
from shared.errors import ConfigError
from tests.support.command import LocalStack
from tests.support.duckdb_file import opened

ORDERS = [{"id": number, "total": number * 1.25, "customer": {"name": f"Kunde {number}"}} for number in range(1, 31)]


@pytest.fixture
def folder(tmp_path: Path) -> LocalStack:
    """A folder with a project file that names two destinations; nothing runs there."""
    found = LocalStack(tmp_path)
    destinations = {"wh": {"type": "duckdb", "path": "wh.duckdb"}, "lake": {"type": "local", "path": "lake"}}
    found.project.write_text(json.dumps({"destinations": destinations}))
    return found


def ask(folder: LocalStack, sql: str) -> list[tuple[Any, ...]]:
    with opened(folder.folder / "wh.duckdb", read_only=True) as database:
        return database.sql(sql).fetchall()


def test_a_file_is_loaded_once_however_often_it_is_started(folder: LocalStack) -> None:
    (folder.folder / "orders.ndjson").write_text("\n".join(map(json.dumps, ORDERS)))
    arguments = ("load", "orders.ndjson", "--table", "orders", "--destination", "wh", "--file", "penstock.yaml")
    first = folder.run(*arguments, "--json").json
    assert (first["rows"], first["skipped"], first["table"]) == (30, 0, "orders")
    again = folder.run(*arguments)
    assert "30 rows before" in again.out
    assert ask(folder, "SELECT count(*), sum(id), max(customer_name) FROM orders") == [(30, 465, "Kunde 9")]

    parquet.write_table(pa.Table.from_pylist(ORDERS[:2]), folder.folder / "few.parquet")
    done = folder.run(
        "load", "few.parquet", "--table", "orders", "--destination", "wh", "--file", "penstock.yaml", "--mode", "replace"
    )
    assert done.code == 0, done.err
    assert ask(folder, "SELECT id FROM orders ORDER BY id") == [(1,), (2,)]


def test_standard_input_is_loaded_and_mistakes_are_named(folder: LocalStack) -> None:
    common = ("--table", "people", "--file", "penstock.yaml")
    csv = b"id,name,since\n1,Ada,2026-01-01\n2,Grace,2026-01-02\n"
    done = folder.run("load", "-", "--format", "csv", "--destination", "wh", *common, stdin=csv)
    assert done.code == 0, done.err
    assert ask(folder, "SELECT id, name FROM people ORDER BY id") == [(1, "Ada"), (2, "Grace")]
    for arguments, code, words in (
        (("load", "-", "--destination", "wh", *common), 2, "--format"),
        (("load", "-", "--format", "csv", *common), 2, "--destination"),
        (("load", "-", "--format", "csv", "--destination", "nope", *common), 2, "known: wh, lake"),
        (("load", "-", "--format", "csv", "--destination", "lake", "--mode", "merge", "--key", "id", *common), 2, "cannot merge"),
        (("load", "gone.csv", "--destination", "wh", *common), 4, "gone.csv cannot be read"),
        (("load", "-", "--format", "ndjson", "--destination", "wh", *common), 1, "line 1 is no JSON object"),
    ):
        failed = folder.run(*arguments, stdin=csv)
        assert failed.code == code, failed
        assert words in failed.err


async def test_a_program_loads_its_rows_also_where_a_loop_runs(folder: LocalStack) -> None:
    class Frame:
        """As a DataFrame: it gives an Arrow stream and no more."""

        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            return pa.Table.from_pylist(ORDERS[3:6]).__arrow_c_stream__(requested_schema)

    where = {"type": "duckdb", "path": str(folder.folder / "wh.duckdb")}
    assert penstock.load(ORDERS[:3], table="orders", destination=where).rows == 3
    assert penstock.load(ORDERS[:3], table="orders", destination=where).skipped == 3
    assert penstock.load(Frame(), table="orders", destination=where).rows == 3
    assert penstock.load((row for row in ORDERS[6:]), table="orders", destination=where, mode="append").rows == 24
    assert ask(folder, "SELECT count(*), count(DISTINCT id) FROM orders") == [(30, 30)]
    with pytest.raises(ConfigError, match="known: wh, lake"):
        penstock.load([], table="t", destination="nope", project=folder.project)
    with pytest.raises(TypeError, match="got int"):
        penstock.load(5, table="t", destination=where)
