"""Finds, counts, shows and removes dead letters by a filter.

A message of DEAD holds the letters of one frame or request; a letter's id is `<sequence>.<index>` of its first place. To remove
some letters of a message, the others are stored again first, so nothing is lost in between; they keep their ids.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
from nats.js.errors import NotFoundError

from shared.errors import UNREADABLE, ConfigError, Permanent, Problem, QueueFull
from shared.events.dead import DeadLetter, State, bury, decode_dead, id_of, note_ended
from shared.events.headers import trace_of
from shared.jetstream import topology
from shared.jetstream.broker import Broker, asking, delete_message
from shared.jetstream.reader import StreamReader
from shared.project.shards import connection_of_shard, shard_names
from shared.tasks import together

SILENCE_SECONDS = 10.0
AT_ONCE = 64
"""Messages that are looked at, or removed, together."""
_ID = re.compile(r"[0-9]{1,18}(\.[0-9]{1,9})?")


@dataclass(frozen=True, slots=True)
class Filter:
    """Selects dead letters; a field that is None or empty matches all. `since` and `until` are epoch seconds."""

    ids: Collection[str] = ()
    connection: str | None = None
    site: str | None = None
    stage: str | None = None
    reason: str | None = None
    since: float | None = None
    until: float | None = None
    meets: Callable[[DeadLetter], bool] | None = None
    """Conditions on the event (`penstock/control/letters/conditions.py`)."""

    def matches(self, letter: DeadLetter, letter_id: str) -> bool:
        """True if all conditions hold."""
        return (
            (not self.ids or letter_id in self.ids or letter_id.partition(".")[0] in self.ids)
            and self.connection in (None, letter.connection, connection_of_shard(letter.connection or ""))
            and self.site in (None, letter.site)
            and self.stage in (None, letter.stage)
            and self.reason in (None, str(letter.reason))
            and (self.since is None or letter.at >= self.since)
            and (self.until is None or letter.at <= self.until)
            and (self.meets is None or self.meets(letter))
        )

    @property
    def subject(self) -> str:
        """Returns the narrowest subject that holds all matches."""
        # letters of ingest and feeds are under their site, all others under their connection
        name = self.connection or (self.site if self.stage in ("ingest", "feeds") else None)
        return topology.dead_subject(self.stage or "*", name or "*")

    @property
    def of_all_connections(self) -> str:
        """Returns the subject that holds the letters of a connection's shards too."""
        return topology.dead_subject(self.stage or "*", "*")

    @property
    def whole_subject(self) -> str | None:
        """Returns the subject whose letters all match; None if letters must be looked at."""
        if self.ids or self.reason or self.meets or self.since is not None or self.until is not None:
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
    trace: Mapping[str, str] = field(default_factory=dict)
    """Headers of the trace in which they died."""

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
    subjects, newest = await _subjects(broker, wanted)
    waiting = sum(subjects.values())
    last_seq = newest if through is None else through
    narrow = subjects.keys() <= {wanted.subject} or wanted.connection is None
    reader = StreamReader(
        broker, topology.DEAD, wanted.subject if narrow else wanted.of_all_connections, start_seconds=wanted.since
    )
    async with contextlib.AsyncExitStack() as stack:
        if not waiting:
            return
        await stack.enter_async_context(reader)
        while (message := await reader.next(SILENCE_SECONDS)) is not None and message.seq <= last_seq:
            with contextlib.suppress(*UNREADABLE):  # of a newer version; an upgrade shows it
                letters = decode_dead(message.payload)
                matching = [index for index, each in enumerate(letters) if wanted.matches(each, id_of(each, message.seq, index))]
                if matching:
                    yield Stored(
                        seq=message.seq,
                        subject=message.subject,
                        letters=letters,
                        matching=matching,
                        payload_bytes=len(message.payload),
                        trace=trace_of(message.headers),
                    )
            if message.waiting == 0:
                return


async def _subjects(broker: Broker, wanted: Filter) -> tuple[dict[str, int], int]:
    """Returns the messages under the subjects that hold all matches, those of a connection's shards among them, and the newest sequence."""
    name = wanted.connection
    subject = wanted.subject if name is None else wanted.of_all_connections
    with asking("cannot look at the dead letters"):
        info = await broker.js.stream_info(topology.DEAD, subjects_filter=subject)
    found = {
        each: messages
        for each, messages in (info.state.subjects or {}).items()
        if name is None or shard_names([each.rpartition(".")[2]], name)
    }
    return found, info.state.last_seq


async def present(broker: Broker, seqs: Sequence[int]) -> list[Stored]:
    """Returns the messages that are still there, in their order, each without matching letters.

    Raises:
        NotConnected: the broker does not answer.
        Permanent: a later version wrote one.
    """
    found: dict[int, Stored] = {}

    async def look(seq: int) -> None:
        with asking(f"cannot read message {seq} of the dead letters"):
            try:
                message = await broker.js.get_msg(topology.DEAD, seq)
            except NotFoundError:
                return
        payload = message.data or b""
        found[seq] = Stored(
            seq=seq,
            subject=message.subject or "",
            letters=_letters_in(seq, payload),
            matching=(),
            payload_bytes=len(payload),
            trace=trace_of(message.headers or {}),
        )

    for begin in range(0, len(seqs), AT_ONCE):
        await together(*(look(seq) for seq in seqs[begin : begin + AT_ONCE]))
    return [found[seq] for seq in seqs if seq in found]


def _letters_in(seq: int, payload: bytes) -> list[DeadLetter]:
    try:
        return decode_dead(payload)
    except UNREADABLE as exc:
        raise Permanent(f"message {seq} of the dead letters cannot be read: {exc}") from exc


async def fetch_letter(broker: Broker, letter_id: str) -> DeadLetter | None:
    """Returns the letter of this id, in its present place; None if it is gone. Without an index, the first of the message."""
    seq = int(letter_id.partition(".")[0])
    if "." not in letter_id:
        letter_id += ".0"
    for stored in await present(broker, [seq]):
        for index, letter in enumerate(stored.letters):
            if stored.id_of(index) == letter_id:
                return letter
    async for stored in find(broker, Filter(ids=[letter_id])):
        return stored.letters[stored.matching[0]]
    return None


async def mark(broker: Broker, stored: Stored, state: State) -> bool:
    """Notes that the matching letters are about to leave DEAD; False: DEAD has no room for the note.

    Raises:
        NotConnected, Transient: the note may not be stored; doing it again is harmless.
    """
    letters = [msgspec.structs.replace(stored.letters[index], id=stored.id_of(index)) for index in stored.matching]
    with contextlib.suppress(QueueFull):
        await note_ended(
            publisher=broker.publisher,
            subject=stored.subject,
            letters=letters,
            state=state,
            msg_id=f"{state}.{stored.seq}.{_digest(stored)}",
        )
        return True
    return False


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
        msg_id = f"rest.{stored.seq}.{_digest(stored)}"
        await bury(publisher=broker.publisher, stage=stage, name=name, letters=rest, msg_id=msg_id)
    await delete_message(broker, topology.DEAD, stored.seq, erase=False)


def _digest(stored: Stored) -> str:
    return hashlib.sha256(repr(list(stored.matching)).encode()).hexdigest()[:16]


async def remove_all(
    broker: Broker, wanted: Filter, through: int, on_progress: Callable[[int], None], *, marks: bool = False
) -> None:
    """Removes every matching letter of the messages up to sequence `through`.

    Args:
        marks: note it for connections with `from: dead`.

    Raises:
        NotConnected, Transient: not known to be removed; doing it again is harmless.
    """
    subject = wanted.whole_subject
    if subject is not None and not marks:  # the broker does it at once, however many there are
        subjects = [subject] if wanted.connection is None else (await _subjects(broker, wanted))[0]
        with asking("cannot remove dead letters"):
            for each in subjects:
                await broker.js.purge_stream(topology.DEAD, seq=through + 1, subject=each)
        return
    done, batch = 0, list[Stored]()

    async def end(stored: Stored) -> None:
        if marks:
            await mark(broker, stored, "purged")
        await remove(broker, stored)

    async def remove_batch() -> None:
        nonlocal done
        await together(*(end(stored) for stored in batch))
        done += sum(len(stored.matching) for stored in batch)
        batch.clear()
        on_progress(done)

    async for found in find(broker, wanted, through=through):
        batch.append(found)
        if len(batch) >= AT_ONCE:
            await remove_batch()
    await remove_batch()


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
