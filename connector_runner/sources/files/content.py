"""The bytes of a file as its readers take them: up to the place where it breaks off, and with marks where they are no text."""

from __future__ import annotations

import codecs
import io
import re
import sys
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer as Buffer

NO_TEXT = "\ufdd0"
"""Stands for a byte that is no text, until the row with it is found; no character of any text."""
_ESCAPED = re.compile("[\udc80-\udcff]")
_TAIL_BYTES = 64
_BREAK_BYTES = 1 << 16
"""Bytes of one read of a file; where one fails, only its bytes are missing."""


class ToTheBreak(io.RawIOBase):
    """A file that ends where it cannot be read on. `error`: why.

    Arrow reads ahead, and an error there takes the place of the good blocks before it that nobody has taken yet. So it sees an end, and the error
    comes behind the rows.
    """

    def __init__(self, content: IO[bytes]) -> None:
        self._content = content
        self.error: Exception | None = None

    def readable(self) -> bool:
        """It can be read."""
        return True

    def readinto(self, buffer: Buffer) -> int:
        """Puts more bytes into a buffer; returns how many."""
        view = memoryview(buffer)
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def read(self, size: int = -1) -> bytes:
        """Returns more bytes: as many as asked for, or all up to the end or the break."""
        import pyarrow as pa

        pieces, left = [], size if size >= 0 else sys.maxsize
        while left and self.error is None:
            try:
                piece = self._content.read(min(left, _BREAK_BYTES))
            except (pa.ArrowException, OSError, EOFError) as exc:
                self.error = exc
                break
            if not piece:
                break
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)


class Texts(io.RawIOBase):
    """A file of UTF-8, in which a mark stands for each byte that is none. `mended`: whether there was one."""

    def __init__(self, content: ToTheBreak) -> None:
        self._content = content
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._tail = b""
        self.mended = False

    def readable(self) -> bool:
        """It can be read."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Returns more bytes; a few more than asked for where some were mended, and a few less where a character goes on."""
        data = self._content.read(size)
        self._tail = data[-_TAIL_BYTES:] or self._tail
        if data.isascii() and data and not self._decoder.getstate()[0]:
            return data
        text = self._decoder.decode(data, not data)
        try:
            return text.encode()
        except UnicodeEncodeError:
            self.mended = True
            return _ESCAPED.sub(NO_TEXT, text).encode()

    def ends_open(self, quote: str) -> bool:
        """Whether a quoted value at the end of the file, which was read to there, cannot be closed."""
        return not self._tail.rstrip().endswith(quote.encode())
