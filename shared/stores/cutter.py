"""A file that is written once from beginning to end and handed over in parts, for stores that take objects in parts."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any


class Cutter(io.RawIOBase):
    """The file.

    Args:
        hand_over: takes each part, in order; it may block.
        part_bytes: size of all parts but the last.
    """

    def __init__(self, hand_over: Callable[[io.BytesIO], None], part_bytes: int) -> None:
        self._hand_over = hand_over
        self._part_bytes = part_bytes
        self._part = io.BytesIO()
        self._before = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._before + self._part.tell()

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            done += self._part.write(view[done : done + self._part_bytes - self._part.tell()])
            if self._part.tell() == self._part_bytes:
                self.cut()
        return len(view)

    def cut(self) -> None:
        """Hands over the bytes so far; an object has at least one part."""
        if self._part.tell() or not self._before:
            part, self._part = self._part, io.BytesIO()
            self._before += part.tell()
            self._hand_over(part)
