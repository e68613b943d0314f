"""What only published connectors show, beside the suite of all sources (tests/contract/sources/)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from connector_runner.contract import Checkpoint, Ended, JsonRows, Selected, Source, Stream
from shared.errors import PenstockError, Transient
from tests.contract.connectors.conftest import Subject, read

pytestmark = pytest.mark.timeout(400)  # the first test of a run installs packages


@pytest.mark.parametrize("subject", ["faker"], indirect=True)
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


@pytest.mark.parametrize("subject", ["faker"], indirect=True)
async def test_it_gives_all_rows_of_all_streams(subject: Subject) -> None:
    source = await subject.open()
    streams = [each for each in await source.discover() if each.name in subject.rows]
    assert {each.name for each in streams} == set(subject.rows)
    first = await read(source, streams)
    for stream in streams:
        rows = [json.loads(row) for row in first.rows(stream.name)]
        assert len({row["id"] for row in rows}) == len(rows) == subject.rows[stream.name]
        assert stream.primary_key == (("id",),)
    kinds = [type(each) for each in first.messages if isinstance(each, JsonRows | Checkpoint)]
    assert kinds[-1] is Checkpoint, "the last rows have a state behind them"
    assert {each.stream.name for each in first.messages if isinstance(each, Ended) and each.complete} == set(subject.rows)


@pytest.mark.parametrize("subject", ["hardcoded", "file"], indirect=True)  # others than the usual faker
async def test_other_published_connectors_give_all_rows_and_say_so(subject: Subject) -> None:
    source = await subject.open()
    streams = [each for each in await source.discover() if each.name in subject.rows]
    whole = await read(source, streams, full=True)
    assert {each.name: len(whole.rows(each.name)) for each in streams} == subject.rows
    assert {each.stream.name for each in whole.messages if isinstance(each, Ended) and each.complete} == set(subject.rows)


@pytest.mark.parametrize("subject", ["faker"], indirect=True)  # it has several states a stream
async def test_a_read_goes_on_from_any_state_without_a_gap(subject: Subject) -> None:
    source = await subject.open()
    stream = next(each for each in await source.discover() if each.name in ("users", "orders"))
    whole = {json.loads(row)["id"] for row in (await read(source, [stream])).rows(stream.name)}
    got, states = set[int](), {}
    messages = source.read([Selected(stream, "incremental", stream.cursor, stream.primary_key)], {})
    async for message in messages:
        if isinstance(message, JsonRows):
            got |= {json.loads(row)["id"] for row in message.rows}
        elif isinstance(message, Checkpoint):
            states[message.stream] = message.state
            break
    await messages.aclose()
    rest = await read(source, [stream], states)
    assert got | {json.loads(row)["id"] for row in rest.rows(stream.name)} == whole


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
