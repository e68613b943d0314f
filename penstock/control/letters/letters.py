"""Finds, counts, shows and removes dead letters by a filter.

A message of DEAD holds the letters of one frame or request; a letter's id is `<sequence>.<index>` of its first place. To remove
some letters of a message, the others are stored again first, so nothing is lost in between; they keep their ids.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

import msgspec
from nats.js.errors import NotFoundError

from shared.errors import ConfigError, Permanent, Problem
from shared.events.dead import DeadLetter, bury, decode_dead
from shared.jetstream import topology
from shared.jetstream.broker import Broker, asking
from shared.jetstream.reader import StreamReader
from shared.tasks import together

SILENCE_SECONDS = 10.0
REMOVED_AT_ONCE = 64
_ID = re.compile(r"[0-9]{1,18}(\.[0-9]{1,9})?")


@dataclass(frozen=True, slots=True)
class Filter:
    """Selects dead letters; a field that is None or empty matches all. `since` is epoch seconds."""

    ids: Collection[str] = ()
    connection: str | None = None
    site: str | None = None
    stage: str | None = None
    reason: str | None = None
    since: float | None = None

    def matches(self, letter: DeadLetter, letter_id: str) -> bool:
        """True if all conditions hold."""
        return (
            (not self.ids or letter_id in self.ids or letter_id.partition(".")[0] in self.ids)
            and self.connection in (None, letter.connection)
            and self.site in (None, letter.site)
            and self.stage in (None, letter.stage)
            and self.reason in (None, str(letter.reason))
            and (self.since is None or letter.at >= self.since)
        )

    @property
    def subject(self) -> str:
        """Returns the narrowest subject that holds all matches."""
        # letters of ingest and feeds are under their site, all others under their connection
        name = self.connection or (self.site if self.stage in ("ingest", "feeds") else None)
        return topology.dead_subject(self.stage or "*", name or "*")

    @property
    def whole_subject(self) -> str | None:
        """Returns the subject whose letters all match; None if letters must be looked at."""
        if self.ids or self.reason or self.since is not None:
            return None
        match self.stage, self.connection, self.site:
            case None, None, None:
                return topology.dead_subject("*", "*")
            case stage, None, None if stage:
                return topology.dead_subject(stage, "*")
            case ("loader", connection, None) if connection:
                return topology.dead_subject("loader", connection)
            case ("ingest" | "feeds" as stage, None, site) if site:
                return topology.dead_subject(stage, site)
        return None

    def unmatched(self, seen: Seen) -> list[str]:
        """Returns the named ids, connection and site without a letter, in words."""
        if self.ids:
            return [f"dead letter {each}" for each in self.ids if each not in seen.ids]
        named = [f"{kind} {name!r}" for kind, name in (("connection", self.connection), ("site", self.site)) if name]
        return [f"dead letter of {' and '.join(named)}"] if named and not seen.letters else []


@dataclass(slots=True)
class Seen:
    """The number of matching letters, and which ids of `named` they have."""

    named: Collection[str]
    letters: int = 0
    ids: set[str] = field(default_factory=set)

    def add(self, stored: Stored) -> None:
        """Counts the matching letters of a message."""
        self.letters += len(stored.matching)
        if self.named:
            for letter_id in stored.ids():
                self.ids.update((letter_id, letter_id.partition(".")[0]))


@dataclass(frozen=True, slots=True)
class Stored:
    """A message of DEAD and the indexes of its letters that match."""

    seq: int
    subject: str
    letters: Sequence[DeadLetter]
    matching: Sequence[int]
    payload_bytes: int

    def ids(self) -> list[str]:
        """Ids of the matching letters."""
        return [self.id_of(index) for index in self.matching]

    def id_of(self, index: int) -> str:
        """The id of one letter."""
        return id_of(self.letters[index], self.seq, index)


class Group(msgspec.Struct, kw_only=True):
    """Letters that failed alike."""

    stage: str
    name: str
    """Connection, or site for ingest."""
    reason: str
    count: int = 0
    oldest_at: float = 0.0
    newest_at: float = 0.0


async def find(broker: Broker, wanted: Filter, *, through: int | None = None) -> AsyncIterator[Stored]:
    """Yields every message with a matching letter, oldest first, up to sequence `through` or the present end.

    Raises:
        NotConnected: the broker does not answer.
    """
    with asking("cannot look at the dead letters"):
        info = await broker.js.stream_info(topology.DEAD, subjects_filter=wanted.subject)
    waiting = sum((info.state.subjects or {}).values())
    last_seq = info.state.last_seq if through is None else through
    reader = StreamReader(broker, topology.DEAD, wanted.subject, start_seconds=wanted.since)
    async with contextlib.AsyncExitStack() as stack:
        if not waiting:
            return
        await stack.enter_async_context(reader)
        while (message := await reader.next(SILENCE_SECONDS)) is not None and message.seq <= last_seq:
            with contextlib.suppress(msgspec.MsgspecError):  # of a newer version; an upgrade shows it
                letters = decode_dead(message.payload)
                matching = [index for index, each in enumerate(letters) if wanted.matches(each, id_of(each, message.seq, index))]
                if matching:
                    yield Stored(
                        seq=message.seq,
                        subject=message.subject,
                        letters=letters,
                        matching=matching,
                        payload_bytes=len(message.payload),
                    )
            if message.waiting == 0:
                return


async def fetch(broker: Broker, seq: int) -> list[DeadLetter] | None:
    """Returns the letters of one message; None if it is gone.

    Raises:
        NotConnected: the broker does not answer.
        Permanent: a later version wrote it.
    """
    with asking(f"cannot read message {seq} of the dead letters"):
        try:
            message = await broker.js.get_msg(topology.DEAD, seq)
        except NotFoundError:
            return None
    try:
        return decode_dead(message.data or b"")
    except msgspec.MsgspecError as exc:
        raise Permanent(f"message {seq} of the dead letters cannot be read: {exc}") from exc


async def fetch_letter(broker: Broker, letter_id: str) -> DeadLetter | None:
    """Returns the letter of this id, in its present place; None if it is gone. Without an index, the first of the message."""
    seq = int(letter_id.partition(".")[0])
    if "." not in letter_id:
        letter_id += ".0"
    for index, letter in enumerate(await fetch(broker, seq) or ()):
        if id_of(letter, seq, index) == letter_id:
            return letter
    async for stored in find(broker, Filter(ids=[letter_id])):
        return stored.letters[stored.matching[0]]
    return None


async def remove(broker: Broker, stored: Stored) -> None:
    """Removes the matching letters of a message; the others stay.

    Raises:
        NotConnected, Transient: not known to be removed; doing it again is harmless.
    """
    gone = set(stored.matching)
    rest = [
        msgspec.structs.replace(letter, id=stored.id_of(index))
        for index, letter in enumerate(stored.letters)
        if index not in gone
    ]
    if rest:
        _, stage, name = stored.subject.split(".", 2)
        digest = hashlib.sha256(repr(stored.matching).encode()).hexdigest()[:16]
        await bury(publisher=broker.publisher, stage=stage, name=name, letters=rest, msg_id=f"rest.{stored.seq}.{digest}")
    with asking("cannot remove dead letters"), contextlib.suppress(NotFoundError):
        await broker.js.delete_msg(topology.DEAD, stored.seq)


async def remove_all(broker: Broker, wanted: Filter, through: int, on_progress: Callable[[int], None]) -> None:
    """Removes every matching letter of the messages up to sequence `through`.

    Raises:
        NotConnected, Transient: not known to be removed; doing it again is harmless.
    """
    subject = wanted.whole_subject
    if subject is not None:  # the broker does it at once, however many there are
        with asking("cannot remove dead letters"):
            await broker.js.purge_stream(topology.DEAD, seq=through + 1, subject=subject)
        return
    done, batch = 0, list[Stored]()

    async def remove_batch() -> None:
        nonlocal done
        await together(*(remove(broker, stored) for stored in batch))
        done += sum(len(stored.matching) for stored in batch)
        batch.clear()
        on_progress(done)

    async for found in find(broker, wanted, through=through):
        batch.append(found)
        if len(batch) >= REMOVED_AT_ONCE:
            await remove_batch()
    await remove_batch()


def id_of(letter: DeadLetter, seq: int, index: int) -> str:
    """The id of a letter that lies at this place."""
    return letter.id or f"{seq}.{index}"


class Groups:
    """Counts letters by stage, connection or site, and reason, without keeping them."""

    def __init__(self) -> None:
        self.total = 0
        self.last_seq = 0
        """The place of the last counted message."""
        self._groups: dict[tuple[str, str, str], Group] = {}

    def add(self, stored: Stored) -> None:
        """Counts the matching letters of a message."""
        self.last_seq = stored.seq
        self.total += len(stored.matching)
        for index in stored.matching:
            letter = stored.letters[index]
            key = (letter.stage, letter.connection or letter.site, str(letter.reason))
            entry = self._groups.setdefault(key, Group(stage=key[0], name=key[1], reason=key[2], oldest_at=letter.at))
            entry.count += 1
            entry.oldest_at = min(entry.oldest_at, letter.at)
            entry.newest_at = max(entry.newest_at, letter.at)

    def largest_first(self) -> list[Group]:
        """Returns the groups."""
        return sorted(self._groups.values(), key=lambda entry: -entry.count)


def group(found: Iterable[Stored]) -> list[Group]:
    """Counts letters by stage, connection or site, and reason; the largest group first."""
    groups = Groups()
    for stored in found:
        groups.add(stored)
    return groups.largest_first()


def parse_ids(ids: Iterable[str]) -> list[str]:
    """Checks ids as people write them: `17.0` for one letter, `17` for all of a message.

    Raises:
        ConfigError: not such an id.
    """
    checked = list(ids)
    for each in checked:
        if not _ID.fullmatch(each):
            raise ConfigError([Problem("ID", f"expected an id as `penstock dead list` shows it, such as 17.0, got {each!r}")])
    return checked
