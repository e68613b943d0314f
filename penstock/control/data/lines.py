"""The lines of a file of events, as `penstock send` reads them: plain or gzip, in bounded memory, with how far it got."""

from __future__ import annotations

import gzip
import io
import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Self, cast

from shared.errors import SetupError

LINE_BYTES = 32 * 1024 * 1024
"""Bytes kept of a line; more than any event that an edge takes, so the edge refuses a longer line."""

_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"


class Lines:
    """Iterates over lines. `bytes_read` is how much of the file was read, `size` how much there is; None for standard input."""

    def __init__(self, file: Path) -> None:
        self._name = "standard input" if str(file) == "-" else str(file)
        try:
            source = sys.stdin.buffer if str(file) == "-" else file.open("rb")
            self.size = None if str(file) == "-" else os.stat(file).st_size
        except OSError as exc:
            raise SetupError(f"{self._name} cannot be read: {exc.strerror}") from exc
        self._raw = source if isinstance(source, io.BufferedReader) else io.BufferedReader(cast("io.RawIOBase", source))
        self._compressed = self._raw.peek(2)[:2] == _GZIP
        self._lines: BinaryIO = gzip.GzipFile(fileobj=self._raw) if self._compressed else self._raw  # type: ignore[assignment]
        self._read = 0

    @property
    def bytes_read(self) -> int:
        """Number of bytes read, before decompression."""
        return self._raw.tell() if self._compressed and self.size is not None else self._read

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()

    def __iter__(self) -> Iterator[bytes]:
        first = True
        try:
            while line := self._lines.readline(LINE_BYTES):
                self._read += len(line)
                if first:
                    line = line.removeprefix(_BOM)
                    self._demand_lines(line)
                    first = False
                rest = line
                while len(rest) == LINE_BYTES and not rest.endswith(b"\n"):
                    rest = self._lines.readline(LINE_BYTES)
                    self._read += len(rest)
                yield line
        except (OSError, EOFError, zlib.error) as exc:
            raise SetupError(f"{self._name} cannot be read to its end: {exc}; part of it was sent") from exc

    def _demand_lines(self, first: bytes) -> None:
        if first.lstrip().startswith(b"["):
            raise SetupError(f"{self._name} is a JSON array; expected one event a line, as `jq -c '.[]'` makes of it")
