"""Replays dead letters, so that each arrives once and none leaves DEAD before its replay is acknowledged.

Letters are taken in groups. The command notes a group in the bucket `state`: its letters, and which frame each is in. It publishes
the frames, notes that, removes the letters from DEAD, then deletes the note. If it is killed in between, the note stays. The next
replay finishes that group first, in the same frames under the same lane and sequences, so the loader's ledger recognises the
events that it has. That holds although letters of the group were purged, evicted or moved meanwhile: the others keep their frames.

The note is also a lock. A second replay at the same time helps to finish the group before it takes its own, and looks again which
of its letters are still there, because the first may have replayed them since they were read.

Letters of the loader, and of functions, go into their connection's queue there, in a new lane (`into="stage"`). Letters of ingest
and feeds are judged again by the present rules of their protocol or feed; good ones go to EVENTS, bad ones stay. `into="start"` sends letters of any stage to
EVENTS. There the router drops a messageId that came within the site's window, so letters of so recent events are held back and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import msgspec
from nats.js.errors import NotFoundError

from penstock.control.letters.judged import JUDGED, Refusal, judge_again
from penstock.control.letters.letters import AT_ONCE, Filter, Stored, find, mark, present, remove
from penstock.control.letters.outcomes import Outcome, Refused
from penstock.control.letters.packing import number_frames, pack_letters, whole_frame
from penstock.control.letters.planned import is_planned, judge_planned
from router.rules.compiled import SiteRules, compile_project
from shared.errors import Conflict, QueueFull
from shared.events.dead import DeadLetter
from shared.events.frame import Head, encode_frame
from shared.events.headers import Place, replay_lane, write_place
from shared.events.outcome import DeadReason
from shared.jetstream import topology
from shared.jetstream.broker import Broker, asking
from shared.jetstream.kv import Bucket
from shared.jetstream.publisher import PubAck
from shared.project.problems import are_wanted
from shared.project.snapshot import ConfigSnapshot
from shared.syncs.naming import is_of_sync
from shared.tasks import timeout, together

Into = Literal["stage", "start"]

QUEUES = ("functions", "loader")
"""Stages that have a queue for each connection."""

NOTE = "replay.dead"
GROUP_LETTERS = 500
GROUP_BYTES = 4 * 1024 * 1024
POLL_SECONDS = 0.2
SHOWN_REFUSED = 20
GENERATION_SLACK = 1.125
"""The router remembers an id up to an eighth longer than its window (`router/window/dedupe.py`)."""


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """A group under way: the messages in which its letters lie, the number of each letter's frame by its id, their target and lane.

    `sent`: all frames are acknowledged.
    """

    lane: str
    into: Into
    subject: str
    messages: list[int]
    frames: dict[str, int]
    sent: bool = False


@dataclass(frozen=True, slots=True)
class _Sent:
    """A frame in a connection's queue."""

    stream: str
    seq: int
    lane: str
    letters: int


class Redelivery:
    """One run of `penstock dead replay`.

    Args:
        room_seconds: how long to wait for room in a full queue, at each frame.
        on_progress: called with the number of replayed letters, and with the cause of a wait.
    """

    def __init__(
        self,
        broker: Broker,
        snapshot: ConfigSnapshot,
        into: Into,
        clock: Callable[[], float],
        *,
        room_seconds: float = 0.0,
        on_progress: Callable[[int, str], None] = lambda _done, _note: None,
    ) -> None:
        self.outcome = Outcome()
        self._room_seconds = room_seconds
        self._on_progress = on_progress
        self._broker = broker
        self._snapshot = snapshot
        self._rules: dict[str, SiteRules] = {}
        """Compiled when a letter needs them."""
        self._project = snapshot.project
        self._marks = are_wanted(snapshot.project.connections, "dead")
        self._into: Into = into
        self._clock = clock
        self._bucket = Bucket(broker, topology.STATE_BUCKET)
        self._sent: list[_Sent] = []
        self._began = clock()

    async def run(self, wanted: Filter) -> Outcome:
        """Replays every matching letter.

        Raises:
            NotConnected, Transient, QueueFull: the rest is still in DEAD; run it again.
        """
        await self._finish_earlier()
        async for group in _groups(find(self._broker, wanted)):
            await self._replay(group)
            self._on_progress(self.outcome.replayed, "")
        return self.outcome

    async def forecast(self, wanted: Filter) -> Outcome:
        """Counts what `run` would replay, and what would stay; changes nothing.

        Raises:
            NotConnected: the broker does not answer.
        """
        async for stored in find(self._broker, wanted):
            kept = self._sift(stored)
            self.outcome.replayed += len(kept.matching) if kept is not None else 0
        return self.outcome

    async def wait(self, timeout_seconds: float) -> Outcome:
        """Waits until loaders took the replayed letters, and counts the letters that failed again."""
        waiting = list(self._sent)
        with contextlib.suppress(TimeoutError):
            async with timeout(timeout_seconds):
                while waiting:
                    waiting = [sent for sent in waiting if await self._is_queued(sent)]
                    if waiting:
                        await asyncio.sleep(POLL_SECONDS)
        self.outcome.waiting = sum(sent.letters for sent in waiting)
        lanes = {sent.lane for sent in self._sent}
        if lanes:
            for stage in QUEUES:
                async for stored in find(self._broker, Filter(stage=stage, since=self._began)):
                    self.outcome.dead_again += sum(
                        stored.letters[index].origin.split(":")[0] in lanes for index in stored.matching
                    )
        return self.outcome

    async def _is_queued(self, sent: _Sent) -> bool:
        with asking("cannot look at the queue"):
            try:
                await self._broker.js.get_msg(sent.stream, sent.seq)
            except NotFoundError:
                return False
        return True

    async def _finish_earlier(self) -> None:
        entry = await self._bucket.get(NOTE)
        if entry is None or entry.value is None:
            return
        note = msgspec.json.decode(entry.value, type=Note)
        left = await self._left_of(note)
        if not note.sent:
            # the rules may have changed since: letters that cannot go there now are not published, and stay
            left = [kept for stored in left if (kept := self._allowed(note, stored)) is not None]
            await self._publish(note, left)
        self.outcome.finished += await self._remove(left)
        await self._bucket.remove(entry.revision)

    async def _replay(self, group: Sequence[Stored]) -> None:
        ready = [kept for stored in group if (kept := self._sift(stored)) is not None]
        if not ready:
            return
        ids = [letter_id for stored in ready for letter_id in stored.ids()]
        numbers = number_frames([stored.letters[index] for stored in ready for index in stored.matching])
        note = Note(
            lane=replay_lane(f"dead-{uuid.uuid4().hex[:16]}"),
            into=self._into,
            subject=ready[0].subject,
            messages=[stored.seq for stored in ready],
            frames=dict(zip(ids, numbers, strict=True)),
        )
        while True:
            try:
                revision = await self._bucket.put(NOTE, msgspec.json.encode(note), revision=0)
                break
            except Conflict:  # another replay is under way: doing its work twice is harmless
                await self._finish_earlier()
        left = await self._left_of(note)
        await self._publish(note, left)
        with contextlib.suppress(Conflict):  # another replay finished this group meanwhile
            sent = msgspec.json.encode(msgspec.structs.replace(note, sent=True))
            revision = await self._bucket.put(NOTE, sent, revision=revision)
        self.outcome.replayed += await self._remove(left)
        await self._bucket.remove(revision)

    async def _left_of(self, note: Note) -> list[Stored]:
        """Returns the letters of a group that are still in DEAD, where they lie now."""
        found = [
            replace(stored, matching=matching)
            for stored in await present(self._broker, note.messages)
            if (matching := [index for index in range(len(stored.letters)) if stored.id_of(index) in note.frames])
        ]
        gone = note.frames.keys() - {letter_id for stored in found for letter_id in stored.ids()}
        if gone:  # or stored again elsewhere, because others of their message were removed
            stage, name = note.subject.split(".", 2)[1:]
            site, connection = (name, None) if stage in JUDGED else (None, name)
            wanted = Filter(ids=gone, stage=stage, site=site, connection=connection)
            found += [stored async for stored in find(self._broker, wanted)]
        return found

    async def _remove(self, left: Sequence[Stored]) -> int:
        """Removes letters whose replay is stored, and returns their number; tells connections with `from: dead` first."""

        async def end(stored: Stored) -> None:
            if self._marks and not await mark(self._broker, stored, "replayed"):
                self.outcome.unmarked += len(stored.matching)
            await remove(self._broker, stored)

        for begin in range(0, len(left), AT_ONCE):  # the broker syncs them together
            await together(*(end(stored) for stored in left[begin : begin + AT_ONCE]))
        return sum(len(stored.matching) for stored in left)

    def _sift(self, stored: Stored) -> Stored | None:
        """Returns the message with only the letters that can be replayed now."""
        kept: list[int] = []
        for index in stored.matching:
            letter = stored.letters[index]
            if is_of_sync(letter.connection):
                self.outcome.of_syncs += 1
            elif letter.reason == DeadReason.FRAME_UNREADABLE and whole_frame(letter) is None:
                self.outcome.unreadable += 1
            elif letter.stage == "functions" and not letter.body:
                self.outcome.not_kept += 1
            elif not self._has_way(letter, self._into) or self._is_refused(stored, index, self._into):
                continue
            elif self._into == "start" and letter.stage not in JUDGED and self._remembered_until(letter) > self._clock():
                self.outcome.held_back += 1
                self.outcome.held_back_until = max(self.outcome.held_back_until, self._remembered_until(letter))
            else:
                kept.append(index)
        return replace(stored, matching=kept) if kept else None

    def _allowed(self, note: Note, stored: Stored) -> Stored | None:
        """Returns the message with only the letters that the present project lets go where the note says."""
        kept = [
            index
            for index in stored.matching
            if self._has_way(stored.letters[index], note.into) and not self._is_refused(stored, index, note.into)
        ]
        return replace(stored, matching=kept) if kept else None

    def _is_refused(self, stored: Stored, index: int, into: Into) -> bool:
        """Whether the edge, or the feed, would refuse the letter's event again; notes why."""
        letter = stored.letters[index]
        judged = self._judged(letter) if letter.stage in JUDGED or (into == "stage" and is_planned(letter)) else None
        if not isinstance(judged, Refusal):
            return False
        self.outcome.still_bad += 1
        if len(self.outcome.refused) < SHOWN_REFUSED:
            self.outcome.refused.append(Refused(stored.id_of(index), str(judged.reason), judged.detail))
        return True

    def _has_way(self, letter: DeadLetter, into: Into) -> bool:
        """Whether the project has the letter's site, or for its queue the connection, still with the site of its event; notes if not."""
        if into == "stage" and (letter.stage in QUEUES or is_planned(letter)):
            connection = self._project.connections.get(letter.connection or "")
            if connection is not None and connection.site == letter.site:
                return True
            self.outcome.foreign += 1
            self.outcome.foreign_until = max(self.outcome.foreign_until, self._remembered_until(letter))
            return False
        whole = whole_frame(letter)
        if (whole.site if whole is not None else letter.site) in self._project.every_site:
            return True
        self.outcome.siteless += 1
        return False

    def _remembered_until(self, letter: DeadLetter) -> float:
        """Returns the time (epoch) when the router has certainly forgotten the letter's messageId."""
        site = self._project.every_site.get(letter.site)
        window = float(site.dedupe_window) if site else 0.0
        accepted = letter.request.received_at / 1e6 if letter.request else letter.at
        return accepted + window * GENERATION_SLACK + 60 if window > 0 else 0.0

    def _judged(self, letter: DeadLetter) -> tuple[Head, bytes] | Refusal:
        if is_planned(letter):
            self._rules = self._rules or compile_project(self._snapshot)
            return judge_planned(letter, self._rules.get(letter.site))
        return judge_again(letter, self._project)

    async def _publish(self, note: Note, left: Iterable[Stored]) -> None:
        """Publishes the frames of a group; each has its number, however many of its letters are left."""
        messages = list(left)
        there = {stored.id_of(index): stored.letters[index] for stored in messages for index in stored.matching}
        letters = [(number, there[letter_id]) for letter_id, number in note.frames.items() if letter_id in there]
        stage, name = note.subject.split(".", 2)[1:]
        trace = next((stored.trace for stored in messages if stored.trace), {})
        total = 0
        for number, numbered in itertools.groupby(letters, key=lambda each: each[0]):
            some = [letter for _, letter in numbered]
            planned = is_planned(some[0])
            delivers = (stage in QUEUES or planned) and note.into == "stage"
            judge = self._judged if stage in JUDGED or (planned and delivers) else None
            frame = pack_letters(some, judge=judge, origins=delivers)
            if frame is None:
                continue
            total += len(frame)
            msg_id = f"{note.lane}.{number}"
            if delivers:
                # a frame that could not be read has no origins
                passed = stage not in ("functions", "router") and (frame.origins or frame.trusted_hints)
                functions = not passed and self._snapshot.takes_functions_way(name)
                subject = (topology.functions_subject if functions else topology.deliver_subject)(self._snapshot.queue_of(name))
                headers = {**write_place(Place(note.lane, number, len(frame), total)), **trace}
            else:
                subject, headers = topology.events_subject(frame.site), dict(trace)
            ack = await self._send(subject, encode_frame(frame), msg_id, headers)
            if delivers:
                self._sent.append(_Sent(ack.stream, ack.seq, note.lane, len(frame)))

    async def _send(self, subject: str, payload: bytes, msg_id: str, headers: dict[str, str]) -> PubAck:
        """Publishes a frame; waits for room if the queue is full."""
        began = time.monotonic()
        while True:
            try:
                return await self._broker.publisher.publish(subject, payload, msg_id=msg_id, headers=headers)
            except QueueFull as exc:
                if time.monotonic() - began >= self._room_seconds:
                    raise QueueFull(
                        f"{exc}; waited {self._room_seconds:g} s for room. {self.outcome.replayed} letters are replayed, the rest are "
                        "kept: run it again when the destination has caught up, or with a longer --wait"
                    ) from exc
                self._on_progress(self.outcome.replayed, "the queue is full, waiting for room")
                await asyncio.sleep(POLL_SECONDS)


async def _groups(found: AsyncIterator[Stored]) -> AsyncIterator[list[Stored]]:
    """Packs messages of one subject together."""
    held: dict[str, list[Stored]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    async for stored in found:
        letters, size = sizes.get(stored.subject, (0, 0))
        if letters + len(stored.matching) > GROUP_LETTERS or size + stored.payload_bytes > GROUP_BYTES:
            if held.get(stored.subject):
                yield held.pop(stored.subject)
            letters = size = 0
        held.setdefault(stored.subject, []).append(stored)
        sizes[stored.subject] = (letters + len(stored.matching), size + stored.payload_bytes)
    for group in held.values():
        yield group
