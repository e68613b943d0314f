"""An Arrow stream that arrives in pieces: gives each record batch as soon as all its bytes are there. Pure.

pyarrow reads a stream only from what can be read blocking. A message of the format says its length before its body, so the pieces
are cut into messages here and each whole message is pyarrow's. https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import unpack_from
from typing import Any

from shared.errors import Permanent

_CONTINUES = 0xFFFFFFFF
_MOST_BYTES = 1 << 30
"""No honest message is longer."""
_BODY_LENGTH = 4 + 2 * 3
"""Where the table of a message says the place of its fourth field, the length of the body."""


class ArrowPieces:
    """Cuts one Arrow stream into record batches. `ended`: its end came."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._schema: Any = None
        self.ended = False

    @property
    def rest(self) -> bytes:
        """Bytes that are no whole message, at most some thousand: words of the server that came instead of one."""
        return bytes(self._bytes[-8192:])

    def feed(self, data: bytes) -> Iterator[Any]:
        """Takes bytes as they come, and yields the record batches that they complete.

        Raises:
            Permanent: they are no Arrow stream.
        """
        import pyarrow as pa

        self._bytes += data
        while not self.ended and (length := self._whole()) is not None:
            message = pa.ipc.read_message(pa.py_buffer(bytes(memoryview(self._bytes)[:length])))
            del self._bytes[:length]
            if message.type == "schema":
                self._schema = pa.ipc.read_schema(message)
            elif message.type == "record batch":
                yield pa.ipc.read_record_batch(message, self._schema)

    def _whole(self) -> int | None:
        """Returns the length of the first message; None if it is not whole. Takes note of the end."""
        bytes_ = self._bytes
        if len(bytes_) < 8:
            return None
        mark, size = unpack_from("<II", bytes_)
        if mark != _CONTINUES or size > _MOST_BYTES:
            raise Permanent("the answer is no Arrow stream")
        if size == 0:
            self.ended = True
            return None
        if len(bytes_) < 8 + size:
            return None
        table = 8 + unpack_from("<I", bytes_, 8)[0]
        fields = table - unpack_from("<i", bytes_, table)[0]
        place = unpack_from("<H", bytes_, fields + _BODY_LENGTH)[0] if unpack_from("<H", bytes_, fields)[0] > _BODY_LENGTH else 0
        body = unpack_from("<q", bytes_, table + place)[0] if place else 0
        if not 0 <= body <= _MOST_BYTES:
            raise Permanent("the answer is no Arrow stream")
        whole: int = 8 + size + body
        return whole if len(bytes_) >= whole else None
