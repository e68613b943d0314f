"""Cuts a stream of bytes into lines of bounded length, and says what is wrong with one. Pure."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from connector_runner.contract import Said
from shared.errors import Permanent

T = TypeVar("T")
SHOWN_CHARACTERS = 200
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoders of lines raise."""


class Lines:
    """The lines of one stream.

    Args:
        longest: bytes of the longest line.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._parts: list[bytes] = []
        self._held = 0

    def add(self, chunk: bytes) -> list[bytes]:
        """Returns the lines that a chunk ends, without their line ends.

        Raises:
            Permanent: a line is too long.
        """
        first, found, rest = chunk.partition(b"\n")
        self._keep(first)
        if not found:
            return []
        lines = [self.rest(), *rest.split(b"\n")]
        self._keep(lines.pop())
        return lines

    def rest(self) -> bytes:
        """Returns the line that has no end yet, and forgets it."""
        line = b"".join(self._parts)
        self._parts, self._held = [], 0
        return line

    def _keep(self, part: bytes) -> None:
        self._held += len(part)
        if self._held > self._longest:
            raise Permanent(
                f"the connector wrote a line of more than {self._longest >> 20} MiB; leave large columns out, or raise `max_line`"
            )
        if part:
            self._parts.append(part)


def message_of(line: bytes, decoder: msgspec.json.Decoder[T], holds: re.Pattern[bytes]) -> T | Said | None:
    """Returns what a decoder of messages reads in a line; else the line as it is, for people; None if it is blank.

    Args:
        holds: finds the mark of a message in a line that cannot be read.

    Raises:
        Permanent: a message would be lost without a word.
    """
    try:
        if not line.isascii():
            line.decode()  # the decoder looks into no text of a row
        return decoder.decode(line)
    except UNREADABLE as exc:
        if holds.search(line):
            raise unreadable(line, exc) from exc
        return plain(line)


def plain(line: bytes) -> Said | None:
    """Returns a line that is no message, for people; None if it is blank."""
    text = line.decode("utf-8", "replace").strip()
    return Said("info", text) if text else None


def shown(line: bytes) -> str:
    """Returns the beginning of a line, for people."""
    text = line[: SHOWN_CHARACTERS * 4].decode("utf-8", "replace")
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def unreadable(line: bytes, why: object) -> Permanent:
    """Returns the error of a line that would be lost without a word."""
    return Permanent(f"the connector wrote a message that cannot be read ({why}): {shown(line)}")
