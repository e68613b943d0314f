"""The look back of a session before it loads: whether its destination went back, whether the broker's store is older than the
destination, and which of the events that may come again are dead letters already.

If the destination went back, the session asks the router for the missing frames (`shared/streams/rewind.py`), and `trouble` says
so until they are in.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence

import msgspec
from nats.js.errors import NotFoundError

from loader.queue.memory import Gap, Marks, Memory
from shared.archive.note import first_kept
from shared.errors import Conflict, Fenced
from shared.events.headers import id_of_replay, replay_lane, shard_of_lane, split_lane, stream_of
from shared.jetstream import topology
from shared.jetstream.broker import Broker, asking
from shared.jetstream.identity import Identity, identify
from shared.jetstream.kv import Bucket
from shared.streams.dead_again import letters_since
from shared.streams.rewind import (
    Again,
    Answer,
    Rewind,
    Rewinds,
    again_id,
    answer_key,
    decode_answer,
    decode_resent,
    decode_rewinds,
    resent_key,
    rewind_key,
)
from shared.telemetry.health import Health
from shared.telemetry.metrics import Telemetry

KEPT_REPLAYS = 64
DEAD_REPLAY = "dead-"
"""The beginning of ids of replays of dead letters; EVENTS has no such events under their numbers."""
MISSING_SECONDS = 24 * 3600.0
"""How long `/ready` tells of frames that cannot come again by themselves."""
SHOWN_MISSING = 5

log = logging.getLogger(__name__)


class LookBack:
    """The rewinds of one connection, for one session."""

    def __init__(self, broker: Broker, telemetry: Telemetry, health: Health, site: str, connection: str, queue: str) -> None:
        self._broker = broker
        self._telemetry = telemetry
        self._health = health
        self._site = site
        self._connection = connection
        self._bucket = Bucket(broker, topology.STATE_BUCKET)
        self._rewinds = Rewinds(queue=queue)
        self._revision = 0
        self._ahead = ""
        self._first_again: dict[str, int] = {}
        self._writing = asyncio.Lock()

    @property
    def rewinds(self) -> dict[str, Rewind]:
        """The newest rewind of each lane."""
        return self._rewinds.lanes

    @property
    def open(self) -> dict[str, Rewind]:
        """The rewinds that are not done."""
        return {lane: rewind for lane, rewind in self.rewinds.items() if not rewind.done}

    @property
    def replays(self) -> dict[str, Again]:
        """By id, replays that repeat a part of another one and are not in yet."""
        return {replay: again for replay, again in self._rewinds.replays.items() if not again.done}

    @property
    def waits(self) -> bool:
        """Whether frames are still to come again."""
        return bool(self.open or self.replays)

    @property
    def trouble(self) -> str:
        """The trouble in words; empty if all is well."""
        said = [self._ahead] if self._ahead else []
        for rewind in self.open.values():
            lost = f"; {rewind.lost} older sequences are lost, neither EVENTS nor the archive keeps them" if rewind.lost else ""
            said.append(
                f"the destination went back to an older state; frames {rewind.first} to {rewind.last} are loaded again{lost}"
            )
        said += [
            f"the destination went back to an older state; frames {again.first} to {again.last} of {_source(again.lane)} are sent again"
            for again in self.replays.values()
        ]
        return "; ".join(said)

    async def begin(self, memory: Memory, marks: Marks) -> None:
        """Compares the ledger with the memory, and asks for missing frames.

        Raises:
            Fenced, NotConnected, Transient
        """
        events = await identify(self._broker, topology.EVENTS)
        oldest = await first_kept(self._broker, self._site, events)
        await memory.read()
        entry = await self._bucket.get(rewind_key(self._connection))
        self._revision = entry.revision if entry else 0
        found = decode_rewinds(entry.value if entry else None)
        if found.queue == self._rewinds.queue:
            self._rewinds = found
        asked, replays, missing = dict(self.rewinds), dict(self._rewinds.replays), list[str]()
        for lane, gap in memory.gaps(marks).items():
            self._telemetry.count("loader_destination_went_back_total", connection=self._connection)
            if stream_of(lane) == (events.incarnation, self._site):
                asked[lane] = _rewind(lane, gap, oldest, asked.get(lane))
                log.error(
                    "the destination went back, the missing events are read again from EVENTS",
                    extra={"connection": self._connection, "lane": lane, "first": asked[lane].first, "last": gap.last},
                )
            elif (replay := id_of_replay(lane)) is not None and gap.level < gap.last:
                for first, last in memory.not_elsewhere(lane, gap.level + 1, gap.last):
                    again = Again(lane=lane, first=first, last=last)
                    if again not in replays.values():
                        replays[again_id(replay, self._connection, replays)] = again
                log.error(
                    "the destination went back, the missing events of a replay are sent again",
                    extra={"connection": self._connection, "lane": lane, "first": gap.level + 1, "last": gap.last},
                )
                if holes := [each for ranges in gap.holes.values() for each in ranges]:
                    missing.append(self._by_hand(lane, min(holes)[0], max(last for _, last in holes)))
            elif (stream := stream_of(lane)) is not None and stream[1] == self._site and stream[0] != events.incarnation:
                again = Again(lane=lane, first=max(gap.first, split_lane(lane)[1]), last=gap.last)
                if again not in replays.values():
                    replays[again_id(f"past-{stream[0]}", self._connection, replays)] = again
                log.error(
                    "the destination went back, the missing events of a stream that is gone are read from the archive",
                    extra={"connection": self._connection, "lane": lane, "first": again.first, "last": again.last},
                )
            else:
                missing.append(self._by_hand(lane, gap.first, gap.last))
                log.error(
                    "the destination went back, and the missing events of this lane cannot be read again",
                    extra={"connection": self._connection, "lane": lane, "first": gap.first, "last": gap.last},
                )
        if asked != self.rewinds or replays != self._rewinds.replays or missing:
            await self._write(asked, replays, missing)
        # only now: after a death before this line, the next loader finds the same again
        again_elsewhere = {again.lane: (again.first, again.last) for again in self.replays.values()}
        await memory.begin(marks, oldest, again_elsewhere)
        self._compare(marks, events)
        self._tell_missing()

    async def settle(self, *, empty: bool) -> None:
        """Notes which rewinds are done: the router has sent all their frames, and the queue is empty.

        Args:
            empty: whether the connection's queue is empty.

        Raises:
            Fenced, NotConnected, Transient
        """
        if empty:
            sent = (await self._answer()).sent
            await self._finish([lane for lane, rewind in self.open.items() if sent.get(lane, 0) >= rewind.number])
            if self.replays:
                await self._finish_replays()

    async def first_again(self, lane: str) -> int | None:
        """Returns the first sequence of a lane that comes again under its newest rewind; None while the router has not begun it.

        Only frames that come again may be left out of the queue: EVENTS may have lost frames since the request.

        Raises:
            NotConnected: the broker does not answer.
        """
        if lane not in self._first_again:
            number, first = (await self._answer()).begun.get(lane, (0, 0))
            if number != self.rewinds[lane].number:
                return None
            self._first_again[lane] = first
        return self._first_again[lane]

    async def passed(self, lane: str, seq: int) -> None:
        """Notes that a lane is loaded up to a sequence.

        Raises:
            Fenced, NotConnected, Transient
        """
        if lane in self.open and seq > self.open[lane].last:
            await self._finish([lane])

    async def buried(self, queue: str) -> set[str]:
        """Returns the origins of dead letters whose events may come again from the queue or by a rewind.

        Raises:
            NotConnected: the broker does not answer.
        """
        with asking("cannot look at the dead letters"):
            moments = [await self._oldest(topology.DELIVER, topology.deliver_subject(queue), 1)]
            subject = topology.events_filter(self._site)
            firsts = [*(each.first for each in self.open.values()), *(each.first for each in self.replays.values())]
            kept = (await identify(self._broker, topology.EVENTS)).first_seq if firsts else 0
            # the archive does not say when: then every letter is looked at
            moments += [0.0 if first < kept else await self._oldest(topology.EVENTS, subject, first) for first in firsts]
            since = min((moment for moment in moments if moment is not None), default=None)
            if since is None:
                return set()
        found: set[str] = set()
        async for letter in letters_since(self._broker, "loader", self._connection, since):
            found |= letter.origins
        for replay, again in self.replays.items():  # the same events, in a lane of another name
            lane = again.lane
            found |= {replay_lane(replay) + origin.removeprefix(lane) for origin in found if origin.startswith(f"{lane}:")}
        return found

    async def _answer(self) -> Answer:
        begun: dict[str, tuple[int, int]] = {}
        sent: dict[str, int] = {}
        for shard in sorted({"", *map(shard_of_lane, self.rewinds)}):  # each router of the site answers for its lanes
            entry = await self._bucket.get(answer_key(self._connection, shard))
            answer = decode_answer(entry.value if entry else None)
            begun, sent = {**begun, **answer.begun}, {**sent, **answer.sent}
        return Answer(begun=begun, sent=sent)

    async def _oldest(self, stream: str, subject: str, seq: int) -> float | None:
        try:
            message = await self._broker.js.get_msg(stream, seq, subject=subject, direct=True, next=True)
        except NotFoundError:
            return None
        return message.time.timestamp() if message.time else None

    async def _finish(self, lanes: Iterable[str]) -> None:
        async with self._writing:
            done = {lane: msgspec.structs.replace(self.rewinds[lane], done=True) for lane in lanes if lane in self.open}
            if not done:
                return
            await self._write({**self.rewinds, **done})
            log.info("what was missing is loaded again", extra={"connection": self._connection, "lanes": sorted(done)})

    async def _finish_replays(self) -> None:
        entry = await self._bucket.get(resent_key(self._connection))
        resent = decode_resent(entry.value if entry else None)
        async with self._writing:
            replays = {
                replay: msgspec.structs.replace(again, done=again.done or replay in resent)
                for replay, again in self._rewinds.replays.items()
            }
            if replays == self._rewinds.replays:
                return
            missing = list[str]()
            for replay, again in self.replays.items():
                if resent.get(replay) is False:
                    missing.append(self._by_hand(again.lane, again.first, again.last))
                    log.error(
                        "not all missing events can be sent again: they were dead letters, are not archived, or their range is not noted",
                        extra={"connection": self._connection, "lane": again.lane, "first": again.first, "last": again.last},
                    )
            await self._write(self.rewinds, replays, missing)
            self._tell_missing()

    def _by_hand(self, lane: str, first: int, last: int) -> str:
        """Returns words on how a person brings back frames that cannot come by themselves."""
        replay = id_of_replay(lane)
        if replay is None:
            return f"frames {first} to {last} of {_source(lane)} are lost, as far as the archive does not have them"
        options, what = "--from 7d", f"what replay {replay} delivered is missing; events that EVENTS keeps come with "
        if not replay.startswith(DEAD_REPLAY):
            options, what = (
                f"--from-seq {first} --to-seq {last}",
                f"rows of replay {replay} that were set aside are missing; they come with ",
            )
        return (
            f"{what}`penstock replay --site {self._site} {options} --connection {self._connection}`; tables that rows are appended to "
            "get the others twice, so choose events with --where"
        )

    def _tell_missing(self) -> None:
        part, now = missing_part(self._connection), time.time()
        told = [text for text, at in self._rewinds.missing.items() if now - at < MISSING_SECONDS]
        if told:
            self._health.warn(part, f"the destination went back to an older state: {'; '.join(told[-SHOWN_MISSING:])}")
        else:
            self._health.good(part)

    async def _write(
        self, lanes: dict[str, Rewind], replays: dict[str, Again] | None = None, missing: Sequence[str] = ()
    ) -> None:
        kept = self._rewinds.replays if replays is None else dict(list(replays.items())[-KEPT_REPLAYS:])
        told = {**self._rewinds.missing, **dict.fromkeys(missing, time.time())}
        rewinds = Rewinds(queue=self._rewinds.queue, lanes=lanes, replays=kept, missing=dict(list(told.items())[-SHOWN_MISSING:]))
        try:
            self._revision = await self._bucket.put(
                rewind_key(self._connection), msgspec.json.encode(rewinds), revision=self._revision
            )
        except Conflict as exc:
            raise Fenced(f"another loader has written the rewinds of {self._connection}; leaving the connection to it") from exc
        self._rewinds = rewinds

    def _compare(self, marks: Marks, events: Identity) -> None:
        live = (events.incarnation, self._site)
        last = max((seq for (_, lane), seq in marks.items() if stream_of(lane) == live), default=0)
        if last > events.last_seq:
            self._ahead = (
                f"the destination holds frames up to {last}, EVENTS ends at {events.last_seq}: an older copy of the broker's store "
                "was put back, and new events are taken for repeats; see Backup in docs/operations.md"
            )
            log.error(
                "the broker's store is older than the destination",
                extra={"connection": self._connection, "ledger": last, "events": events.last_seq},
            )


def _rewind(lane: str, gap: Gap, oldest: int, before: Rewind | None) -> Rewind:
    first = max(gap.first, split_lane(lane)[1])
    return Rewind(
        number=before.number + 1 if before else 1,
        first=max(first, oldest),
        last=gap.last,
        level=gap.level,
        holes=gap.holes,
        lost=max(0, oldest - first),
        at=time.time(),
    )


def _source(lane: str) -> str:
    """Returns in words what a lane's frames are of."""
    replay, stream = id_of_replay(lane), stream_of(lane)
    if replay is not None:
        return f"replay {replay}"
    return f"site {stream[1]} in the EVENTS stream {stream[0]}, which is gone," if stream is not None else lane


def missing_part(connection: str) -> str:
    """Returns the part of `/ready` that tells of frames missing in a destination that went back."""
    return f"connection {connection}: missing"
