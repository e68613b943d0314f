"""Cuts a stream of bytes into lines of bounded length. Pure."""

from __future__ import annotations

from shared.errors import Permanent


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
