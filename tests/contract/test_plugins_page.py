"""The plug-ins of docs/plugins.md, as they stand there, keep their contracts."""

from __future__ import annotations

import gzip
import json
import re
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

import ingest.protocols
import loader.cloud
import loader.files
import loader.rows.layouts
import loader.warehouses
from ingest.contract import Accepted, HttpRequest, Parsed, Refusal
from ingest.registry import PROTOCOLS
from loader import registry
from loader.contract.events import HTTPDestination, Response
from loader.contract.warehouse import Environment, Kind
from router.rules.where import compile_where
from shared.errors import Fenced
from shared.events.outcome import Dead, Ok, Outcome, Retry
from shared.rules import operators
from shared.threads import ThreadGate
from tests.contract.destinations import test_exactly_once as once
from tests.contract.destinations import test_rows as rows
from tests.support.delivery import Delivery
from tests.support.destinations.opened import Open, append, opened
from tests.support.destinations.subject import Row, Shape
from tests.unit.ingest.desks import CountingDesk, post
from tests.unit.loader.shaping import Desk

PAGE = Path(__file__).parents[2] / "docs" / "plugins.md"
FOLDERS = {
    "loader/cloud": loader.cloud,
    "loader/files": loader.files,
    "loader/warehouses": loader.warehouses,
    "ingest/protocols": ingest.protocols,
    "loader/rows/layouts": loader.rows.layouts,
}
BLOCKS = {
    match[1]: match[2]
    for match in re.finditer(r"^```python\n# (\S+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
}


@pytest.fixture(scope="module", autouse=True)
def _written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Puts the page's plug-ins where plug-ins are looked for."""
    added = []
    for place, code in BLOCKS.items():
        folder, _, name = place.rpartition("/")
        if folder not in FOLDERS:
            continue
        written = tmp_path_factory.mktemp(folder.replace("/", "-"))
        (written / name).write_text(code, encoding="utf-8")
        FOLDERS[folder].__path__.append(str(written))
        added.append((folder, str(written), f"{FOLDERS[folder].__name__}.{name.removesuffix('.py')}"))
    yield
    for folder, written_to, module in added:
        FOLDERS[folder].__path__.remove(written_to)
        sys.modules.pop(module, None)


class SQLiteSubject:
    """A file of its own, read with the driver alone."""

    label = "sqlite"

    def __init__(self, folder: Path) -> None:
        self._path = str(folder / "wh.sqlite")
        self.document: dict[str, Any] = {"type": "sqlite", "path": self._path}

    async def rows(self, table: str, shape: Shape) -> list[Row]:
        link = sqlite3.connect(self._path)
        link.row_factory = sqlite3.Row
        try:
            found = [dict(row) for row in link.execute(f'SELECT * FROM "{table}"')]
        except sqlite3.OperationalError:
            return []
        finally:
            link.close()
        for row in found:
            for name, kind in shape.items():
                if row.get(name) is not None and kind in (Kind.BOOLEAN, Kind.TIMESTAMP):
                    row[name] = bool(row[name]) if kind is Kind.BOOLEAN else datetime.fromisoformat(row[name])
        return found

    async def run(self, statement: str) -> None:
        link = sqlite3.connect(self._path)
        try:
            link.execute(statement.replace('"{}".', ""))
            link.commit()
        finally:
            link.close()


@pytest.fixture
async def wh(tmp_path: Path) -> AsyncIterator[Open]:
    async with opened(SQLiteSubject(tmp_path)) as one:
        yield one


SCENARIOS = [
    once.test_the_same_plan_loaded_twice_leaves_one_copy,
    once.test_marks_say_what_is_loaded_by_table_and_lane_and_only_grow,
    once.test_a_session_with_an_older_epoch_cannot_open,
    once.test_a_newer_session_ends_the_older_one,
    once.test_the_ledger_alone_fences_a_session_that_nobody_ended,
    once.test_connections_do_not_fence_each_other,
    once.test_tables_and_marks_of_a_plan_commit_together_or_not_at_all,
    once.test_a_probe_of_fit_rows_passes,
    once.test_marks_are_forgotten_one_by_one,
    rows.test_rows_in_slices_and_chunks_all_arrive,
    rows.test_all_tables_of_a_plan_arrive,
    rows.test_two_loads_of_one_table_in_a_plan_both_arrive,
    rows.test_a_check_passes_every_step_and_leaves_nothing,
    rows.test_a_closed_session_loads_nothing_more,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__.removeprefix("test_"))
async def test_the_destination_of_the_page_keeps_the_contract(scenario: Callable[[Open], Awaitable[None]], wh: Open) -> None:
    await scenario(wh)


async def test_a_cancelled_load_of_the_pages_destination_leaves_nothing_or_all(wh: Open) -> None:
    await once.test_a_cancelled_load_leaves_nothing_or_all_with_its_mark(wh, 0.01)


async def test_events_reach_the_pages_destination_and_a_row_that_a_constraint_refuses_is_found(wh: Open) -> None:
    await wh.subject.run("CREATE TABLE events (message_id TEXT, n BIGINT CHECK (n < 10))")
    delivery = Delivery(wh, await wh.session(), layout="single_table")
    dead = await delivery.send(*({"messageId": f"m{n}", "properties": {"n": n}} for n in range(12)))
    assert set(dead) == {"m10", "m11"}
    assert "CHECK" in dead["m10"]
    found = await wh.subject.rows("events", {})
    assert {row["message_id"] for row in found} == {f"m{n}" for n in range(10)}
    assert {"type", "received_at"} <= set(found[0]), "columns that were missing are added"


async def test_the_files_of_the_page_hold_each_load_once(tmp_path: Path) -> None:
    shape = {"id": Kind.BIGINT, "received_at": Kind.TIMESTAMP}
    gate = ThreadGate(2, "test")
    try:
        destination = await registry.open_destination("a", {"type": "archive", "path": str(tmp_path / "a")}, Environment(gate))
        assert all(step.ok for step in await destination.check())
        session = await destination.open_session("shop-wh", 1)
        row = {"id": 1, "received_at": datetime(2026, 2, 3, tzinfo=UTC)}
        await append(session, 1, "t", shape, row)
        again = await destination.open_session("shop-wh", 2)
        await append(again, 1, "t", shape, row)
        with pytest.raises(Fenced):
            await append(session, 2, "t", shape, row)
    finally:
        gate.close()
    (file,) = (tmp_path / "a" / "t" / "2026-02-03").iterdir()
    assert [json.loads(line)["id"] for line in gzip.decompress(file.read_bytes()).splitlines()] == [1]


async def test_the_destination_of_events_of_the_page_calls_and_reads_answers() -> None:
    gate = ThreadGate(1, "test")
    try:
        document = {"type": "discord", "url": "https://hooks.example.com/x"}
        plugin, options = registry.parse_options("s", document)
        destination = await plugin.open_destination("s", options, Environment(gate))
    finally:
        gate.close()
    assert isinstance(destination, HTTPDestination)
    made = destination.calls([{"type": "track", "event": "@everyone", "userId": "u"}, {"type": "page"}], 0.0)
    assert [json.loads(call.body)["content"] for call in made.calls] == ["@everyone by u", "page by unknown"]
    assert [call.events for call in made.calls] == [(0,), (1,)]
    for status, outcome in ((200, Ok), (404, Dead), (500, Retry)):
        answered = destination.answer(made.calls[0], Response(status, {}, b"", 0.0))
        assert [type(each) for each in cast("Sequence[Outcome]", answered)] == [outcome]
    assert registry.secrets_of("discord") == {"url"}


def test_the_protocol_of_the_page_parses_judges_and_answers() -> None:
    protocol = PROTOCOLS.get("lines")
    body = '{"type":"page","userId":"u"}\n\nnonsense\r\n{"type":"track","event":"a","userId":"u","messageId":"m"}'
    request = post("/v1/lines", body, headers={"x-write-key": "web"})
    parsed = protocol.parse(request, CountingDesk())
    assert isinstance(parsed, Parsed)
    assert [head.message_id for head in parsed.heads] == ["new-1", "m"]
    assert [(each.position, each.body.strip()) for each in parsed.rejects] == [(1, b"nonsense")]
    assert protocol.reply(request, Accepted(2, parsed.rejects)).body == b'{"accepted":2,"rejected":1}'
    again = Parsed(parsed.admission)
    protocol.judge_again(again, b'{"type":"page","userId":"u"}', "", lambda: "new")
    assert [head.type for head in again.heads] == ["page"]


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [({}, "{}", 401), ({"x-write-key": "web"}, "{}\n" * 30_000, 413), ({"x-write-key": "web"}, "", 0)],
)
def test_the_protocol_of_the_page_refuses_before_it_builds(headers: dict[str, str], body: str, status: int) -> None:
    request: HttpRequest = post("/v1/lines", body, headers=headers)
    result = PROTOCOLS.get("lines").parse(request, CountingDesk())
    assert (result.status if isinstance(result, Refusal) else 0) == status


def test_the_layout_of_the_page_makes_a_row_of_each_event(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import import_module

    monkeypatch.setitem(loader.rows.layouts.LAYOUTS, "slim", import_module("loader.rows.layouts.slim").Slim)
    loaded = Desk({"layout": "slim"}).load(
        {"type": "page", "messageId": "m", "properties": {"a": [1]}, "context": {"b": 2}},
        {"type": "Käufe; DROP", "messageId": "n"},
    )
    (row,) = loaded.rows("page")
    assert (row["message_id"], row["a"], set(row)) == ("m", "[1]", {"message_id", "a", "received_at"})
    assert [each["message_id"] for each in loaded.rows("käufe_drop")] == ["n"]


def test_the_operator_of_the_page_judges_and_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, Any] = dict(vars(operators))
    exec(BLOCKS["shared/rules/operators.py"], names)
    monkeypatch.setitem(operators.OPERATORS, "between", names["_between"])
    assert compile_where({"field": "properties.total", "between": [1, 5]}) is not None
    test, missing = names["_between"]([1, 5])
    assert [test(value) for value in (0, 1, 5, 5.5, "3", True)] == [False, True, True, False, False, False]
    assert not missing
    with pytest.raises(operators.WrongOperandError, match="a list of two numbers"):
        names["_between"](["a", 1])
