"""Lines of the Airbyte protocol: what each becomes, and which must not be left out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from connector_runner.airbyte.catalog import configured, read_stream, states_file
from connector_runner.airbyte.messages import Discovered, Failure, Specification, Verdict, read_line, read_lines
from connector_runner.contract import Checkpoint, Ended, Estimate, JsonRows, NewOptions, Row, Said, Selected, StreamName
from shared.errors import Permanent

USERS = StreamName("users")


def line(**message: Any) -> bytes:
    return json.dumps(message).encode()


def test_a_row_keeps_the_bytes_of_its_data() -> None:
    written = (
        b'{"type":"RECORD","record":{"stream":"users","emitted_at":17,"data":{"n":12345678901234567890.10,  "a":"\\u00e9"}}}'
    )
    assert read_line(written) == Row(USERS, b'{"n":12345678901234567890.10,  "a":"\\u00e9"}', 17)


def test_rows_that_follow_each_other_come_together_and_all_stay_in_order() -> None:
    def record(stream: str, data: str, **more: Any) -> bytes:
        return b'{"type":"RECORD","record":%s}' % line(stream=stream, **more).replace(b"}", b', "data": %s}' % data.encode())

    state = line(type="STATE", state={"type": "STREAM", "stream": {"stream_descriptor": {"name": "users"}}})
    lines = [
        record("users", '{"n": 1.50}'),
        record("users", '{"n": "é"}'),
        record("tags", "{}"),
        record("users", "{}", namespace="crm"),
        b"a word",
        record("users", "{}"),
        state,
        record("users", '{"n": 3}'),
        record("users", "[]"),
        record("users", '{"n": 4}'),
    ]
    came: list[object] = []

    def take() -> None:
        for each in read_lines(lines):
            came.append(each)  # noqa: PERF402  # one that raises gives those before

    with pytest.raises(Permanent, match="its `data` is no object"):
        take()
    assert came[:3] == [
        JsonRows(USERS, [b'{"n": 1.50}', '{"n": "é"}'.encode()]),
        JsonRows(StreamName("tags"), [b"{}"]),
        JsonRows(StreamName("users", "crm"), [b"{}"]),
    ]
    assert came[3:5] == [Said("info", "a word"), JsonRows(USERS, [b"{}"])]
    assert isinstance(came[5], Checkpoint)
    assert came[6:] == [JsonRows(USERS, [b'{"n": 3}'])]


@pytest.mark.parametrize("namespace", [None, ""])
def test_no_namespace_and_an_empty_one_are_one(namespace: str | None) -> None:
    found = read_line(line(type="RECORD", record={"stream": "users", "namespace": namespace, "data": {}, "emitted_at": 1.5}))
    assert found == Row(USERS, b"{}", 1)


def test_a_state_comes_back_as_the_connector_wrote_it() -> None:
    state = b'{"type":"STREAM", "stream":{"stream_descriptor":{"name":"users","namespace":"crm"},"stream_state":{"at":1.0}},"sourceStats":{"recordCount":3.0}}'
    found = read_line(b'{"type":"STATE","state":' + state + b"}")
    assert found == Checkpoint(StreamName("users", "crm"), state, 3)
    assert states_file({StreamName("users", "crm"): state}) == b"[" + state + b"]"


@pytest.mark.parametrize("state", [{"type": "GLOBAL", "global": {"stream_states": []}}, {"data": {"at": 1}}])
def test_a_state_of_all_streams_stands_alone(state: dict[str, Any]) -> None:
    found = read_line(line(type="STATE", state=state))
    assert isinstance(found, Checkpoint)
    assert found.stream is None
    assert json.loads(states_file({None: found.state})) == [state]


def test_states_of_streams_beside_one_of_all_are_newer() -> None:
    assert states_file({None: b'{"data":{}}', USERS: b'{"type":"STREAM"}'}) == b'[{"type":"STREAM"}]'


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (line(type="LOG", log={"level": "WARN", "message": "slow"}), Said("warn", "slow")),
        (line(type="LOG", log={"level": "LOUD", "message": "new level"}), Said("info", "new level")),
        (b"plain words", Said("info", "plain words")),
        (b'{"level": "INFO", "message": "JSON of another kind"}', Said("info", '{"level": "INFO", "message": "JSON of another kind"}')),
        (b'{"half": ', Said("info", '{"half":')),
        (b"  ", None),
        (b"\xff\xfe", Said("info", "\ufffd\ufffd")),
        (
            line(type="TRACE", trace={"type": "STREAM_STATUS", "emitted_at": 1.0, "stream_status": {"stream_descriptor": {"name": "users"}, "status": "COMPLETE"}}),
            Ended(USERS, True),
        ),
        (
            line(type="TRACE", trace={"type": "STREAM_STATUS", "emitted_at": 1.0, "stream_status": {"stream_descriptor": {"name": "users"}, "status": "INCOMPLETE"}}),
            Ended(USERS, False),
        ),
        (line(type="TRACE", trace={"type": "STREAM_STATUS", "stream_status": {"stream_descriptor": {"name": "users"}, "status": "RUNNING"}}), None),
        (line(type="TRACE", trace={"type": "ESTIMATE", "estimate": {"type": "STREAM", "name": "users", "row_estimate": 7}}), Estimate(USERS, 7, None)),
        (line(type="TRACE", trace={"type": "ESTIMATE", "estimate": {"type": "SYNC", "byte_estimate": 9}}), Estimate(None, None, 9)),
        (line(type="TRACE", trace={"type": "ANALYTICS", "analytics": {"type": "x"}}), None),
        (line(type="TRACE", trace={"type": "ERROR", "error": {"message": "no", "failure_type": "config_error"}}), Failure("no", None, "config_error")),
        (line(type="CONTROL", control={"type": "CONNECTOR_CONFIG", "emitted_at": 1, "connectorConfig": {"config": {"token": "t"}}}), NewOptions(b'{"token": "t"}')),
        (line(type="CONNECTION_STATUS", connectionStatus={"status": "FAILED", "message": "no"}), Verdict("FAILED", "no")),
        (line(type="SPEC", spec={"connectionSpecification": {"type": "object"}, "documentationUrl": "x"}), Specification({"type": "object"})),
        (line(type="CATALOG", catalog={"streams": []}), Discovered([])),
        (line(type="LOG", log={"level": "INFO", "message": {"a": 1}}), Said("info", '{"type": "LOG", "log": {"level": "INFO", "message": {"a": 1}}}')),
        (line(type="TRACE", trace={"type": "ANALYTICS", "error": 5}), Said("info", '{"type": "TRACE", "trace": {"type": "ANALYTICS", "error": 5}}')),
        (line(type="TRACE", trace={"type": "ERROR", "error": 5}), Failure('an error that cannot be read: {"type": "TRACE", "trace": {"type": "ERROR", "error": 5}}')),
        (line(type="STATE", state={"type": None, "data": {}}), Checkpoint(None, b'{"type": null, "data": {}}')),
        (b'{"type":"RECORD","record":{"stream":"users","emitted_at":1e300,"data":{"a":1,"a":2}}}', Row(USERS, b'{"a":1,"a":2}')),
        (b'{"type":"RECORD","record":{"stream":"users","emitted_at":-5,"data":  {"a":"\\u0000"}}}\r', Row(USERS, b'{"a":"\\u0000"}')),
        (line(type="DESTINATION_CATALOG", destination_catalog={}), None),
    ],
)  # fmt: skip
def test_each_line_becomes_its_message(message: bytes, expected: object) -> None:
    assert read_line(message) == expected


@pytest.mark.parametrize(
    "written",
    [
        b'{"type":"RECORD","record":{"stream":"users","data":{"a":1',
        b'{"type":"RECORD","record":{"stream":"users","data":{"a":NaN},"emitted_at":1}}',
        b'{"type":"RECORD","record":{"data":{},"emitted_at":1}}',
        b'{"type":"RECORD"}',
        b'{"type": "STATE", "state": {"type": "STREAM"}}',
        b'{"type": "STATE", "state": 5}',
        b'{"record":{"stream":"users","data":{"a":nan}},"type":"RECORD"}',
        b'{"type":"RECORD","record":{"stream":"users","data":' + b"[" * 100_000,
        b'{"type":"RECORD","record":{"stream":"users","data":5}}',
        b'{"type":"RECORD","record":{"stream":"users","data":null}}',
        b'{"type":"RECORD","record":{"stream":"users","data":{"a":"\xff"}}}',
        b'{"type":"RECORD","record":{"stream":"users","data":{"a":"\x00"}}}',
        b'{"type":"RECORD","record":{"stream":"users","data":{"a":"\\ud800"}}}',
        b'{"type":"RECORD","record":{"stream":"users","data":{}}}{"type":"RECORD","record":{"stream":"users","data":{}}}',
        b'progress 3% {"type":"RECORD","record":{"stream":"users","data":{}}}',
        b'\xef\xbb\xbf{"type":"RECORD","record":{"stream":"users","data":{}}}',
        b'{"record":{"stream":"users","data":{"a":' + b"x" * 5000 + b'}},"type":"RECORD","more":' + b"1" * 5000,
        b'{"type":"STATE","state":{"type":"STREAM","stream":{}}}',
        b'{"type":"STATE","state":{"type":"PARTITION","data":{}}}',
        b'{"type":"STATE","state":{"sourceStats":{"recordCount":1e999}}}',
        b'{"type":"CONTROL","control":{"type":"CONNECTOR_CONFIG","connectorConfig":{"config":"text"}}}',
        b'{"type":"CONTROL","control":5}',
        b'{"type":"CATALOG","catalog":{"streams":5}}',
    ],
)
def test_a_row_or_state_that_cannot_be_read_is_an_error_and_no_line_of_a_log(written: bytes) -> None:
    with pytest.raises(Permanent, match="the connector wrote a message"):
        read_line(written)


def test_a_stream_is_read_and_told_again() -> None:
    stream = read_stream(
        {
            "name": "users",
            "namespace": "crm",
            "json_schema": {"type": "object"},
            "supported_sync_modes": ["incremental", "full_refresh", "of the future"],
            "source_defined_cursor": True,
            "default_cursor_field": ["updated_at"],
            "source_defined_primary_key": [["id"], ["of", "tenant"]],
            "is_resumable": True,
        }
    )
    assert (stream.known_as, stream.modes, stream.primary_key) == (
        StreamName("users", "crm"),
        ("full_refresh", "incremental"),
        (("id",), ("of", "tenant")),
    )
    told = json.loads(configured([Selected(stream, "incremental")]))["streams"][0]
    assert told["stream"]["namespace"] == "crm"
    assert (told["sync_mode"], told["cursor_field"], told["primary_key"]) == (
        "incremental",
        ["updated_at"],
        [["id"], ["of", "tenant"]],
    )


def test_a_catalogue_that_is_none_says_so() -> None:
    with pytest.raises(Permanent, match="catalogue"):
        read_stream({"json_schema": {}})


@pytest.mark.parametrize(
    ("message", "internal", "words"),
    [
        ("Something went wrong in the connector. See the logs for more details.", "the key is not one", "the key is not one"),
        ("Something went wrong in the connector. See the logs for more details.", None, "Something went wrong"),
        ("no such account", "HTTP 404", "no such account"),
        (None, "HTTP 404", "HTTP 404"),
    ],
)
def test_words_of_a_failure_say_something_where_it_has_such(message: str | None, internal: str | None, words: str) -> None:
    assert Failure(message, internal).words.startswith(words)
