"""Files of events as they lie around: plain, gzip, cut off, with a mark at their beginning, an array, a line without end."""

from __future__ import annotations

import gzip
import io
import json
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import pytest

from penstock.control.data import lines
from penstock.control.data.lines import Lines
from shared.errors import SetupError

EVENTS = [json.dumps({"type": "track", "event": f"e{number}", "userId": "u"}).encode() for number in range(1000)]
TEXT = b"\n".join(EVENTS)


def write(folder: Path, content: bytes) -> Path:
    file = folder / "events"
    file.write_bytes(content)
    return file


@pytest.mark.parametrize(
    "content",
    [TEXT, TEXT + b"\n", b"\xef\xbb\xbf" + TEXT, gzip.compress(TEXT, mtime=0), gzip.compress(b"\xef\xbb\xbf" + TEXT, mtime=0)],
)
def test_the_lines_of_a_file_are_its_events_however_it_is_packed(content: bytes, tmp_path: Path) -> None:
    with Lines(write(tmp_path, content)) as read:
        assert [line.strip() for line in read] == EVENTS
        assert read.bytes_read == len(content) == read.size


@pytest.mark.parametrize("content", [TEXT, gzip.compress(TEXT, mtime=0)])
def test_standard_input_may_be_packed_too(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BufferedReader(io.BytesIO(content))))
    read = Lines(Path("-"))
    assert read.size is None
    assert [line.strip() for line in read] == EVENTS


def test_an_empty_file_has_no_lines(tmp_path: Path) -> None:
    with Lines(write(tmp_path, b"")) as read:
        assert list(read) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(TEXT, mtime=0)[:-200], "cannot be read to its end"),
        (gzip.compress(TEXT, mtime=0)[:40] + b"\0" * 100, "cannot be read to its end"),
        (b' [{"type": "page"}]', "JSON array; expected one event a line"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_told(content: bytes, said: str, tmp_path: Path) -> None:
    with Lines(write(tmp_path, content)) as read, pytest.raises(SetupError, match=said):
        list(read)


def test_a_line_without_end_costs_bounded_memory_and_its_neighbours_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "LINE_BYTES", 10_000)
    file = write(tmp_path, b'{"a": 1}\n{"b": "' + b"x" * 5_000_000 + b'"}\n{"c": 3}')
    tracemalloc.start()
    with Lines(file) as read:
        first, second, third = read
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    assert (first, len(second), third) == (b'{"a": 1}\n', 10_000, b'{"c": 3}')
