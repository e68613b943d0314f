"""aiohttp's parser, which here does not lose the requests behind an `Upgrade` that it does not know.

The edge answers a request with an unknown `Upgrade` as if it had not asked (clients offer `h2c`, and go on in HTTP/1.1), so a
request pipelined behind it is the next request. aiohttp's parser drops that one if both came in one piece. So from the first such
header on, the parser gets a connection's data in pieces that end where a request may end. If the end is unknown (chunks, a word
cut in two, too many requests at once), the answer closes the connection, and the client knows that nothing behind it was read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import MAX_MSG_QUEUE_SIZE

Message = tuple[RawRequestMessage, StreamReader]
Fed = tuple[Sequence[Message], bool, bytes]
"""A parser's result: messages, whether the connection changes its protocol, and the bytes in the new one."""

_END = b"\r\n\r\n"


class Parser:
    """A parser of requests that goes on behind an `Upgrade` it does not know."""

    def __init__(self, parser: Any) -> None:
        self._parser = parser
        self._careful = False
        self._body: StreamReader | None = None
        """The missing part of the newest request. Its head is not kept: it may be large."""
        self._length: int | None = None
        self._under_way = 0
        self._between = False
        """The last piece ended with a request."""
        self.set_upgraded = parser.set_upgraded
        self.pause_reading = parser.pause_reading
        self.feed_eof = parser.feed_eof

    def message_consumed(self) -> None:
        """A request that was returned has been taken."""
        self._under_way -= 1
        self._parser.message_consumed()

    def feed_data(self, data: bytes) -> Fed:
        """Feeds the parser; raises its errors."""
        if self._careful:
            return self._feed_pieces(data)
        size = len(data)
        if self._body is not None and 0 < size <= (self._left() or 0):
            fed: Fed = self._parser.feed_data(data)  # nothing but body
            return fed
        # a body is mostly one long line: it is not searched if the parser knows that it is a body
        line = data.rfind(b"\n") + 1
        if _has_word(data, 0, line):
            self._careful = True
            return self._feed_pieces(data)
        fed = self._parser.feed_data(data)
        last_size = -1
        if fed[0]:
            self._under_way += len(fed[0])
            last = fed[0][-1]
            self._note(last)
            if last[0].upgrade and not fed[1]:
                return _closing(fed[0]), False, b""
            last_size = last[1].total_bytes
        if line < size and size - line != last_size and not self._left():
            self._careful = _has_word(data, line, size)  # in an incomplete line, which the parser has not read
        return fed

    def _feed_pieces(self, data: bytes) -> Fed:
        messages: list[Message] = []
        position, closing = 0, False
        for end in self._ends(data):
            left = self._left()
            fed, upgraded, tail = self._parser.feed_data(data[position:end])
            position = end
            if fed:
                messages += fed
                self._under_way += len(fed)
                self._note(fed[-1])
                # if the parser stops for the number of requests, it cannot also stop for the upgrade
                blind = left is None or fed[-1][0].chunked or self._under_way >= MAX_MSG_QUEUE_SIZE
                if fed[-1][0].upgrade and not upgraded and blind:
                    messages, closing = _closing(messages), True
            self._between = (bool(fed) or left != 0) and self._left() == 0
            if upgraded:
                return messages, True, tail + data[position:]
            if closing and self._left() == 0:
                break
        return messages, False, b""

    def _ends(self, data: bytes) -> Iterator[int]:
        """Yields the ends of pieces: each place at which a request may end, as far as is known when it is reached."""
        position, size = 0, len(data)
        if not size:
            yield 0
        while position < size:
            left = self._left()
            if left is None:
                position = size
            elif left:
                position = min(size, position + left)
            elif position < len(_END) - 1 and not self._between:  # the end of a head may have begun in the piece before
                position += 1
            else:
                found = data.find(_END, max(0, position - len(_END) + 1))
                position = max(position + 1, found + len(_END)) if found >= 0 else size
            yield position

    def _note(self, last: Message) -> None:
        message, payload = last
        if payload is EMPTY_PAYLOAD or payload.is_eof():
            self._body = None
        else:
            self._body = payload
            self._length = None if message.chunked else int(message.headers["content-length"])

    def _left(self) -> int | None:
        """Returns how many bytes of the present body are still to come; None if only its end tells."""
        if self._body is None or self._body.is_eof():
            return 0
        return None if self._length is None else self._length - self._body.total_bytes


def _has_word(data: bytes, start: int, end: int) -> bool:
    return data.find(b"pgrade", start, end) >= 0 or data.find(b"PGRADE", start, end) >= 0


def _closing(messages: Sequence[Message]) -> list[Message]:
    message, payload = messages[-1]
    return [*messages[:-1], (message._replace(should_close=True), payload)]
