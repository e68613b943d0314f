"""One line of a connector's output becomes a message. Pure.

A connector writes one JSON object a line. A row's `data` stays as the connector wrote it: nothing here parses it. A line that is no
object is a line of a log; many connectors print such. A line that looks like a message of the protocol and cannot be read is an
error: if it were left out, a row or a state would be lost without a word.

The protocol: https://docs.airbyte.com/platform/understanding-airbyte/airbyte-protocol. Types and members that are not known here
are left out, as it asks.
"""

from __future__ import annotations

import re
from typing import Any, Literal, TypeVar

import msgspec

from connector_runner.contract import Checkpoint, Ended, Estimate, Level, Message, NewOptions, Row, Said, StreamName
from shared.errors import Permanent

SHOWN_CHARACTERS = 200

T = TypeVar("T")

_LEVELS: dict[str, Level] = {
    "FATAL": "fatal",
    "ERROR": "error",
    "WARN": "warn",
    "INFO": "info",
    "DEBUG": "debug",
    "TRACE": "trace",
}
_LOOKS_LIKE_A_MESSAGE = re.compile(
    rb'\{\s*"type"\s*:\s*"(RECORD|STATE|LOG|TRACE|CONTROL|SPEC|CATALOG|CONNECTION_STATUS)"'
    rb'|"type"\s*:\s*"(RECORD|STATE)"\s*\}?\s*$'
)


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
    type: str = "LEGACY"
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
        """What the connector says of it."""
        return self.message or self.internal_message or "the connector reported an error without words"


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
    log: _Log | None = None
    trace: _Trace | None = None
    control: _Control | None = None
    spec: Specification | None = None
    catalog: Discovered | None = None
    verdict: Verdict | None = msgspec.field(name="connectionStatus", default=None)


Heard = Message | Failure | Verdict | Specification | Discovered
"""The messages of the contract, and the answers that only this protocol has."""

_lines = msgspec.json.Decoder(_Line)
_states = msgspec.json.Decoder(_State)


def read_line(line: bytes) -> Heard | None:
    """Returns the message of a line; None for one that says nothing to us.

    Raises:
        Permanent: it looks like a message of the protocol and is none.
    """
    try:
        said = _lines.decode(line)
        state = _states.decode(said.state) if bytes(said.state) else None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        if _LOOKS_LIKE_A_MESSAGE.search(line[:SHOWN_CHARACTERS]) or _LOOKS_LIKE_A_MESSAGE.search(line[-SHOWN_CHARACTERS:]):
            raise Permanent(f"the connector wrote a message that cannot be read ({exc}): {shown(line)}") from exc
        text = line.decode("utf-8", "replace").strip()
        return Said("info", text) if text else None
    match said.type:
        case "RECORD":
            record = _there(said.record, line)
            return Row(StreamName(record.stream, record.namespace or None), bytes(record.data), int(record.emitted_at))
        case "STATE":
            return _checkpoint(_there(state, line), bytes(said.state), line)
        case "LOG":
            log = _there(said.log, line)
            return Said(_LEVELS.get(log.level, "info"), log.message)
        case "TRACE":
            return _trace(_there(said.trace, line))
        case "CONTROL":
            changed = _there(said.control, line).changed
            return NewOptions(bytes(changed.config)) if changed else None
        case "SPEC":
            return _there(said.spec, line)
        case "CATALOG":
            return _there(said.catalog, line)
        case "CONNECTION_STATUS":
            return _there(said.verdict, line)
    return None


def shown(line: bytes) -> str:
    """Returns the beginning of a line, for people."""
    text = line[: SHOWN_CHARACTERS * 4].decode("utf-8", "replace")
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def _checkpoint(state: _State, written: bytes, line: bytes) -> Checkpoint:
    rows = int(state.stats.rows) if state.stats and state.stats.rows is not None else None
    stream = _name(_there(state.stream, line).stream_descriptor) if state.type == "STREAM" else None
    return Checkpoint(stream, written, rows)


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


def _there(member: T | None, line: bytes) -> T:
    if member is None:
        raise Permanent(f"the connector wrote a message without its content: {shown(line)}")
    return member
