"""A Python file of the user's: its values, its errors with file and line, what it may yield, where it goes on."""

from __future__ import annotations

import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from connector_runner import registry
from connector_runner.contract import Checkpoint, Ended, Environment, Message, Said, Source
from shared.errors import PenstockError, SetupError, Transient
from tests.support.sources.place import read, selected, states_of, written

CODE = """
import dataclasses, datetime, decimal, enum, os, uuid
import penstock
from penstock import source

@dataclasses.dataclass
class Money:
    amount: decimal.Decimal

@source.stream
def values():
    print("printed by the code")
    yield {"decimal": decimal.Decimal("12345678901234567890.10"), "whole": 2**70, "at": datetime.datetime(2026, 1, 2, 3),
           "day": datetime.date(2026, 1, 2), "bytes": b"\\xff", "nan": [float("nan"), 1.5], "id": uuid.UUID(int=1), "set": {1},
           "money": Money(decimal.Decimal("1.10")), "took": datetime.timedelta(seconds=1, microseconds=500000),
           "home": "PENSTOCK_SECRET" in os.environ, "own": os.environ["OWN"], "text": "decimal:\\n"}

@source.stream(primary_key="id", cursor="at")
def tables(since):
    import pyarrow as pa
    for first in range(0, 30, 10):
        yield pa.table({"id": range(first, first + 10), "at": [n // 4 for n in range(first, first + 10)], "more": ["x"] * 10})

@source.stream(name="pages")
async def by_page(state):
    for page in range(state.get("page", 0), 3):
        yield [{"page": page, "row": row} for row in range(2)]
        yield source.Checkpoint({"page": page + 1})

@source.stream
def breaks(config):
    yield {"n": 1}
    raise OSError(f"the server at {config['token']} is away")

@source.stream
def wrong():
    yield {"n": 1}
    yield object()

@source.stream
def formless():
    yield {"n": 1}
    yield {"n": object()}

@source.stream
def misspelt():
    return nothing

@source.stream
def returned():
    return [{"n": 1}, {"n": 2}]

@source.stream(cursor="n", ordered=True)
def unordered(since):
    yield from ({"n": n} for n in (1, 3, 2))
"""


@pytest.fixture
def heard() -> list[Said]:
    return []


async def opened(folder: Path, heard: list[Said], code: str = CODE, **options: Any) -> Source:
    (folder / "code.py").write_text(code)
    document = {
        "type": "python",
        "file": str(folder / "code.py"),
        "config": {"token": "secret-0123"},
        "environment": {"OWN": "yes"},
        **options,
    }
    plugin, parsed = registry.parse_options("mine", document)
    return await plugin.open_source("mine", parsed, Environment(folder, folder, heard.append))


async def messages_of(source: Source, name: str, messages: list[Message], states: Any = None, **more: Any) -> None:
    """Collects what a stream gives, also when it fails then."""
    stream = next(each for each in await source.discover() if each.name == name)
    async with aclosing(source.read([selected(stream, **more)], states or {})) as given:
        async for message in given:
            messages.append(message)  # noqa: PERF401  # those before an error count


def rows(messages: list[Message]) -> list[bytes]:
    return [row for each in messages for row in written(each)]


async def test_values_keep_what_they_say(tmp_path: Path, heard: list[Said], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_SECRET", "x")
    got: list[Message] = []
    await messages_of(await opened(tmp_path, heard), "values", got)
    assert rows(got)[0] == (
        b'{"decimal":12345678901234567890.10,"whole":1180591620717411303424,"at":"2026-01-02T03:00:00","day":"2026-01-02",'
        b'"bytes":"/w==","nan":[null,1.5],"id":"00000000-0000-0000-0000-000000000001","set":[1],"money":{"amount":1.10},'
        b'"took":1.5,"home":false,"own":"yes","text":"decimal:\\n"}'
    )
    assert "printed by the code" in [each.text for each in heard]


@pytest.mark.parametrize(
    ("stream", "line", "words", "kind"),
    [
        ("breaks", "raise OSError", "OSError: the server at ••• is away", Transient),
        ("wrong", "yield object()", "yields a value of type object; yield a dict", SetupError),
        ("formless", 'yield {"n": object()}', "has no form in JSON", SetupError),
        ("misspelt", "return nothing", "NameError: name 'nothing' is not defined", SetupError),
        ("unordered", "yield from ({", "2 comes after 3; give them in order", Transient),
    ],
)
async def test_an_error_names_file_and_line_and_keeps_the_rows_before_it(
    stream: str, line: str, words: str, kind: type[PenstockError], tmp_path: Path, heard: list[Said]
) -> None:
    got: list[Message] = []
    with pytest.raises(kind) as failed:
        await messages_of(await opened(tmp_path, heard), stream, got)
    number = next(place for place, each in enumerate(CODE.splitlines(), 1) if line in each)
    assert words in str(failed.value)
    assert f"{tmp_path / 'code.py'}, line {number} (stream {stream})" in str(failed.value)
    assert len(rows(got)) == (0 if stream == "misspelt" else 2 if stream == "unordered" else 1)
    assert [each.complete for each in got if isinstance(each, Ended)] == [False]
    assert "secret-0123" not in " ".join(each.text for each in heard)


async def test_one_stream_that_fails_does_not_keep_the_others_back(tmp_path: Path, heard: list[Said]) -> None:
    source = await opened(tmp_path, heard)
    chosen = [selected(each) for each in await source.discover() if each.name in ("breaks", "returned")]
    got: list[Message] = []
    with pytest.raises(Transient, match="breaks"):
        async for message in source.read(chosen, {}):
            got.append(message)  # noqa: PERF401  # those before an error count
    assert rows(got) == [b'{"n":1}', b'{"n":1}', b'{"n":2}']


async def test_tables_go_on_behind_the_cursor_and_lose_the_columns_that_are_not_wanted(tmp_path: Path, heard: list[Said]) -> None:
    source = await opened(tmp_path, heard)
    got: list[Message] = []
    await messages_of(source, "tables", got, columns=())
    assert [json.loads(row)["id"] for row in rows(got)] == list(range(30))
    assert set(json.loads(rows(got)[0])) == {"id", "at"}
    code = CODE.replace("range(0, 30, 10)", "range(20, 40, 10)")
    again: list[Message] = []
    await messages_of(await opened(tmp_path, heard, code), "tables", again, states_of(got))
    ids = [json.loads(row)["id"] for row in rows(again)]
    assert ids == [*range(20, 28), *range(30, 40)], "28 and 29 have the newest cursor, and are known again"


async def test_a_state_comes_back_as_it_was_yielded(tmp_path: Path, heard: list[Said]) -> None:
    source = await opened(tmp_path, heard)
    stream = next(each for each in await source.discover() if each.name == "pages")
    first = await read(source, [selected(stream)], stop_after=3)
    assert [each.rows for each in first.messages if isinstance(each, Checkpoint)] == [2]
    second = await read(source, [selected(stream)], first.states)
    assert [row["page"] for row in second.rows()] == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("x = 1\n", "declares no stream; put @source.stream before a function"),
        ("def broken(:\n", "line 1: SyntaxError"),
        ("import nothing_of_this_name\n", "line 1: ModuleNotFoundError"),
        ("from penstock import source\n@source.stream\ndef a(since): ...\n", "has `since` and no cursor"),
        ("from penstock import source\n@source.stream\ndef a(colour): ...\n", "has a parameter `colour`; it may have: config"),
    ],
)
async def test_a_file_that_cannot_run_is_for_a_person(code: str, words: str, tmp_path: Path, heard: list[Said]) -> None:
    source = await opened(tmp_path, heard, code)
    found = await source.check()
    assert not found.ok
    assert words in found.message
    with pytest.raises(PenstockError, match=r"code\.py"):
        await source.discover()


async def test_it_is_ended_for_what_it_may_not_take(tmp_path: Path, heard: list[Said]) -> None:
    code = "from penstock import source\n@source.stream\ndef a():\n    held = []\n    while True:\n        held.append(bytearray(1 << 24))\n"
    got: list[Message] = []
    with pytest.raises(Transient, match="held more than 96 MiB of memory"):
        await messages_of(await opened(tmp_path, heard, code, memory="96MiB"), "a", got)


async def test_an_interpreter_that_is_not_there_is_named(tmp_path: Path, heard: list[Said]) -> None:
    with pytest.raises(SetupError, match=r"connectors.mine.python: /nowhere/python is no program here"):
        await (await opened(tmp_path, heard, python="/nowhere/python")).discover()
