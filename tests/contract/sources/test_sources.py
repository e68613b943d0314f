"""Every source holds to `connector_runner/contract.py`: what it says of itself, which rows it gives, where it goes on, how it ends."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Awaitable, Callable
from decimal import Decimal

import jsonschema
import psutil
import pytest

from connector_runner.contract import Checkpoint, Source
from connector_runner.registry import SOURCES
from shared.errors import PenstockError
from shared.reading.decode import json_schema
from tests.contract.sources.conftest import PLACES
from tests.support.sources.place import PROMISES, ROWS, Place, moment, order, read, selected, spread, states_of, written

pytestmark = pytest.mark.timeout(400)  # the first test of a run may install packages
ALL = list(range(1, ROWS + 1))
NEW = {**order(ROWS + 1), "updated_at": moment(ROWS + 3)}
CHANGED = {**order(2), "total": Decimal("99.5"), "updated_at": moment(ROWS + 3)}
TIED = {**order(ROWS + 2), "updated_at": moment(ROWS)}
"""An order that came late: its cursor is the newest of those before."""
NOTED = {**order(ROWS + 3), "updated_at": moment(ROWS + 5), "note": "a note"}
APART = {"singer": "tests/contract/connectors/test_singer.py"}
"""Sources whose own suites stand in for their places."""
STEPS = (0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377)


def test_every_source_has_a_place() -> None:
    assert {each.type for each in PLACES.values()} | set(APART) == set(SOURCES.names())
    assert not {each.type for each in PLACES.values()} & set(APART)


def test_what_a_place_waives_exists_and_has_a_reason() -> None:
    known = {*PROMISES, *(name for name in vars(sys.modules[__name__]) if name.startswith("test_"))}
    for label, each in PLACES.items():
        assert set(each.waivers) <= known, label
        assert all(len(why) > 20 for why in each.waivers.values()), label


async def test_it_tells_its_options_without_any_secret(place: Place) -> None:
    schema = await (await place.open()).spec()
    jsonschema.Draft202012Validator.check_schema(dict(schema))
    told = json.dumps(schema) + json.dumps(json_schema(SOURCES.get(place.type).OPTIONS))
    for secret in filter(None, [place.secret, *secrets_of(place.document())]):
        assert secret not in told


def secrets_of(document: dict[str, object]) -> list[str]:
    """Returns the texts of options that hold secrets and are no plain words."""
    words = [each for value in document.values() if isinstance(value, dict) for each in value.values()]
    return [each for each in words if isinstance(each, str) and ("token" in each or "secret" in each or "password" in each)]


async def test_check_says_that_options_work_or_what_to_do(place: Place) -> None:
    assert (await (await place.open()).check()).ok
    said = await refusal(lambda: place.open(**place.wrong()))
    assert re.search(place.remedy, said), said
    if place.secret:
        assert place.secret not in " ".join([said, *(each.text for each in place.heard)])


async def refusal(opened: Callable[[], Awaitable[Source]]) -> str:
    """Returns what a source says of options that do not work; empty if it takes them."""
    try:
        checked = await (await opened()).check()
    except PenstockError as exc:
        return str(exc)
    return "" if checked.ok else checked.message


async def test_it_lists_its_streams(place: Place) -> None:
    streams = await place.streams(await place.open())
    for each in streams.values():
        jsonschema.Draft202012Validator.check_schema(each.json_schema)
        assert "full_refresh" in each.modes
    orders = streams["orders"]
    assert ("incremental" in orders.modes) == ("incremental" not in place.waivers)
    if "incremental" in orders.modes:
        assert orders.cursor or orders.source_cursor
    if "schema_told" not in place.waivers:
        assert {"id", "name", "total", "updated_at"} <= set(orders.json_schema["properties"])


async def test_it_gives_all_rows_whole_and_once(place: Place) -> None:
    source = await place.open()
    stream = (await place.streams(source))["orders"]
    for full in (True, False):
        found = await read(source, [selected(stream, full=full)])
        assert found.ids() == ALL
        assert found.complete == {stream.name}
        for row in found.rows():
            expected = order(int(row["id"]))
            assert Decimal(row["total"]) == expected["total"]
            assert row["name"] == expected["name"]
            assert str(row["updated_at"])[:13].replace(" ", "T") == f"{expected['updated_at']:%Y-%m-%dT%H}"
        if not full and "incremental" in stream.modes:
            last = [each for each in found.messages if written(each) or isinstance(each, Checkpoint)][-1]
            assert isinstance(last, Checkpoint), "the last rows have a state behind them"


async def test_a_later_read_gives_what_is_new_or_changed_and_nothing_else(place: Place) -> None:
    source = await place.open()
    stream = (await place.streams(source))["orders"]
    states = (await read(source, [selected(stream)])).states
    newest = {ROWS - 1, ROWS} if "ties_once" in place.waivers else set()
    again = await read(source, [selected(stream)], states)
    assert set(again.ids()) <= newest, "nothing changed"
    await place.put(TIED)
    await place.put(NEW, CHANGED)
    found = await read(await place.open(), [selected(stream)], states | again.states)
    assert sorted(set(found.ids()) - newest) == [2, ROWS + 1, ROWS + 2]
    if not newest:
        assert len(found.ids()) == 3, "each once"
    assert next(row for row in found.rows() if int(row["id"]) == 2)["total"] in (Decimal("99.5"), "99.5", "99.50")


async def test_a_read_that_is_broken_off_anywhere_goes_on_without_a_gap(place: Place) -> None:
    source = await place.open()
    stream = (await place.streams(source))["orders"]
    whole = len((await read(source, [selected(stream)])).messages)
    for number in spread(whole, place.stops):
        first = await read(source, [selected(stream)], stop_after=number)
        second = await read(source, [selected(stream)], first.states)
        assert sorted({*first.ids(), *second.ids()}) == ALL, f"after {number} of {whole} messages"
        covered = first.messages[
            : max((place + 1 for place, each in enumerate(first.messages) if isinstance(each, Checkpoint)), default=0)
        ]
        assert states_of(covered) == first.states


async def test_a_column_that_comes_between_two_reads_loses_nothing(place: Place) -> None:
    source = await place.open()
    stream = (await place.streams(source))["orders"]
    first = await read(source, [selected(stream)])
    await place.widen(NOTED)
    source = await place.open()
    stream = (await place.streams(source))["orders"]
    second = await read(source, [selected(stream)], first.states)
    assert {*first.ids(), *second.ids()} == {*ALL, ROWS + 3}
    assert next(row for row in second.rows() if int(row["id"]) == ROWS + 3)["note"] == "a note"
    whole = await read(source, [selected(stream, full=True)])
    assert whole.ids() == [*ALL, ROWS + 3]


async def test_an_empty_stream_comes_to_its_end(place: Place) -> None:
    source = await place.open()
    stream = (await place.streams(source))["empty"]
    first = await read(source, [selected(stream)])
    for each in (first, await read(source, [selected(stream, full=not first.states)], first.states)):
        assert each.ids() == []
        assert each.complete == {stream.name}


async def test_columns_that_are_not_chosen_do_not_come(place: Place) -> None:
    source = await place.open()
    stream = (await place.streams(source))["orders"]
    found = await read(source, [selected(stream, columns=(("name",),))])
    assert found.ids() == ALL, "the key is always there"
    if "columns_left_out" not in place.waivers:
        for row in found.rows():
            assert {"id", "name"} <= set(row)
            assert "total" not in row


async def test_a_cancelled_call_leaves_nothing_running(place: Place) -> None:
    source = await place.open()
    stream = (await place.streams(source))["orders"]
    tasks, children = asyncio.all_tasks(), set(psutil.Process().children(recursive=True))

    async def everything() -> None:
        await source.check()
        await read(source, [selected(stream)])

    for steps in (STEPS[each] for each in spread(len(STEPS) - 1, place.stops)):
        task = asyncio.ensure_future(everything())
        for _ in range(steps):
            await asyncio.sleep(0)
        await cancelled(task)
    for number in range(3):
        reached = asyncio.Event()
        task = asyncio.ensure_future(held(source, place, number, reached))
        done, _ = await asyncio.wait([asyncio.ensure_future(reached.wait()), task], return_when=asyncio.FIRST_COMPLETED)
        assert done
        await cancelled(task)
    assert {each for each in asyncio.all_tasks() if not each.done()} <= tasks
    running = [
        each for each in psutil.Process().children(recursive=True) if each not in children and each.name() != place.sessions
    ]
    assert not psutil.wait_procs(running, timeout=60)[1]
    assert not list(place.private.iterdir())
    assert not await place.leftovers()
    assert (await read(source, [selected(stream)])).ids() == ALL, "it can be asked again"


async def held(source: Source, place: Place, number: int, reached: asyncio.Event) -> None:
    """Reads so many messages, says so, and reads on."""
    stream = (await place.streams(source))["orders"]
    messages = source.read([selected(stream)], {})
    try:
        count = 0
        async for _ in messages:
            count += 1
            if count > number:
                reached.set()
                await asyncio.sleep(0)
    finally:
        await messages.aclose()


async def cancelled(task: asyncio.Task[None]) -> None:
    """Cancels a task and waits for its end."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
