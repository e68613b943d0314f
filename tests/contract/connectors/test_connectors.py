"""Connectors hold to their contract: they check, discover, read in full and from a state, and end when told."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

from connector_runner.contract import Checkpoint, Ended, Row, Selected, Source, Stream
from shared.errors import PenstockError, Transient
from tests.contract.connectors.conftest import Subject, read
from tests.support.paged_api import order

pytestmark = pytest.mark.timeout(180)  # the first test of a run installs packages


async def test_it_tells_its_options_and_whether_they_work(subject: Subject) -> None:
    source = await subject.open()
    schema = await source.spec()
    assert set(subject.document["config"]) <= set(schema["properties"])
    assert (await source.check()).ok
    said = await refusal(await subject.open(config=subject.wrong))
    assert said, "it says what is wrong with them"
    for secret in subject.wrong.values():
        assert secret not in " ".join([said, *(each.text for each in subject.heard)])


async def refusal(source: Source) -> str:
    """Returns what a connector says of options that do not work; empty if it takes them."""
    try:
        checked = await source.check()
    except PenstockError as exc:
        return str(exc)
    return "" if checked.ok else checked.message


async def test_it_gives_all_rows_and_then_only_what_is_new(subject: Subject) -> None:
    source = await subject.open()
    streams = [each for each in await source.discover() if each.name in subject.rows]
    assert {each.name for each in streams} == set(subject.rows)
    if subject.api is not None:
        subject.api.busy = 1  # it is waited for
    first = await read(source, streams)
    for stream in streams:
        rows = [json.loads(row) for row in first.rows(stream.name)]
        assert len({row["id"] for row in rows}) == len(rows) == subject.rows[stream.name]
        assert stream.primary_key == (("id",),)
    kinds = [type(each) for each in first.messages if isinstance(each, Row | Checkpoint)]
    assert kinds[-1] is Checkpoint, "the last rows have a state behind them"
    assert {each.stream.name for each in first.messages if isinstance(each, Ended) and each.complete} == set(subject.rows)
    if subject.api is not None:
        subject.api.orders += [order(number) for number in range(96, 100)]
        again = await read(source, streams, first.states)
        assert {json.loads(row)["id"] for row in again.rows("orders")} - {95} == {96, 97, 98, 99}
        assert subject.api.requests[-1].count("since=2026-01-04T23") or any(
            "since=2026-01-04T23" in each for each in subject.api.requests
        )


@pytest.mark.parametrize("subject", ["faker"], indirect=True)  # it has several states a stream
async def test_a_read_goes_on_from_any_state_without_a_gap(subject: Subject) -> None:
    source = await subject.open()
    stream = next(each for each in await source.discover() if each.name in ("users", "orders"))
    whole = {json.loads(row)["id"] for row in (await read(source, [stream])).rows(stream.name)}
    got, states = set[int](), {}
    messages = source.read([Selected(stream, "incremental", stream.cursor, stream.primary_key)], {})
    async for message in messages:
        if isinstance(message, Row):
            got.add(json.loads(message.data)["id"])
        elif isinstance(message, Checkpoint):
            states[message.stream] = message.state
            break
    await messages.aclose()
    rest = await read(source, [stream], states)
    assert got | {json.loads(row)["id"] for row in rest.rows(stream.name)} == whole


@pytest.mark.parametrize("subject", ["manifest"], indirect=True)
async def test_leaving_a_read_ends_its_program_and_removes_its_files(subject: Subject) -> None:
    shared = set(psutil.Process().children(recursive=True))  # servers of other tests of this worker
    source = await subject.open()
    streams = [each for each in await source.discover() if each.name in subject.rows]
    messages = source.read([Selected(each, "full_refresh") for each in streams], {})
    async for message in messages:
        if isinstance(message, Row):
            break
    running = [each for each in psutil.Process().children(recursive=True) if each not in shared]
    assert any("source" in " ".join(each.cmdline()) for each in running)
    await messages.aclose()
    assert not psutil.wait_procs(running, timeout=10)[1]
    assert not list(subject.private.glob("run-*"))


@pytest.mark.parametrize("subject", ["manifest"], indirect=True)  # the kit leaves it out and ends with 0
async def test_a_stream_that_is_gone_is_an_error_and_no_empty_stream(subject: Subject) -> None:
    source = await subject.open()
    with pytest.raises(PenstockError, match="gone"):
        await read(source, [Stream(name="gone", json_schema={"type": "object", "properties": {}})])


async def test_a_version_that_does_not_exist_is_for_a_person(tmp_path: Path) -> None:
    from connector_runner.programs.packages import install

    with pytest.raises(PenstockError, match=r"cannot be installed.*99\.0\.0") as failed:
        await install(package="airbyte-source-faker", version="99.0.0", cache=tmp_path, heard=lambda said: None)
    assert not isinstance(failed.value, Transient)
    assert not [path for path in (tmp_path / "packages").iterdir() if path.is_dir()]
