"""Unexpected answers of a stream, and unexpected states and words of the user's code."""

from __future__ import annotations

import asyncio
import io
import json
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest
from botocore.exceptions import ClientError

from connector_runner.feeds.kinds.kinesis import KinesisFeed, KinesisOptions, _Position, _Shard
from connector_runner.sources.python import child


class Expired:
    """A Kinesis whose iterators are never good."""

    async def get_shard_iterator(self, **_: Any) -> Any:
        return {"ShardIterator": "x"}

    async def get_records(self, **_: Any) -> Any:
        raise ClientError({"Error": {"Code": "ExpiredIteratorException"}}, "GetRecords")


async def test_a_shard_whose_iterator_is_spent_at_once_is_asked_with_a_pause() -> None:
    options = KinesisOptions(stream="clicks", region="eu-central-1")
    stack: Any = AsyncExitStack()
    environment: Any = None
    feed = KinesisFeed(client=Expired(), stack=stack, what="", name="clicks", options=options, environment=environment)
    shard = _Shard("shard-0", "1", "")
    before = asyncio.get_running_loop().time()
    assert await feed._read_shard(shard) is None
    assert shard.due > before


class Listing:
    """A Kinesis whose lists of shards are these."""

    def __init__(self, *lists: list[str]) -> None:
        self._lists = iter(lists)

    async def list_shards(self, **_: Any) -> Any:
        return {"Shards": [{"ShardId": name} for name in next(self._lists)]}


async def test_a_position_outlives_one_list_that_lacks_its_shard() -> None:
    options = KinesisOptions(stream="clicks", region="eu-central-1")
    client = Listing(["a"], [], ["a"], ["a", "b"], ["a"], ["a"])
    nothing: Any = None
    feed = KinesisFeed(client=client, stack=nothing, what="", name="clicks", options=options, environment=nothing)
    feed._state.shards = {"a": _Position(at="1"), "b": _Position(at="2")}
    kept = []
    for _ in range(6):
        await feed._list()
        kept.append(sorted(feed._state.shards))
    assert kept == [["a", "b"], ["a", "b"], ["a", "b"], ["a", "b"], ["a", "b"], ["a"]]


@pytest.mark.parametrize("state", [{"at": float("nan")}, {"at": "\udcff"}])
def test_a_state_that_is_no_json_is_an_error_of_the_users_code(state: Any) -> None:
    """Written as it is, the runner could not read it, and ended the run without a place."""
    out = io.BytesIO()
    with pytest.raises(ValueError, match=r"JSON compliant|surrogates"):
        child.Pipe(out).say("C", stream="s", state=state, rows=1)
    assert not out.getvalue()


def test_words_of_an_error_with_half_a_character_can_be_told() -> None:
    code = child.Code.__new__(child.Code)
    code.file = "shop.py"
    told = json.dumps(code.failure(OSError("no file \udcff")))
    assert msgspec.json.decode(told)["words"] == "OSError: no file ?"
