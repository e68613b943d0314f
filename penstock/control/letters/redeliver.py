"""Replays dead letters, so that each arrives once and none leaves DEAD before its replay is acknowledged.

Letters are taken in groups. The command notes a group in the bucket `state`, publishes it, removes it from DEAD, then deletes the
note. If it is killed in between, the note stays. The next replay finishes that group first, under the same lane and sequences, so
the loader's ledger recognises the events that it has.

Letters of the loader, and of functions, go into their connection's queue there, in a new lane (`into="stage"`). Letters of ingest
and feeds are judged again by the present rules of their protocol or feed; good ones go to EVENTS, bad ones stay. `into="start"` sends letters of any stage to
EVENTS. There the router drops a messageId that came within the site's window, so letters of so recent events are held back and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import msgspec
from nats.js.errors import NotFoundError

from loader.syncs.definition import is_of_sync
from penstock.control.letters.judged import JUDGED, Refusal, judge_again
from penstock.control.letters.letters import Filter, Stored, fetch, find, remove
from shared.errors import Conflict, Permanent, QueueFull
from shared.events.dead import DeadLetter
from shared.events.frame import Frame, Head, RequestContext, decode_frame, encode_frame, pack
from shared.events.headers import Place, replay_lane, write_place
from shared.events.outcome import DeadReason
from shared.jetstream import topology
from shared.jetstream.broker import Broker, asking
from shared.jetstream.kv import Bucket
from shared.jetstream.publisher import PubAck
from shared.project.snapshot import ConfigSnapshot
from shared.tasks import timeout

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


class Refused(msgspec.Struct, frozen=True):
    """A letter that stays, and why."""

    id: str
    reason: str
    detail: str


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """A group under way: its letters (message sequence to indexes), their target and their lane."""

    lane: str
    into: Into
    subject: str
    messages: dict[int, list[int]]


@dataclass(slots=True)
class Outcome:
    """The result of a replay, in letters."""

    replayed: int = 0
    still_bad: int = 0
    """Letters of ingest and feeds that are still refused; they stay."""
    refused: list[Refused] = field(default_factory=list)
    """The first of them."""
    held_back: int = 0
    """Letters that the router would now drop as repeats; they stay."""
    held_back_until: float = 0.0
    """The time from which the router drops none of them; epoch seconds."""
    unreadable: int = 0
    """Letters with a frame that this version cannot read; they stay."""
    of_syncs: int = 0
    """Letters of rows of syncs; they stay, and the rows come again when the source gives them again."""
    not_kept: int = 0
    """Letters whose bytes were not kept, because privacy rules could not clean them; they stay."""
    foreign: int = 0
    """Letters of a loader whose connection was removed, or now belongs to another site; they stay."""
    foreign_until: float = 0.0
    """As `held_back_until`, for these."""
    waiting: int = 0
    """Replayed letters that their loader has not taken yet."""
    dead_again: int = 0
    """Replayed letters that failed again; they are new dead letters."""
    finished: int = 0
    """Letters of an earlier replay that was interrupted."""


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
        self._project = snapshot.project
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
        left: list[Stored] = []
        for seq, indexes in note.messages.items():
            letters = await fetch(self._broker, seq)
            if letters is not None:
                left.append(Stored(seq=seq, subject=note.subject, letters=letters, matching=indexes, payload_bytes=0))
        # removing begins only after all is published: a missing message shows that
        if len(left) == len(note.messages):
            # the rules may have changed since: a letter that the edge would now refuse is not published and stays
            left = [kept for stored in left if (kept := self._without_refused(stored)) is not None]
            await self._publish(note, left)
        for stored in left:
            await remove(self._broker, stored)
            self.outcome.finished += len(stored.matching)
        await self._bucket.remove(entry.revision)

    async def _replay(self, group: Sequence[Stored]) -> None:
        ready = [kept for stored in group if (kept := self._sift(stored)) is not None]
        if not ready:
            return
        note = Note(
            lane=replay_lane(f"dead-{uuid.uuid4().hex[:16]}"),
            into=self._into,
            subject=ready[0].subject,
            messages={stored.seq: list(stored.matching) for stored in ready},
        )
        while True:
            try:
                revision = await self._bucket.put(NOTE, msgspec.json.encode(note), revision=0)
                break
            except Conflict:  # another replay began meanwhile; doing its work twice is harmless
                await self._finish_earlier()
        await self._publish(note, ready)
        for stored in ready:
            await remove(self._broker, stored)
            self.outcome.replayed += len(stored.matching)
        await self._bucket.remove(revision)

    def _sift(self, stored: Stored) -> Stored | None:
        """Returns the message with only the letters that can be replayed now."""
        kept: list[int] = []
        for index in stored.matching:
            letter = stored.letters[index]
            if is_of_sync(letter.connection):
                self.outcome.of_syncs += 1
            elif letter.reason == DeadReason.FRAME_UNREADABLE and _whole_frame(letter) is None:
                self.outcome.unreadable += 1
            elif letter.stage == "functions" and not letter.body:
                self.outcome.not_kept += 1
            elif self._is_refused(stored, index):
                continue
            elif self._into == "stage" and letter.stage in QUEUES and not self._is_at_home(letter):
                self.outcome.foreign += 1
                self.outcome.foreign_until = max(self.outcome.foreign_until, self._remembered_until(letter))
            elif self._into == "start" and letter.stage not in JUDGED and self._remembered_until(letter) > self._clock():
                self.outcome.held_back += 1
                self.outcome.held_back_until = max(self.outcome.held_back_until, self._remembered_until(letter))
            else:
                kept.append(index)
        return replace(stored, matching=kept) if kept else None

    def _without_refused(self, stored: Stored) -> Stored | None:
        kept = [index for index in stored.matching if not self._is_refused(stored, index)]
        return replace(stored, matching=kept) if kept else None

    def _is_refused(self, stored: Stored, index: int) -> bool:
        """Whether the edge, or the feed, would refuse the letter's event again; notes why."""
        letter = stored.letters[index]
        judged = self._judged(letter) if letter.stage in JUDGED else None
        if not isinstance(judged, Refusal):
            return False
        self.outcome.still_bad += 1
        if len(self.outcome.refused) < SHOWN_REFUSED:
            self.outcome.refused.append(Refused(stored.id_of(index), str(judged.reason), judged.detail))
        return True

    def _is_at_home(self, letter: DeadLetter) -> bool:
        """Whether the letter's connection exists, and still belongs to the event's site."""
        connection = self._project.connections.get(letter.connection or "")
        return connection is not None and connection.site == letter.site

    def _remembered_until(self, letter: DeadLetter) -> float:
        """Returns the time (epoch) when the router has certainly forgotten the letter's messageId."""
        site = self._project.sites.get(letter.site)
        window = float(site.dedupe_window) if site else 0.0
        accepted = letter.request.received_at / 1e6 if letter.request else letter.at
        return accepted + window * GENERATION_SLACK + 60 if window > 0 else 0.0

    def _judged(self, letter: DeadLetter) -> tuple[Head, bytes] | Refusal:
        return judge_again(letter, self._project)

    async def _publish(self, note: Note, messages: Sequence[Stored]) -> None:
        letters = [stored.letters[index] for stored in messages for index in stored.matching]
        stage, name = note.subject.split(".", 2)[1:]
        delivers = stage in QUEUES and note.into == "stage"
        frames = self._frames(letters, judged=stage in JUDGED, origins=delivers)
        total = 0
        for number, frame in enumerate(frames, 1):
            total += len(frame)
            msg_id = f"{note.lane}.{number}"
            if delivers:
                # a frame that could not be read has no origins
                passed = stage != "functions" and (frame.origins or frame.trusted_hints)
                functions = not passed and self._snapshot.takes_functions_way(name)
                subject = (topology.functions_subject if functions else topology.deliver_subject)(self._snapshot.queue_of(name))
                headers = write_place(Place(note.lane, number, len(frame), total))
            else:
                subject, headers = topology.events_subject(frame.site), {}
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

    def _frames(self, letters: Sequence[DeadLetter], *, judged: bool, origins: bool) -> list[Frame]:
        """Packs letters, in their order, a frame for each run of one site.

        Args:
            origins: whether a frame has the first origins of its events, by which events that die again are recognised.
        """
        frames: list[Frame] = []
        requests: list[RequestContext] = []
        heads: list[Head] = []
        bodies: list[bytes] = []
        first: list[str] = []
        site = ""

        def end() -> None:
            nonlocal requests, heads, bodies, first
            if heads:
                frame = pack(site, requests, heads, bodies)
                frame.origins = first
                # full events passed their connection's rules and functions, so there they pass for that
                frame.trusted_hints = origins and requests[0].complete
                frames.append(frame)
            requests, heads, bodies, first = [], [], [], []

        for letter in letters:
            whole = _whole_frame(letter)
            found = self._judged(letter) if judged else (_head(letter), letter.body)
            if whole is not None or letter.site != site or (requests and _is_complete(letter) != requests[0].complete):
                end()
            if whole is not None:
                frames.append(whole)
                continue
            if isinstance(found, Refusal):
                continue
            site = letter.site
            request = letter.request or RequestContext(received_at=int(letter.at * 1e6), protocol="replay", key="")
            if not requests or requests[-1] != request:
                requests.append(request)
            head, body = found
            heads.append(msgspec.structs.replace(head, request=len(requests) - 1))
            bodies.append(body)
            if origins:
                first.append(letter.first_origin or letter.origin)
        end()
        return frames


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


def _whole_frame(letter: DeadLetter) -> Frame | None:
    """Returns the whole frame of a letter that has no single event, if this version can read it."""
    if letter.reason != DeadReason.FRAME_UNREADABLE:
        return None
    try:
        frame = decode_frame(letter.body)
        frame.bodies()
    except Permanent:
        return None
    return frame


def _is_complete(letter: DeadLetter) -> bool:
    return letter.request is not None and letter.request.complete


def _head(letter: DeadLetter) -> Head:
    id_, type_ = letter.message_id or "", letter.type or ""
    return Head(message_id=id_, type=type_, event=letter.event, user_id=letter.user_id, anonymous_id=letter.anonymous_id)
