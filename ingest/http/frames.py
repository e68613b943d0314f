"""Counts a WebSocket's incomplete messages, and messages that wait because the client reads nothing, within the bytes of all
bodies.

Until a key opens a site the bound is small: a stranger needs room for a key, not for events. aiohttp joins the frames of a
message, unpacks it, and shows it only when it is complete, so the bytes are counted as they come from the socket. They count for
the client's address too: one client with many connections cannot use up the room of all others.

After our side closed, aiohttp throws away all further bytes until the client closes too. They do not count as held; a client that
goes on sending is cut off.
"""

from __future__ import annotations

from ingest.limits.bounds import Bounds, Held

STRANGER_BYTES = 16 * 1024
TOO_BIG = b"\x88\x02\x03\xf1"
"""Close frame 1009."""
TRY_AGAIN = b"\x88\x02\x03\xf5"
"""Close frame 1013."""


class Frames:
    """The bytes of one connection.

    Args:
        whole: the largest message.
        address: the name under which the client is counted; empty: it is not counted.
        stranger: no key has opened a site yet.
    """

    def __init__(self, bounds: Bounds, whole: int, address: str, *, stranger: bool) -> None:
        self._held = Held(bounds)
        self._waiting = Held(bounds)
        for held in (self._held, self._waiting):
            held.belongs_to(address, stranger=False)  # a stranger holds next to nothing
        self._whole = whole
        self._chunk = 0
        self._late: int | None = None
        """The bytes that came after our side closed."""
        self.stranger = stranger
        self.farewell = b""

    def feed(self, size: int) -> bool:
        """Counts received bytes; False if the connection must end, with `farewell` as its last frame."""
        if self._late is not None:
            self._late += size
            self.farewell = b""
            return self._late <= (STRANGER_BYTES if self.stranger else self._whole)
        self._chunk = size
        unfinished = self._held.bytes + size
        if self.stranger and unfinished > STRANGER_BYTES:
            self.farewell = TOO_BIG
            return False
        if not self._held.grow_to(unfinished):
            self.farewell = TRY_AGAIN
            return False
        return True

    def taken(self) -> None:
        """Notes that a message was taken out: only bytes of the last read can remain."""
        self._held.shrink_to(min(self._held.bytes, self._chunk))

    def close(self) -> None:
        """Notes that our side closes: further bytes are thrown away."""
        if self._late is None:
            self._late = 0
            self._held.free()

    def block(self) -> bool:
        """Notes that the client reads nothing, so one unpacked message may wait; False if there is no room for it."""
        return self.stranger or self._waiting.grow_to(self._whole)

    def unblock(self) -> None:
        """Notes that the client reads again."""
        self._waiting.free()

    def free(self) -> None:
        """Frees all bytes: the connection is closed."""
        self._held.free()
        self._waiting.free()
