"""One line of a tap's output becomes a message. Pure.

The specification: https://hub.meltano.com/singer/spec. A tap writes one JSON object a line: SCHEMA before the rows of a stream,
RECORD, STATE (one for all streams, behind the rows that it covers), ACTIVATE_VERSION. A row stays as the tap wrote it. Types that are
not known here are left out; BATCH names files of rows, and is refused: left out, its rows would be lost without a word.
"""

from __future__ import annotations

import re
from datetime import datetime

import msgspec

from connector_runner.contract import Checkpoint, Row, Said, StreamName
from connector_runner.programs.lines import message_of, shown, unreadable
from shared.errors import Permanent

_HOLDS_A_MESSAGE = re.compile(rb'"type"\s*:\s*"(?:RECORD|STATE|BATCH|SCHEMA)"')


class Announced(msgspec.Struct, frozen=True):
    """A SCHEMA message: the tap reads this stream."""

    stream: str


class _Line(msgspec.Struct, frozen=True, gc=False):
    type: str
    stream: str | None = None
    record: msgspec.Raw = msgspec.Raw(b"")
    time_extracted: str | None = None
    value: msgspec.Raw = msgspec.Raw(b"")


_lines = msgspec.json.Decoder(_Line)


def read_line(line: bytes) -> Row | Checkpoint | Said | Announced | None:
    """Returns the message of a line; None for one that says nothing to us.

    Raises:
        Permanent: it holds a row or a state that cannot be read.
    """
    said = message_of(line, _lines, _HOLDS_A_MESSAGE)
    if said is None or isinstance(said, Said):
        return said
    match said.type:
        case "RECORD":
            data = bytes(said.record)
            if said.stream is None or data[:1] != b"{":
                raise unreadable(line, "it has no `stream`, or its `record` is no object")
            return Row(StreamName(said.stream), data, _milliseconds(said.time_extracted))
        case "STATE":
            value = bytes(said.value)
            if value[:1] != b"{":
                raise unreadable(line, "its `value` is no object")
            return Checkpoint(None, value)
        case "SCHEMA":
            if said.stream is None:
                raise unreadable(line, "it has no `stream`")
            return Announced(said.stream)
        case "BATCH":
            raise Permanent(
                f"the tap writes rows into files, which are not read: {shown(line)}; leave `batch_config` out of its config"
            )
    return None


def _milliseconds(written: str | None) -> int:
    if written is None:
        return 0
    try:
        return int(datetime.fromisoformat(written).timestamp() * 1000)
    except (ValueError, OverflowError):
        return 0
