"""One line of a connector's output becomes a message. Pure.

A connector writes one JSON object a line. A row's `data` stays as the connector wrote it: nothing here parses it. A line that is no
object is a line of a log; many connectors print such. A row, a state or new options that cannot be read are an error: left out,
they would be lost without a word. A line of a log or a trace that cannot be read is only shown.

The protocol: https://docs.airbyte.com/platform/understanding-airbyte/airbyte-protocol. Types and members that are not known here
are left out, as it asks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal, TypeVar

import msgspec

from connector_runner.contract import Checkpoint, Ended, Estimate, JsonRows, Level, Message, NewOptions, Row, Said, StreamName
from connector_runner.programs.lines import UNREADABLE, message_of, plain, shown, unreadable

T = TypeVar("T")

_LEVELS: dict[str, Level] = {
    "FATAL": "fatal",
    "ERROR": "error",
    "WARN": "warn",
    "INFO": "info",
    "DEBUG": "debug",
    "TRACE": "trace",
}
_HOLDS_A_MESSAGE = re.compile(rb'"type"\s*:\s*"(?:RECORD|STATE|CONTROL)"')
_AN_ERROR = re.compile(rb'"type"\s*:\s*"ERROR"')
_SAYS_NOTHING = ("Something went wrong in the connector", "Unhandled error")
_LATEST = 1 << 53
"""Milliseconds; no later time is believed."""
MOST_ROWS = 1000
"""Rows that are given together."""


class Descriptor(msgspec.Struct, frozen=True, gc=False):
    """The name of a stream."""

    name: str
    namespace: str | None = None


class _Record(msgspec.Struct, frozen=True, gc=False):
    stream: str
    data: msgspec.Raw
    emitted_at: int | float = 0
    namespace: str | None = None


class _StreamState(msgspec.Struct, frozen=True):
    stream_descriptor: Descriptor


class _Stats(msgspec.Struct, frozen=True):
    rows: float | None = msgspec.field(name="recordCount", default=None)


class _State(msgspec.Struct, frozen=True):
    type: str | None = None
    stream: _StreamState | None = None
    stats: _Stats | None = msgspec.field(name="sourceStats", default=None)


class _Log(msgspec.Struct, frozen=True):
    level: str
    message: str


class Failure(msgspec.Struct, frozen=True):
    """An error that the connector reports. `failure_type`: `config_error` if a person must change its options."""

    message: str | None = None
    internal_message: str | None = None
    failure_type: str | None = None
    stream_descriptor: Descriptor | None = None

    @property
    def words(self) -> str:
        """What the connector says of it; where the kit puts words of its own that say nothing, the error behind them."""
        if self.message and not (self.internal_message and self.message.startswith(_SAYS_NOTHING)):
            return self.message
        return self.internal_message or self.message or "the connector reported an error without words"


class _Status(msgspec.Struct, frozen=True):
    stream_descriptor: Descriptor
    status: str


class _Guess(msgspec.Struct, frozen=True):
    name: str | None = None
    namespace: str | None = None
    row_estimate: float | None = None
    byte_estimate: float | None = None


class _Trace(msgspec.Struct, frozen=True):
    type: str
    error: Failure | None = None
    status: _Status | None = msgspec.field(name="stream_status", default=None)
    estimate: _Guess | None = None


class _Config(msgspec.Struct, frozen=True):
    config: msgspec.Raw


class _Control(msgspec.Struct, frozen=True):
    type: str
    changed: _Config | None = msgspec.field(name="connectorConfig", default=None)


class Verdict(msgspec.Struct, frozen=True):
    """The answer of `check`."""

    status: Literal["SUCCEEDED", "FAILED"]
    message: str | None = None


class Specification(msgspec.Struct, frozen=True):
    """The answer of `spec`: `schema` is the JSON Schema of the options."""

    schema: dict[str, Any] = msgspec.field(name="connectionSpecification")


class Discovered(msgspec.Struct, frozen=True):
    """The answer of `discover`: each stream as the connector wrote it."""

    streams: list[dict[str, Any]]


class _Line(msgspec.Struct, frozen=True):
    type: str
    record: _Record | None = None
    state: msgspec.Raw = msgspec.Raw(b"")
    log: msgspec.Raw = msgspec.Raw(b"")
    trace: msgspec.Raw = msgspec.Raw(b"")
    control: msgspec.Raw = msgspec.Raw(b"")
    spec: msgspec.Raw = msgspec.Raw(b"")
    catalog: msgspec.Raw = msgspec.Raw(b"")
    verdict: msgspec.Raw = msgspec.field(name="connectionStatus", default=msgspec.Raw(b""))


Heard = Message | Failure | Verdict | Specification | Discovered
"""The messages of the contract, and the answers that only this protocol has."""

_lines = msgspec.json.Decoder(_Line)
_states = msgspec.json.Decoder(_State)
_logs = msgspec.json.Decoder(_Log)
_traces = msgspec.json.Decoder(_Trace)
_controls = msgspec.json.Decoder(_Control)
_specifications = msgspec.json.Decoder(Specification)
_catalogs = msgspec.json.Decoder(Discovered)
_verdicts = msgspec.json.Decoder(Verdict)


def read_lines(lines: Iterable[bytes]) -> Iterator[Heard]:
    """Yields the messages of lines in their order; rows of one stream that follow each other come together, as `JsonRows`.

    Raises:
        Permanent: as `read_line`, behind the messages of the lines before.
    """
    decode, name, space = _lines.decode, "", None
    rows: list[bytes] = []
    for line in lines:
        record: _Record | None = None
        try:
            if line.isascii() or line.decode():  # the decoder looks into no text of a row
                said = decode(line)
                record = said.record if said.type == "RECORD" else None
        except UNREADABLE:
            pass  # `read_line` says what it is
        if record is not None and (data := bytes(record.data)).startswith(b"{"):
            if record.stream != name or record.namespace != space or len(rows) >= MOST_ROWS:
                if rows:
                    yield JsonRows(StreamName(name, space or None), rows)
                rows, name, space = [], record.stream, record.namespace
            rows.append(data)
            continue
        if rows:
            yield JsonRows(StreamName(name, space or None), rows)
            rows = []
        if (heard := read_line(line)) is not None:
            yield heard
    if rows:
        yield JsonRows(StreamName(name, space or None), rows)


def read_line(line: bytes) -> Heard | None:
    """Returns the message of a line; None for one that says nothing to us.

    Raises:
        Permanent: it holds a row, a state, new options or an answer that cannot be read.
    """
    said = message_of(line, _lines, _HOLDS_A_MESSAGE)
    if said is None or isinstance(said, Said):
        return said
    match said.type:
        case "RECORD":
            record = said.record
            if record is None:
                raise unreadable(line, "it has no `record`")
            data = bytes(record.data)
            if data[:1] != b"{":
                raise unreadable(line, "its `data` is no object")
            emitted = record.emitted_at
            return Row(StreamName(record.stream, record.namespace or None), data, int(emitted) if 0 < emitted < _LATEST else 0)
        case "STATE":
            return _checkpoint(_content(_states, said.state, line), bytes(said.state), line)
        case "CONTROL":
            changed = _content(_controls, said.control, line).changed
            if changed is None:
                return None
            config = bytes(changed.config)
            if config[:1] != b"{":
                raise unreadable(line, "its `config` is no object")
            return NewOptions(config)
        case "LOG":
            try:
                log = _logs.decode(said.log)
            except UNREADABLE:
                return plain(line)
            return Said(_LEVELS.get(log.level, "info"), log.message)
        case "TRACE":
            try:
                return _trace(_traces.decode(said.trace))
            except UNREADABLE:
                return Failure(f"an error that cannot be read: {shown(line)}") if _AN_ERROR.search(said.trace) else plain(line)
        case "SPEC":
            return _content(_specifications, said.spec, line)
        case "CATALOG":
            return _content(_catalogs, said.catalog, line)
        case "CONNECTION_STATUS":
            return _content(_verdicts, said.verdict, line)
    return None


def _content(decoder: msgspec.json.Decoder[T], content: msgspec.Raw, line: bytes) -> T:
    try:
        return decoder.decode(content)
    except UNREADABLE as exc:
        raise unreadable(line, exc if bytes(content) else "it has no content") from exc


def _checkpoint(state: _State, written: bytes, line: bytes) -> Checkpoint:
    rows = int(state.stats.rows) if state.stats and state.stats.rows is not None else None
    match state.type:
        case "STREAM" if state.stream is not None:
            return Checkpoint(_name(state.stream.stream_descriptor), written, rows)
        case "GLOBAL" | "LEGACY" | None:
            return Checkpoint(None, written, rows)
    raise unreadable(line, "a state is of a stream, `GLOBAL` or `LEGACY`")


def _trace(trace: _Trace) -> Heard | None:
    if trace.type == "ERROR" and trace.error:
        return trace.error
    if trace.type == "STREAM_STATUS" and trace.status and trace.status.status in ("COMPLETE", "INCOMPLETE"):
        return Ended(_name(trace.status.stream_descriptor), trace.status.status == "COMPLETE")
    if trace.type == "ESTIMATE" and (guess := trace.estimate):
        stream = StreamName(guess.name, guess.namespace or None) if guess.name else None
        return Estimate(stream, _whole(guess.row_estimate), _whole(guess.byte_estimate))
    return None


def _name(of: Descriptor) -> StreamName:
    return StreamName(of.name, of.namespace or None)


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)
