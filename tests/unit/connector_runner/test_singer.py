"""Singer taps: catalogues, messages, and what a tap does on a bad day."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from connector_runner.contract import Checkpoint, Ended, Environment, Message, Row, Said, Selected, Stream, StreamName
from connector_runner.programs.program import Limits
from connector_runner.singer.catalog import configured, read_catalog, resumed, stream_of
from connector_runner.singer.messages import Announced, read_line
from connector_runner.sources.singer.source import SingerSource
from shared.errors import PenstockError, Permanent, SetupError, Transient
from tests.support.scripts import Script

SECRET = "hunter2-hunter2"


def entry(name: str, **told: Any) -> dict[str, Any]:
    return {
        "tap_stream_id": f"id-{name}",
        "stream": name,
        "schema": {"type": "object", "properties": {"id": {}, "a": {"properties": {"b": {}, "c": {}}}, "x": {}}},
        "key_properties": ["id"],
        "metadata": [
            {"breadcrumb": [], "metadata": told},
            {"breadcrumb": ["properties", "id"], "metadata": {"inclusion": "automatic"}},
            {"breadcrumb": ["properties", "a"], "metadata": {"inclusion": "available"}},
            {"breadcrumb": ["properties", "a", "properties", "b"], "metadata": {"inclusion": "available"}},
            {"breadcrumb": ["properties", "a", "properties", "c"], "metadata": {"inclusion": "available"}},
            {"breadcrumb": ["properties", "x"], "metadata": {"inclusion": "available"}},
        ],
    }


def stream(**told: Any) -> Stream:
    return stream_of(read_catalog(json.dumps({"streams": [entry("u", **told)]}).encode())[1]["u"])


@pytest.mark.parametrize(
    ("told", "modes", "cursor", "source_cursor"),
    [
        ({}, ("full_refresh",), (), False),
        ({"schema-name": "public"}, ("full_refresh", "incremental"), (), False),
        ({"forced-replication-method": "FULL_TABLE", "schema-name": "public"}, ("full_refresh",), (), False),
        ({"valid-replication-keys": ["at", "id"]}, ("full_refresh", "incremental"), ("at",), False),
        ({"forced-replication-method": "INCREMENTAL", "replication-key": "at"}, ("full_refresh", "incremental"), ("at",), True),
        ({"replication-method": "LOG_BASED", "schema-name": "p"}, ("full_refresh", "incremental"), (), True),
    ],
)
def test_a_stream_says_how_it_can_be_read(
    told: dict[str, Any], modes: tuple[str, ...], cursor: tuple[str, ...], source_cursor: bool
) -> None:
    found = stream(**told)
    assert (found.modes, found.cursor, found.source_cursor, found.primary_key) == (modes, cursor, source_cursor, (("id",),))


def test_the_tap_hears_which_streams_columns_and_cursors_are_wanted() -> None:
    document, entries = read_catalog(
        json.dumps({"streams": [entry("u", **{"schema-name": "p"}), entry("v")], "more": 1}).encode()
    )
    selected = Selected(stream_of(entries["u"]), "incremental", ("x",), (("id",),), columns=(("a", "b"),))
    told = json.loads(configured(document, [selected]))
    assert told["more"] == 1
    u, v = told["streams"]
    by_path = {tuple(each["breadcrumb"][1::2]): each["metadata"] for each in u["metadata"]}
    assert by_path[()] == {"schema-name": "p", "selected": True, "replication-method": "INCREMENTAL", "replication-key": "x"}
    assert {path: each.get("selected") for path, each in by_path.items() if path} == {
        ("id",): None, ("a",): True, ("a", "b"): True, ("a", "c"): False, ("x",): True,
    }  # fmt: skip
    assert (v["selected"], v["schema"]["selected"], v["metadata"][-1]["metadata"]["selected"]) == (False, False, False)
    with pytest.raises(SetupError, match="has no stream w"):
        configured(document, [Selected(Stream(name="w"), "full_refresh")])
    with pytest.raises(SetupError, match="no cursor"):
        configured(document, [Selected(stream_of(entries["u"]), "incremental")])


@pytest.mark.parametrize("written", [b"", b"[]", b"{}", b'{"streams":[{}]}', b'{"streams":5}', b"\xff", b"[" * 100_000])
def test_a_catalogue_that_is_none_says_so(written: bytes) -> None:
    with pytest.raises(Permanent, match="catalogue"):
        read_catalog(written)


def test_two_streams_of_one_name_are_refused() -> None:
    with pytest.raises(Permanent, match="two streams u"):
        read_catalog(json.dumps({"streams": [entry("u"), entry("u")]}).encode())


def test_a_full_read_begins_at_the_beginning() -> None:
    state = b'{"currently_syncing":"v","bookmarks":{"u":{"last_pk_fetched":5},"v":{"at":1}},"own":2}'
    selected = [Selected(Stream(name="u"), "full_refresh"), Selected(Stream(name="v"), "incremental", ("at",))]
    assert json.loads(resumed(state, selected)) == {"bookmarks": {"v": {"at": 1}}, "own": 2}


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (
            b'{"type":"RECORD","stream":"u","record":{"n":1.50},"time_extracted":"1970-01-01T00:00:01Z","version":3}',
            Row(StreamName("u"), b'{"n":1.50}', 1000),
        ),
        (b'{"type":"RECORD","stream":"u","record":{},"time_extracted":"yesterday"}', Row(StreamName("u"), b"{}")),
        (b'{"type":"STATE","value":{"bookmarks":{}}}', Checkpoint(None, b'{"bookmarks":{}}')),
        (b'{"type":"SCHEMA","stream":"u","schema":{},"key_properties":[]}', Announced("u")),
        (b'{"type":"ACTIVATE_VERSION","stream":"u","version":3}', None),
        (b"hello", Said("info", "hello")),
    ],
)
def test_each_line_becomes_its_message(written: bytes, expected: object) -> None:
    assert read_line(written) == expected


@pytest.mark.parametrize(
    "written",
    [
        b'{"type":"RECORD","stream":"u","record":{"n":NaN}}',
        b'{"type":"RECORD","stream":"u","record":[]}',
        b'{"type":"RECORD","record":{}}',
        b'{"type":"RECORD","stream":"u","record":{"n":"\xff"}}',
        b'{"type":"STATE","value":null}',
        b'{"type":"STATE","val',
        b'{"type":"SCHEMA"}',
        b'{"type":"BATCH","stream":"u","manifest":["file:///x.gz"]}',
    ],
)
def test_what_would_be_lost_is_an_error(written: bytes) -> None:
    with pytest.raises(Permanent):
        read_line(written)


TAP = """
import json, os, sys
def say(kind, **content): print(json.dumps({"type": kind, **content}), flush=True)
CATALOG = {"streams": [{"tap_stream_id": name, "stream": name, "schema": {}, "metadata": [{"breadcrumb": [], "metadata": {"valid-replication-keys": ["n"]}}]} for name in ("a", "b")]}
if "--discover" in sys.argv: print(json.dumps(CATALOG, indent=2)); sys.exit()
"""
WELL = "say('SCHEMA', stream='a'); say('RECORD', stream='a', record={'n': 1}); say('STATE', value={'bookmarks': {'a': 1}})\n"


async def read(
    folder: Path, code: str, states: Mapping[StreamName | None, bytes] | None = None
) -> tuple[list[Message], PenstockError | None, list[Said]]:
    heard: list[Said] = []
    source = SingerSource(
        "shop",
        Script(TAP + code),
        {"token": SECRET},
        catalog_option="--catalog",
        limits=Limits(),
        environment=Environment(folder, folder, heard.append),
    )
    messages: list[Message] = []
    try:
        async with aclosing(source.read([Selected(Stream(name="a"), "incremental", ("n",))], states or {})) as coming:
            async for each in coming:
                messages.append(each)  # noqa: PERF401  # what came before an error counts
    except PenstockError as exc:
        return messages, exc, heard
    return messages, None, heard


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("", Transient, "without reading these streams: a"),
        (WELL + "sys.exit(1)", Transient, "ended with code 1"),
        (WELL + f"sys.exit('no login with {SECRET}')", Transient, "no login with •••"),
        (WELL + "sys.exit('Config validation failed: host')", SetupError, "connectors.shop: .*host"),
        (WELL + "say('RECORD', stream='b', record={})", Permanent, "stream b, which was not asked for"),
        (WELL + "say('BATCH', stream='a', manifest=[])", Permanent, "batch_config"),
    ],
)  # fmt: skip
async def test_a_bad_day_is_an_error(tmp_path: Path, code: str, kind: type[PenstockError], words: str) -> None:
    messages, error, _ = await read(tmp_path, code)
    assert type(error) is kind, error
    with pytest.raises(kind, match=words):
        raise error
    assert not any(isinstance(each, Ended) for each in messages)
    assert not list(tmp_path.iterdir())


async def test_a_tap_hears_its_state_again_and_ends_well(tmp_path: Path) -> None:
    code = WELL + "print('state', json.load(open(sys.argv[sys.argv.index('--state') + 1])), file=sys.stderr)"
    messages, error, heard = await read(tmp_path, code, {None: b'{"bookmarks":{"a":7}}'})
    assert error is None
    assert [type(each) for each in messages] == [Row, Checkpoint, Ended]
    assert Said("info", "state {'bookmarks': {'a': 7}}") in heard
