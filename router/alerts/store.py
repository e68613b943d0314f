"""Where alerts keep things in the broker: what was told, silences, and the test messages that a person asks for.

What was told and silences are in the bucket `state`; a question and its answer are in the bucket `leases`, and vanish.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterable, Mapping, Sequence

import msgspec

from router.alerts.dead import DeadMark
from router.alerts.judge.ledger import Ledger
from shared.errors import UNREADABLE, Conflict, Fenced, PenstockError
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket

MEMORY_KEY = "alerts.memory"
LEDGERS = "alerts.ledger."
SILENCES = "alerts.silence."
HISTORIES = "alerts.history."
MOST_LEDGER_BYTES = 900_000
"""The broker takes a megabyte; a ledger with long words of many faults is cut."""
CUT_WHY = 40
NOTE_SECONDS = 120.0
"""How often it is noted that a router looks."""
PAUSE_SECONDS = 300.0
"""Without a look for longer, the watch began again."""
MISSING_SECONDS = 60.0
"""A service of which no process reports for longer is missed."""
FORGOTTEN_SECONDS = 24 * 3600.0
"""A service that is gone for longer was taken away."""
ALL = "ALL"
"""Stands for every alert; no alert has such a name."""
MOST_SILENCES = 100
ASK_SECONDS = 60.0
_ASKS, _ANSWERS = "alerts-ask.", "alerts-answer."


class Silence(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing is told until a time (epoch seconds). `about`: the key of a fault, or a name that it has: of a connection, its site or destination,
    a sync and so on; empty: anything."""

    until: float
    about: str = ""

    def covers(self, key: str, names: Sequence[str], now: float) -> bool:
        """Whether it holds for a fault of a key and names."""
        return now < self.until and self.about in ("", key, key.partition(" ")[2], *names)


class Answer(msgspec.Struct, frozen=True):
    """What became of a test message. `why` is empty if it was taken."""

    asked: str
    why: str


class Memory(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What looks remember for all alerts, as it is stored. Times are epoch seconds. `services`: when a process of each was seen last."""

    dead: DeadMark = DeadMark()
    watched_since: float = 0.0
    looked_at: float = 0.0
    services: dict[str, float] = {}

    def watched(self, now: float) -> Memory:
        """Returns the memory at a look: the watch goes on, or began again after a pause."""
        if not 0 <= now - self.looked_at <= PAUSE_SECONDS:
            # what was missed in the pause is not missing: the processes come back, too
            return msgspec.structs.replace(self, watched_since=now, looked_at=now, services=dict.fromkeys(self.services, now))
        return msgspec.structs.replace(self, looked_at=now) if now - self.looked_at >= NOTE_SECONDS else self

    def seen(self, running: Iterable[str], now: float) -> dict[str, float]:
        """Returns when a process of each service was seen last, to two minutes, without services that are gone for a day."""
        kept = {name: at for name, at in self.services.items() if 0 <= now - at < FORGOTTEN_SECONDS}
        return kept | {name: now for name in running if not 0 <= now - kept.get(name, 0.0) < NOTE_SECONDS}

    def missing(self, running: Container[str], now: float) -> dict[str, str]:
        """Returns the services of which no process reports, with what to do."""
        why = "no process of it runs or reaches the broker; if it was taken away, this ends after a day"
        gone = [name for name, at in self.services.items() if name not in running and now - at >= NOTE_SECONDS + MISSING_SECONDS]
        return {f"{name}: processes": why for name in gone}


class Cell:
    """A value of the bucket `state` that only the holder of a lease writes: a former holder finds that its writes fail. It is read once."""

    def __init__(self, broker: Broker, key: str) -> None:
        self._bucket = Bucket(broker, topology.STATE_BUCKET)
        self._key = key
        self._revision = 0
        self._loaded = False
        self._value: bytes | None = None
        self._written: bytes | None = None

    async def value(self) -> bytes | None:
        """Returns the value.

        Raises:
            NotConnected: the broker does not answer.
        """
        if not self._loaded:
            entry = await self._bucket.get(self._key)
            self._revision = entry.revision if entry is not None else 0
            self._value = self._written = entry.value if entry is not None else None
            self._loaded = True
        return self._value

    async def keep(self, value: bytes, *, unless: bool = False) -> None:
        """Takes a new value, and writes it if it is another one; `unless`: what differs is not worth a write.

        Raises:
            Fenced: another process wrote it.
            NotConnected, Transient: it is not known to be written.
        """
        self._value = value
        if value == self._written or unless:
            return
        try:
            self._revision = await self._bucket.put(self._key, value, revision=self._revision)
        except Conflict as exc:
            self._loaded = False
            raise Fenced(f"another router wrote {self._key}") from exc
        except PenstockError:
            self._loaded = False  # it may be written
            raise
        self._written = value


async def remove_others(broker: Broker, alerts: Mapping[str, object], sites: Container[str]) -> None:
    """Removes what was told by alerts, and counted of sites, that left the project; without any alert also what looks remember.

    An alert that comes back later tells what is wrong then, as a new one does.

    Raises:
        NotConnected: the broker does not answer.
    """
    bucket = Bucket(broker, topology.STATE_BUCKET)
    for prefix, kept in ((LEDGERS, alerts), (HISTORIES, sites)):
        for key in await bucket.keys(prefix):
            if key.removeprefix(prefix) not in kept and (entry := await bucket.get(key)) is not None:
                await bucket.erase(entry.revision)
    if not alerts and (entry := await bucket.get(MEMORY_KEY)) is not None:
        await bucket.erase(entry.revision)


def encode_ledger(ledger: Ledger) -> bytes:
    """Returns a ledger as it is stored; where its words are too long for the broker, without most of them."""
    encoded = msgspec.json.encode(ledger)
    if len(encoded) <= MOST_LEDGER_BYTES:
        return encoded
    faults = {
        key: msgspec.structs.replace(each, why=each.why[:CUT_WHY], title=each.title[:CUT_WHY], sample={})
        for key, each in ledger.faults.items()
    }
    return msgspec.json.encode(msgspec.structs.replace(ledger, faults=faults))


def decode_ledger(value: bytes | None) -> Ledger:
    """Returns a stored ledger; an empty one in place of what cannot be read."""
    with contextlib.suppress(*UNREADABLE):
        if value:
            return msgspec.json.decode(value, type=Ledger)
    return Ledger()


def decode_memory(value: bytes | None) -> Memory:
    """Returns the stored memory; an empty one in place of what cannot be read."""
    with contextlib.suppress(*UNREADABLE):
        if value:
            return msgspec.json.decode(value, type=Memory)
    return Memory()


async def read_ledgers(broker: Broker, names: Sequence[str]) -> dict[str, Ledger]:
    """Returns what each alert has told.

    Raises:
        NotConnected: the broker does not answer.
    """
    found = await Bucket(broker, topology.STATE_BUCKET).get_many([LEDGERS + name for name in names])
    return {name: decode_ledger(entry.value if (entry := found.get(LEDGERS + name)) else None) for name in names}


async def read_silences(broker: Broker, now: float) -> dict[str, list[Silence]]:
    """Returns the silences that hold, by alert, or under `ALL`.

    Raises:
        NotConnected: the broker does not answer.
    """
    found: dict[str, list[Silence]] = {}
    for entry in await Bucket(broker, topology.STATE_BUCKET).entries(SILENCES):
        with contextlib.suppress(*UNREADABLE):
            silences = msgspec.json.decode(entry.value or b"[]", type=list[Silence])
            if kept := [each for each in silences if now < each.until]:
                found[entry.key.removeprefix(SILENCES)] = kept
    return found


async def write_silence(broker: Broker, alert: str, silence: Silence, now: float) -> None:
    """Adds a silence, or changes the one about the same; one whose time is over ends it, and one about everything ends all.

    Args:
        alert: its name, or `ALL`.

    Raises:
        NotConnected, Transient: it is not known to be written.
    """
    bucket = Bucket(broker, topology.STATE_BUCKET)
    while True:
        entry = await bucket.get(SILENCES + alert)
        before: list[Silence] = []
        with contextlib.suppress(*UNREADABLE):  # of another version
            before = msgspec.json.decode(entry.value, type=list[Silence]) if entry is not None and entry.value else []
        begins = now < silence.until
        kept = [each for each in before if now < each.until and each.about != silence.about and (begins or silence.about)]
        after = [*kept, *([silence] if begins else [])][-MOST_SILENCES:]
        try:
            await bucket.put(SILENCES + alert, msgspec.json.encode(after), revision=entry.revision if entry is not None else 0)
        except Conflict:
            continue
        return


def is_silent(silences: Mapping[str, Sequence[Silence]], alert: str, key: str, names: Sequence[str], *, now: float) -> bool:
    """Whether nothing is to be told of a fault now. Pure."""
    return any(each.covers(key, names, now) for each in (*silences.get(ALL, ()), *silences.get(alert, ())))


async def ask_test(broker: Broker, alert: str, asked: str) -> None:
    """Asks the router that evaluates for a test message.

    Raises:
        NotConnected, Transient: not known to be asked.
    """
    await Bucket(broker, topology.LEASE_BUCKET).put(_ASKS + alert, asked.encode(), ttl_seconds=ASK_SECONDS)


async def asked_tests(broker: Broker, alerts: Sequence[str]) -> dict[str, str]:
    """Returns the questions for test messages, by alert.

    Raises:
        NotConnected: the broker does not answer.
    """
    found = await Bucket(broker, topology.LEASE_BUCKET).get_many([_ASKS + name for name in alerts])
    return {key.removeprefix(_ASKS): (entry.value or b"").decode() for key, entry in found.items()}


async def write_answer(broker: Broker, alert: str, answer: Answer) -> None:
    """Says what became of a test message.

    Raises:
        NotConnected, Transient: not known to be said.
    """
    await Bucket(broker, topology.LEASE_BUCKET).put(_ANSWERS + alert, msgspec.json.encode(answer), ttl_seconds=ASK_SECONDS)


async def read_answer(broker: Broker, alert: str, asked: str) -> Answer | None:
    """Returns what became of a test message; None: nothing yet.

    Raises:
        NotConnected: the broker does not answer.
    """
    entry = await Bucket(broker, topology.LEASE_BUCKET).get(_ANSWERS + alert)
    answer = msgspec.json.decode(entry.value, type=Answer) if entry is not None and entry.value else None
    return answer if answer is not None and answer.asked == asked else None
