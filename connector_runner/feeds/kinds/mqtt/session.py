"""Which number a message of MQTT has, also when it comes again. Pure.

A broker that got no acknowledgement sends a packet again, marked DUP, under the same packet id. So a repeat is a DUP packet whose id
and content stand in the note of the packets that were read. An entry leaves the note once the broker has shown that it knows the
acknowledgement: it answered a request that came behind it.

Three limits follow from the protocol:

- A broker that restarts may number packets from 1 again (nats-server does). Then a repeat is found by its content alone, but only if the
  former reader ended in order: only then is it certain which packets it did not acknowledge. After a kill it comes twice.
- A broker that forgot an acknowledgement, because it died, sends the message again: it comes twice.
- A broker that uses freed packet ids again at once could send a new message that looks like a repeat. The session notices such a
  broker, and takes no packet for a repeat from then on: better twice than not at all.
"""

from __future__ import annotations

import uuid
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from hashlib import blake2b

import msgspec

FORMER_NUMBERS = 20_000
"""After so many new messages the packets of a former reader are forgotten: their ids come round again."""
HALF = 32_768
"""Packet ids begin again behind 65,535: a step back by more than this is that."""


class Entry(msgspec.Struct, array_like=True):
    """A packet that was read."""

    packet: int
    content: bytes
    number: int
    acknowledged: bool = False


class Note(msgspec.Struct):
    """What stands in the bucket.

    `closed`: the reader ended in order, so entries that are not `acknowledged` certainly come again.
    """

    session: str = ""
    next: int = 1
    topics: list[str] = []
    entries: list[Entry] = []
    reuses: bool = False
    closed: bool = False


class Session:
    """Numbers the messages of one connection.

    Args:
        note: of the reader before; None: there was none.
        kept: whether the broker has kept the session. If it has not, nothing comes again.
    """

    def __init__(self, note: Note | None, *, kept: bool) -> None:
        self.name = note.session if note is not None else uuid.uuid4().hex[:12]
        self.topics: Sequence[str] = note.topics if note is not None and kept else ()
        self._next = note.next if note is not None else 1
        self._reuses = note.reuses if note is not None else False
        self._last = 0
        entries = note.entries if note is not None and kept else []
        self._former = {entry.number: entry for entry in entries}
        """Entries of a former reader whose packets have not come again."""
        self._former_until = self._next + FORMER_NUMBERS
        self._by_packet = {entry.packet: entry for entry in entries}
        self._owed: defaultdict[bytes, deque[Entry]] = defaultdict(deque)
        """Entries that certainly come again; their packet id may be another one."""
        if note is not None and note.closed:
            for entry in entries:
                if not entry.acknowledged:
                    self._owed[entry.content].append(entry)

    def number(self, packet: int, content: bytes, *, again: bool) -> int:
        """Returns the number of a message.

        Args:
            packet: its packet id; 0: it has QoS 0, and never comes again.
            content: its `digest`.
            again: whether it is marked DUP.
        """
        if not packet:
            return self._new()
        if again:
            entry = self._repeated(packet, content)
            if entry is not None:
                if self._by_packet.get(entry.packet) is entry:
                    del self._by_packet[entry.packet]
                self._former.pop(entry.number, None)
                entry.packet, entry.acknowledged = packet, False
                self._by_packet[packet] = entry
                return entry.number
        else:
            self._reuses = self._reuses or 0 <= self._last - packet < HALF
            self._last = packet
        made = Entry(packet, content, self._new())
        self._by_packet[packet] = made
        return made.number

    def acknowledged(self, packets: Iterable[int]) -> list[Entry]:
        """Notes that packets are acknowledged; returns their entries, for `forget`."""
        entries = [self._by_packet[packet] for packet in packets if packet in self._by_packet]
        for entry in entries:
            entry.acknowledged = True
        return entries

    def forget(self, entries: Iterable[Entry]) -> None:
        """Forgets entries whose acknowledgement the broker knows."""
        for entry in entries:
            if entry.acknowledged and self._by_packet.get(entry.packet) is entry:
                del self._by_packet[entry.packet]

    def forget_former(self) -> None:
        """Forgets packets of a former reader that have not come again."""
        for entry in self._former.values():
            if self._by_packet.get(entry.packet) is entry:
                del self._by_packet[entry.packet]
            if entry in self._owed.get(entry.content, ()):
                self._owed[entry.content].remove(entry)
        self._former.clear()

    @property
    def holds(self) -> int:
        """How many entries a note has."""
        return len(self._entries())

    def note(self, *, closed: bool = False) -> Note:
        """Returns what the next reader must know."""
        return Note(
            session=self.name,
            next=self._next,
            topics=list(self.topics),
            entries=self._entries(),
            reuses=self._reuses,
            closed=closed,
        )

    def _repeated(self, packet: int, content: bytes) -> Entry | None:
        entry = self._by_packet.get(packet)
        owed = self._owed.get(content)
        if entry is not None and entry.content == content and not self._reuses:
            if owed and entry in owed:
                owed.remove(entry)
            return entry
        return owed.popleft() if owed else None

    def _entries(self) -> list[Entry]:
        found = {entry.number: entry for entry in self._by_packet.values()}
        found.update({entry.number: entry for owed in self._owed.values() for entry in owed})
        return list(found.values())

    def _new(self) -> int:
        if self._next == self._former_until:
            self.forget_former()
        self._next += 1
        return self._next - 1


def digest(topic: str, payload: bytes, more: Iterable[tuple[str, bytes]]) -> bytes:
    """Returns the mark of a message's content."""
    made = blake2b(topic.encode("utf-8", "surrogatepass"), digest_size=8)
    for name, value in more:
        made.update(b"\0%b\0%b" % (name.encode("utf-8", "surrogatepass"), value))
    made.update(b"\0")
    made.update(payload)
    return made.digest()
