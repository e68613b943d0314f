"""The note of how far a sync is: read at the start of a session, written behind each commit by the holder of the lease alone."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping

import msgspec

from loader.syncs.gather import Batch
from loader.syncs.kept import Marks, Missing, kept_behind, look_back
from shared.errors import Conflict, Fenced
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.syncs.frames import BatchEnd, State
from shared.syncs.progress import (
    Kept,
    StreamProgress,
    SyncProgress,
    named,
    read_progress,
    with_states,
    without_states,
    write_progress,
)

WHY_CHARACTERS = 2000
"""An error may quote a whole statement, and the note is read by all."""


class Notes:
    """The note of one sync within one session."""

    def __init__(self, broker: Broker, sync: str, destination: str) -> None:
        self._bucket = Bucket(broker, topology.STATE_BUCKET)
        self._sync = sync
        self._destination = destination
        self._revision = 0
        self.progress = SyncProgress()

    async def read(self) -> None:
        """Reads the newest note. What was noted of another destination does not hold for this one.

        Raises:
            NotConnected: the broker does not answer.
            Permanent: a later version wrote it.
        """
        found, self._revision = await read_progress(self._bucket, self._sync)
        if found.destination not in ("", self._destination):
            found = SyncProgress(run=found.run, batch=found.batch, last=found.last, at=found.at)
        self.progress = msgspec.structs.replace(found, destination=self._destination)

    def streams_of(self, run: int) -> Mapping[str, StreamProgress]:
        """Returns what is noted of the streams in a run; nothing in a run that is newer than the noted one."""
        return self.progress.streams if run == self.progress.run else {}

    def gave_up(self, run: int) -> str:
        """Returns why nothing of a run is loaded any more; empty if it is."""
        return self.progress.failed if run == self.progress.run else ""

    async def loaded(self, batch: Batch, streams: Mapping[str, StreamProgress], stored: Mapping[str, Kept], failed: str) -> None:
        """Notes that a batch is loaded.

        Args:
            stored: how the streams of the batch are stored.
            streams: of the batch, and how far they are in its run.
            failed: why nothing of its run is loaded any more; empty if it is.

        Raises:
            Fenced: another holder wrote the note.
            NotConnected, Transient: not known to be noted.
        """
        before = self.streams_of(batch.run)
        known = {**before, **streams}
        now, progress = time.time(), self.progress
        others = [name for name, each in progress.kept.items() if name in stored and not each.serves(stored[name])]
        others = [name for name in others if not known[name].failed]
        states = without_states(progress.states, tuple(others)) if others else progress.states
        loaded = any(each.loaded > (before[name].loaded if name in before else 0) for name, each in streams.items())
        await self._write(
            SyncProgress(
                destination=self._destination,
                run=batch.run,
                batch=batch.number,
                last=batch.end.last,
                at=now,
                rows_at=now if loaded else progress.rows_at,
                states=states_behind(states, batch.end, known, failed=bool(failed)),
                streams=known,
                kept=kept_behind(kept=progress.kept, forgets=batch.end.forgets, run=batch.run, streams=known, stored=stored),
                again={} if batch.end.last else progress.again,
                failed=failed,
            )
        )

    async def look_back(self, marks: Marks | None, absent: Collection[str]) -> Missing:
        """Compares what is noted with the destination, and notes what is missing there.

        Args:
            marks: of the destination; None: it keeps none.
            absent: the tables that do not exist.

        Raises:
            Fenced: another holder wrote the note.
            NotConnected, Transient: not known to be noted.
        """
        goes_on = bool(self.progress.run) and not self.progress.last
        after, missing = look_back(self.progress, marks, absent, goes_on=goes_on)
        if after != self.progress:
            await self._write(after)
        return missing

    async def waits(self, why: str) -> None:
        """Notes why the sync cannot go on, or that it can.

        Raises:
            Fenced: another holder wrote the note.
            NotConnected, Transient: not known to be noted.
        """
        why = why[:WHY_CHARACTERS]
        if why != self.progress.waits:
            await self._write(msgspec.structs.replace(self.progress, waits=why))

    async def _write(self, progress: SyncProgress) -> None:
        try:
            self._revision = await write_progress(self._bucket, self._sync, progress, self._revision)
        except Conflict as exc:
            raise Fenced(f"another loader noted the progress of sync {self._sync}") from exc
        self.progress = progress


def states_behind(
    known: tuple[State, ...], end: BatchEnd, streams: Mapping[str, StreamProgress], *, failed: bool
) -> tuple[State, ...]:
    """Returns the states that are true behind a batch.

    A state that stands for rows which were left out is not taken: that of a failed stream, and that of all streams together while one
    of them has failed.
    """
    kept = without_states(known, end.forgets)
    if failed:
        return kept
    lacking = {name for name, stream in streams.items() if stream.failed}
    newer = [state for state in end.states if (not lacking if state.name is None else named(state) not in lacking)]
    return with_states(kept, tuple(newer))
