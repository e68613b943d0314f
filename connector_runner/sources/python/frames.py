"""What the user's program writes on its pipe: frames of a kind, a length and a content. Pure.

A frame is one byte of kind, four bytes of length (the largest first) and the content. Kinds: `R` the name of a stream and rows of
JSON, each on a line; `A` the length of the name of a stream in two bytes, the name, and an Arrow stream; all others hold JSON.
"""

from __future__ import annotations

from typing import NamedTuple

from shared.errors import Permanent

HEAD_BYTES = 5


class Frame(NamedTuple):
    """One frame; `kind` is its letter."""

    kind: str
    content: memoryview


class Frames:
    """Cuts bytes into frames.

    Args:
        longest: bytes of the longest content.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._held = bytearray()

    def add(self, chunk: bytes) -> list[Frame]:
        """Returns the frames that a chunk ends.

        Raises:
            Permanent: a frame is too long.
        """
        self._held += chunk
        found, place = [], 0
        while len(self._held) - place >= HEAD_BYTES:
            size = int.from_bytes(self._held[place + 1 : place + HEAD_BYTES], "big")
            if size > self._longest:
                raise Permanent(
                    f"the connector gave a row of more than {self._longest >> 20} MiB; leave large columns out, or raise `max_line`"
                )
            end = place + HEAD_BYTES + size
            if len(self._held) < end:
                break
            found.append(Frame(chr(self._held[place]), memoryview(bytes(self._held[place + HEAD_BYTES : end]))))
            place = end
        del self._held[:place]
        return found
