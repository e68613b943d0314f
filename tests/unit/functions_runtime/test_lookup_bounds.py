"""Lookups: what a query, a path and a bucket may not do, and that no message quotes a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest

from functions_runtime.lookups import databases
from functions_runtime.lookups.databases import read_database
from functions_runtime.lookups.files import read_file
from shared.errors import NotConnected, PenstockError, SetupError
from shared.project.lookups import Lookup, check_lookups
from shared.project.model import Project
from shared.stores.contract import Entry


async def test_a_query_of_duckdb_reads_the_database_and_no_files_and_writes_none(tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "wh.db")) as link:
        link.execute("CREATE TABLE t AS SELECT 'A' AS sku")
    other = tmp_path / "out.csv"
    place = {"type": "duckdb", "path": str(tmp_path / "wh.db"), "memory_limit": "64MB"}
    for query in (f"COPY t TO '{other}'", f"SELECT * FROM read_csv('{__file__}')"):
        with pytest.raises(SetupError, match="disabled"):
            await read_database(Lookup(destination="wh", query=query, key="sku"), place, "products")
    assert not other.exists()
    table = await read_database(Lookup(destination="wh", table="t", key="sku"), place, "products")
    assert table.find("A") == {"sku": "A"}


async def test_a_postgres_that_froze_holds_up_no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    async def connect(_: object, **options: Any) -> None:
        given.update(options)
        raise TimeoutError

    monkeypatch.setattr("asyncpg.connect", connect)
    with pytest.raises(PenstockError):
        place = {"type": "postgres", "dsn": "postgres://db", "statement_timeout": "5s"}
        await read_database(Lookup(destination="wh", table="t", key="sku"), place, "products")
    assert given["command_timeout"] > 5


async def test_a_query_of_duckdb_is_one_statement_and_ends_after_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with duckdb.connect(str(tmp_path / "wh.db")) as link:
        link.execute("CREATE TABLE t AS SELECT 'A' AS sku")
    place = {"type": "duckdb", "path": str(tmp_path / "wh.db")}
    for query in ("SELECT 1 AS sku; SELECT 2 AS sku", "SET lock_configuration = false; SELECT 1 AS sku"):
        with pytest.raises(SetupError, match="several statements"):
            await read_database(Lookup(destination="wh", query=query, key="sku"), place, "products")
    with pytest.raises(SetupError, match=r"rows or"):
        query = "SELECT 'A' AS sku FROM range(10000)"
        await read_database(Lookup(destination="wh", query=query, key="sku", max_rows=1), place, "products")
    endless = "SELECT sum(a.range * b.range) AS sku FROM range(10000000) a, range(10000000) b"
    for seconds in (0.2, 0.0):  # while it runs, and before it begins
        monkeypatch.setattr(databases, "DUCKDB_SECONDS", seconds)
        with pytest.raises(SetupError, match="the query takes longer than"):
            await read_database(Lookup(destination="wh", query=endless, key="sku"), place, "products")


async def test_a_database_that_gives_its_rows_too_slowly_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    closed: list[str] = []

    async def silent(*_: Any) -> Any:
        try:
            yield ["sku"], []
            await asyncio.Event().wait()
        finally:
            closed.append("closed")

    monkeypatch.setattr(databases, "_ASKED", {"slow": silent})
    monkeypatch.setattr(databases, "READ_SECONDS", 0.05)
    with pytest.raises(NotConnected, match=r"within 0\.05 s"):
        await read_database(Lookup(destination="wh", table="t", key="sku"), {"type": "slow"}, "products")
    assert closed


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1 INTO OUTFILE '/tmp/x'",
        "select a into/* */dumpfile 'x' from t",
        "SELECT 1 INTO -- why\n OUTFILE '/tmp/x'",
    ],
)
def test_a_query_of_mysql_writes_no_file_of_the_server(text: str) -> None:
    with pytest.raises(SetupError, match="writes a file"):
        databases._no_file(text, "products")
    assert databases._no_file("SELECT outfile FROM into_it", "products")


SHADOW = "root:$6$salt$hash:19000:0:99999:7:::\ndaemon:*:19000\n"


@pytest.mark.parametrize("format_", ["csv", "tsv", "ndjson", "parquet"])
async def test_a_message_about_a_wrong_file_quotes_nothing_of_it(format_: Any, tmp_path: Path) -> None:
    path = tmp_path / "shadow"
    for content in (SHADOW.encode(), b"\xffsalt\n", b'{"salt": 1}\n{"salt"\n', b'"salt\n'):
        path.write_bytes(content)
        with pytest.raises(SetupError) as refused:
            table, _ = await read_file(Lookup(file=str(path), format=format_, key="sku", columns=["name"]), "products", "")
            assert table is not None
            assert not table.rows
            raise SetupError("no rows")
        assert "salt" not in str(refused.value)
        assert "root" not in str(refused.value)


async def test_secrets_and_files_of_the_system_are_no_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "key.csv").write_text("sku\nA\n")
    (tmp_path / "link.csv").symlink_to(folder / "key.csv")
    monkeypatch.setenv("PENSTOCK_SECRETS_FOLDERS", str(folder))
    for path in (
        folder / "key.csv",
        tmp_path / "link.csv",
        tmp_path / "secrets/../secrets/key.csv",
        "/proc/self/environ",
        "/dev/stdin",
    ):
        with pytest.raises(SetupError, match="among secrets or files of the system"):
            await read_file(Lookup(file=str(path), format="csv", key="sku"), "products", "")


def test_the_path_of_a_file_is_absolute() -> None:
    project = Project(lookups={"products": Lookup(file="products.csv", key="sku")})
    (problem,) = check_lookups(project)
    assert (problem.path, problem.message.partition(":")[0]) == ("lookups.products.file", "expected an absolute path")


async def test_of_a_bucket_with_many_keys_one_answer_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [
        [Entry("t.csv", 8, 1.0), Entry("t.csv.1", 8, 1.0)],
        [Entry(f"t.csv.{number}", 8, 1.0) for number in range(2, 1000)],
    ]
    asked: list[int] = []

    class Store:
        async def walk(self, _: str) -> Any:
            for number, answer in enumerate(answers):
                asked.append(number)
                yield answer

        async def get(self, _: str) -> bytes:
            return b"sku\nA\n"

        async def close(self) -> None: ...

    async def open_store(*_: Any) -> Store:
        return Store()

    monkeypatch.setattr("shared.stores.s3.open_store", open_store)
    table, _ = await read_file(Lookup(file="s3://acme/t.csv", key="sku", s3={"region": "eu-central-1"}), "products", "")
    assert table is not None
    assert list(table.rows) == ["A"]
    with pytest.raises(SetupError, match=r"no object t\.cs"):
        await read_file(Lookup(file="s3://acme/t.cs", format="csv", key="sku"), "products", "")
    assert asked == [0, 0]
