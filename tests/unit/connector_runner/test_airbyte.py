"""Connectors of the Airbyte protocol on their bad days: what a read gives, and which error ends it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from connector_runner.contract import (
    Checkpoint,
    Ended,
    Environment,
    JsonRows,
    Message,
    NewOptions,
    Said,
    Selected,
    Stream,
    StreamName,
)
from connector_runner.programs.program import Limits
from connector_runner.sources.airbyte.source import AirbyteSource
from shared.errors import PenstockError, Permanent, SetupError, Transient
from tests.support.scripts import AIRBYTE, Script

SECRET = "hunter2/hunter2+ü"
A, B = StreamName("a"), StreamName("b")


def open_(folder: Path, code: str, heard: list[Said] | None = None, **more: Any) -> tuple[AirbyteSource, Script]:
    script = Script(AIRBYTE + code)
    lines: list[Said] = [] if heard is None else heard
    options = {"manifest": None, "limits": Limits(), "verify_counts": True, **more}
    return AirbyteSource(
        "crm", script, {"keys": [SECRET]}, environment=Environment(folder, folder, lines.append), **options
    ), script


class Came(NamedTuple):
    messages: list[Message]
    error: PenstockError | None

    @property
    def rows(self) -> list[tuple[str, Any]]:
        return [(str(each.stream), json.loads(row)) for each in self.messages if isinstance(each, JsonRows) for row in each.rows]

    @property
    def states(self) -> list[StreamName | None]:
        return [each.stream for each in self.messages if isinstance(each, Checkpoint)]

    @property
    def ends(self) -> dict[StreamName, bool]:
        return {each.stream: each.complete for each in self.messages if isinstance(each, Ended)}


async def read(
    folder: Path,
    code: str,
    streams: tuple[StreamName, ...] = (A,),
    states: Mapping[StreamName | None, bytes] | None = None,
    **more: Any,
) -> Came:
    source, script = open_(folder, code, **more)
    selected = [Selected(Stream(name=each.name, namespace=each.namespace), "full_refresh") for each in streams]
    messages: list[Message] = []
    error = None
    try:
        async with aclosing(source.read(selected, states or {})) as coming:
            async for each in coming:
                messages.append(each)  # noqa: PERF401  # what came before an error counts
    except PenstockError as exc:
        error = exc
    assert not any(each.exists() for each in script.folders), "a run leaves no files"
    return Came(messages, error)


WELL = "row('a', {'n': 1}); state('a', {}, 1); status('a', 'COMPLETE')\n"


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("row('a', {'n': 1}); state('a', {}, 1)", Transient, "ended without saying that these streams are complete: a"),
        (WELL + "status('a', 'INCOMPLETE')", Transient, "complete: a"),
        (WELL + "sys.exit(3)", Transient, "ended with code 3"),
        (WELL + "sys.stderr.write('it broke here'); sys.stderr.flush(); os.kill(os.getpid(), 9)", Transient, "code -9: it broke here"),
        (WELL + "error('no such account', 'config_error')", SetupError, "connectors.crm: no such account"),
        (WELL + "error('slow'); error('2 streams failed'); sys.exit(1)", Transient, "2 streams failed"),
        (WELL + "row('c', {})", Permanent, "stream c, which was not asked for"),
        (WELL + "row('a', {}, namespace='eu')", Permanent, "eu.a.*not asked for; asked for, with another namespace: a"),
        (WELL + "print('{\"type\":\"RECORD\",\"record\":{\"stream\":\"a\",\"data\":{\"n\":')", Permanent, "cannot be read"),
        (WELL + "row('a', {'n': float('nan')})", Permanent, "cannot be read"),
        (WELL + "sys.stdout.buffer.write(b'{\"type\":\"RECORD\",\"record\":{\"stream\":\"a\",\"data\":{\"n\":\"\\xff\"}}}\\n')", Permanent, "utf-8"),
        (WELL + "row('a', {'n': 'x' * (3 << 20)})", Permanent, "more than 2 MiB.*max_line"),
        ("row('a', {}); state('a', {}, 2); status('a', 'COMPLETE')", Transient, "counts 2 rows of a since the last state, and 1 came"),
        ("row('a', {}); state(None, {}, 0); status('a', 'COMPLETE')", Transient, "counts 0 rows of all streams .* and 1 came"),
        (WELL + "state(None, {})", Permanent, "a state of one stream and a state of all"),
    ],
)  # fmt: skip
async def test_a_bad_day_is_an_error_and_no_state_behind_it_is_given(
    tmp_path: Path, code: str, kind: type[PenstockError], words: str
) -> None:
    came = await read(tmp_path, code, limits=Limits(line_bytes=2 << 20))
    assert type(came.error) is kind, came.error
    with pytest.raises(kind, match=words):
        raise came.error
    assert len(came.states) <= code.count("state(") - ("came" in words or "all" in words)


@pytest.mark.parametrize(
    "code",
    [
        WELL,
        "status('a', 'COMPLETE'); row('a', {'n': 1}); state('a', {}, 1)",
        "print('Starting...'); print('[1, 2]'); print('5'); sys.stdout.buffer.write(b'\\xff\\xfe\\n\\x00\\n'); sys.stdout.flush()\n" + WELL,
        "say('LOG', log={'level': 'FATAL', 'message': 5}); say('NEWS', news={}); say('TRACE', trace={'type': 'ANALYTICS'})\n" + WELL,
        "row('a', {'n': 1}, namespace=''); state('a', {}, 1); status('a', 'COMPLETE')",
        "row('a', {'n': 1}); state(None, {}, 1); say('STATE', state={'data': {'at': 1}}); status('a', 'COMPLETE')",
        WELL + "sys.stdout.write(json.dumps({'type': 'STATE', 'state': {'type': 'STREAM', 'stream': {'stream_descriptor': {'name': 'a'}}}}))",
        "state('c', {}, 9)\n" + WELL,
    ],
)  # fmt: skip
async def test_what_is_odd_and_harmless_is_read(tmp_path: Path, code: str) -> None:
    came = await read(tmp_path, code)
    assert came.error is None
    assert came.rows == [("a", {"n": 1})]
    assert isinstance(came.messages[-1], Ended), "the end of a stream comes behind all its rows"
    assert came.ends == {A: True}
    assert StreamName("c") not in came.states


async def test_of_a_run_that_fails_the_streams_that_are_complete_are_told(tmp_path: Path) -> None:
    code = WELL + "status('b', 'INCOMPLETE'); error('b is away'); sys.exit(1)"
    came = await read(tmp_path, code, (A, B))
    assert came.ends == {A: True, B: False}
    assert "b is away" in str(came.error)
    silent = await read(tmp_path, WELL + "time.sleep(600)", (A, B), limits=Limits(stall_seconds=3))
    assert silent.ends == {A: True}
    assert "stall_timeout" in str(silent.error)
    unreadable = await read(tmp_path, WELL + 'print(\'{"type":"RECORD",\')', (A, B))
    assert unreadable.ends == {}, "the row may have been of any stream"


async def test_counts_that_are_always_wrong_can_be_left_out(tmp_path: Path) -> None:
    code = "row('a', {'n': 1}); state('a', {}, 7); status('a', 'COMPLETE')"
    assert (await read(tmp_path, code, verify_counts=False)).error is None


async def test_rows_of_several_streams_are_counted_apart(tmp_path: Path) -> None:
    code = "row('a', {}); row('b', {}); row('b', {}); state('a', {}, 1); row('a', {}); state('b', {}, 2); state('a', {}, 1)\n"
    came = await read(tmp_path, code + "status('a', 'COMPLETE'); status('b', 'COMPLETE')", (A, B))
    assert came.error is None
    assert came.states == [A, B, A]


async def test_states_go_back_as_they_came_and_changed_options_hold(tmp_path: Path) -> None:
    kept = b'{"type":"STREAM",  "stream":{"stream_descriptor":{"name":"a"},"stream_state":{"n":1.0}}}'
    new = SECRET + "-new"
    code = (
        "first = option('--config')\n"
        f"say('CONTROL', control={{'type': 'CONNECTOR_CONFIG', 'connectorConfig': {{'config': {{'keys': [{new!r}]}}}}}})\n"
        f"print('token', {new!r}); row('a', {{'state': option('--state') if '--state' in sys.argv else None, 'config': first}})\n"
        "status('a', 'COMPLETE')"
    )
    source, _ = open_(tmp_path, code)
    told: list[Message] = []
    given: tuple[dict[StreamName | None, bytes], ...] = ({}, {A: kept})
    for states in given:
        async with aclosing(source.read([Selected(Stream(name="a"), "full_refresh")], states)) as coming:
            told += [each async for each in coming]
    rows = [json.loads(row) for each in told if isinstance(each, JsonRows) for row in each.rows]
    assert [each["config"] for each in rows] == [{"keys": [SECRET]}, {"keys": [new]}]
    assert [each["state"] for each in rows] == [None, [json.loads(kept)]]
    assert [json.loads(each.config) for each in told if isinstance(each, NewOptions)] == [{"keys": [new]}] * 2
    assert not any(new in each.text for each in told if isinstance(each, Said))


async def test_secrets_are_hidden_in_all_that_it_says(tmp_path: Path) -> None:
    heard: list[Said] = []
    code = (
        f"from urllib.parse import quote, quote_plus\nsecret = {SECRET!r}\n"
        "forms = [secret, quote(secret, safe=''), quote_plus(secret), json.dumps(secret), 'https://x/?k=' + quote(secret)]\n"
        "for form in forms:\n"
        "    sys.stderr.buffer.write((form + '\\n').encode()); print(form); say('LOG', log={'level': 'INFO', 'message': form})\n"
        "sys.stderr.flush(); error(' '.join(forms)); sys.exit(1)"
    )
    came = await read(tmp_path, code, heard=heard)
    said = " ".join(
        [str(came.error), *(each.text for each in came.messages if isinstance(each, Said)), *(each.text for each in heard)]
    )
    assert said.count("•••") >= 15
    assert "hunter2" not in said


async def test_a_stranger_s_words_about_check_and_discover(tmp_path: Path) -> None:
    for code, words in (
        ("sys.stderr.write('no module named x'); sys.exit(1)", "code 1: no module named x"),
        ("print('hello')", "no answer"),
        ("say('CATALOG', catalog={'streams': [{'json_schema': {}}]})", "catalogue has a stream that cannot be read"),
    ):
        source, _ = open_(tmp_path, code)
        with pytest.raises(PenstockError, match=words):
            await source.discover()
    source, _ = open_(
        tmp_path, f"say('CONNECTION_STATUS', connectionStatus={{'status': 'FAILED', 'message': 'key {SECRET}'}}); sys.exit(1)"
    )
    assert await source.check() == (False, "key •••")
    heard: list[Said] = []
    source, _ = open_(
        tmp_path,
        "say('CONTROL', control={'type': 'CONNECTOR_CONFIG', 'connectorConfig': {'config': {}}})\n"
        "say('CONNECTION_STATUS', connectionStatus={'status': 'SUCCEEDED'})",
        heard,
    )
    assert (await source.check()).ok
    assert any("changed its own options" in each.text for each in heard)


async def test_a_row_of_50_mb_comes_whole_where_it_may(tmp_path: Path) -> None:
    code = "row('a', {'n': 'x' * (50 << 20)}); status('a', 'COMPLETE')"
    assert "max_line" in str((await read(tmp_path, code)).error)
    came = await read(tmp_path, code, limits=Limits(line_bytes=64 << 20))
    assert len(came.rows[0][1]["n"]) == 50 << 20


async def test_cancelled_anywhere_it_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    """A cancellation at each of the first steps of a read."""
    source, script = open_(tmp_path, "row('a', {'pid': os.getpid()}); time.sleep(600)")

    async def read_on() -> None:
        async with aclosing(source.read([Selected(Stream(name="a"), "full_refresh")], {})) as coming:
            async for _ in coming:
                pass

    for steps in (0, 1, 2, 3, 5, 8, 13, 21):
        reading = asyncio.ensure_future(read_on())
        for _ in range(steps):
            await asyncio.sleep(0.002)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    assert not list(tmp_path.glob("run-*"))
    assert not await asyncio.to_thread(running_in, script.folders)


def running_in(folders: list[Path]) -> list[int]:
    """Returns the processes that still work in one of these folders, after some time to end."""
    import psutil

    found = [
        each for each in psutil.process_iter(["cwd"]) if (each.info["cwd"] or "").partition(" ")[0] in set(map(str, folders))
    ]
    return [each.pid for each in psutil.wait_procs(found, timeout=60)[1]]


async def test_no_room_for_the_files_of_a_run_is_for_a_person(tmp_path: Path) -> None:
    source, _ = open_(tmp_path / "gone", "")
    with pytest.raises(SetupError, match="the files of a run are written there"):
        await source.check()
