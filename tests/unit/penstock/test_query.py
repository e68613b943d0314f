"""`penstock query`: which destination is asked, and what a DuckDB file answers while somebody writes."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any, cast

import asyncpg
import duckdb
import pytest
from click.testing import CliRunner

from loader.warehouses.postgres.connect import Link
from penstock.command.cli import cli
from penstock.command.verbs import query as verb
from penstock.control.data import query
from penstock.control.data.query import Answer, ask, choose
from shared.errors import ConfigError, Permanent, SetupError

DUCK = {"type": "duckdb", "path": "a.duckdb"}


def test_the_only_destination_that_takes_sql_is_chosen() -> None:
    assert choose({"lake": {"type": "local", "path": "x"}, "wh": DUCK}, None) == "wh"
    assert choose({"a": DUCK, "b": {**DUCK, "schema": "other"}}, None) == "a"  # one file
    assert choose({"a": DUCK, "b": {"type": "postgres"}}, "b") == "b"


@pytest.mark.parametrize(
    ("destinations", "name", "words"),
    [
        ({"a": DUCK, "b": {"type": "postgres"}}, None, "say which with --destination: a, b"),
        ({"lake": {"type": "local"}}, None, "none is of type clickhouse, duckdb, mysql or postgres"),
        ({"lake": {"type": "local"}}, "lake", "takes no SQL"),
        ({"a": DUCK}, "b", "known: a"),
    ],
)
def test_what_cannot_be_asked_is_said(destinations: dict[str, Any], name: str | None, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        choose(destinations, name)


def hold(path: str, opened: Any, let_go: Any) -> None:
    with duckdb.connect(path) as database:
        database.execute("CREATE SCHEMA shop; CREATE TABLE shop.tracks AS SELECT range AS n FROM range(5)")
        opened.set()
        let_go.wait(120)


async def test_a_question_waits_for_the_one_who_writes(tmp_path: Path) -> None:
    file = tmp_path / "a.duckdb"
    document = {"type": "duckdb", "path": str(file), "schema": "shop"}
    with pytest.raises(SetupError, match="the next load makes it"):
        await ask("wh", document, "SELECT 1", 1)
    processes = multiprocessing.get_context("spawn")
    opened, let_go = processes.Event(), processes.Event()
    writer = processes.Process(target=hold, args=(str(file), opened, let_go))
    writer.start()
    try:
        assert opened.wait(60)
        with pytest.raises(duckdb.IOException):
            duckdb.connect(str(file), read_only=True)
        let_go.set()
        answer = await ask("wh", document, "SELECT n FROM tracks ORDER BY n", 2)
    finally:
        let_go.set()
        writer.join()
    assert (answer.columns, answer.rows, answer.more) == (["n"], [[0], [1]], True)
    assert answer.objects == [{"n": 0}, {"n": 1}]
    with pytest.raises(Permanent, match="wh: Parser Error"):
        await ask("wh", document, "SELCT", 1)
    with pytest.raises(Permanent, match="read-only"):
        await ask("wh", document, "DROP TABLE tracks", 1)


def test_columns_of_one_name_are_told_apart_in_objects() -> None:
    answer = Answer(destination="wh", columns=["n", "n_2", "n", "n"], rows=[[1, 2, 3, 4]])
    assert answer.objects == [{"n": 1, "n_2": 2, "n_3": 3, "n_4": 4}]


async def test_what_the_driver_refuses_itself_is_told_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        """Stands for asyncpg."""

        async def execute(self, _: str) -> None:
            raise asyncpg.InterfaceError("the server expects 1 argument for this query, 0 were passed")

        def add_termination_listener(self, _: object) -> None:
            """Listens."""

        def terminate(self) -> None:
            """Ends."""

    async def connect(*_: object) -> Link:
        return Link(cast("Any", Driver()))

    monkeypatch.setattr(query, "connect", connect)
    with pytest.raises(Permanent, match="expects 1 argument"):
        await ask("wh", {"type": "postgres", "host": "db"}, "SELECT $1", 0)


def test_a_table_shows_numbers_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    columns, row = ["id", "price", "year", "paid", "none"], [1795828537949010176, 19.95, 2026, True, None]

    async def asked(*_: object) -> Answer:
        return Answer(destination="wh", columns=columns, rows=[row])

    monkeypatch.setattr(verb, "_ask", asked)
    lines = CliRunner().invoke(cli, ["query", "SELECT"]).output.splitlines()
    assert lines[1:4:2] == [
        "                  id   price   year   paid   none",
        " 1795828537949010176   19.95   2026   true      -",
    ]
