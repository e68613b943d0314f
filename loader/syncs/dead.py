"""Rows that cannot be loaded: bounds their number, and makes dead letters of them.

A letter's origin names run, stream, batch and row, so a row that comes again has one letter. Letters are durable before the load
without their rows is committed.
"""

from __future__ import annotations

import logging
import zlib
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from loader.syncs.definition import lane_of
from loader.syncs.gather import Batch
from loader.syncs.shape import Refused, Shaped
from shared.events.dead import DeadLetter, bury, now
from shared.events.outcome import DeadReason
from shared.jetstream.broker import Broker
from shared.streams.dead_again import letters_since
from shared.streams.dead_log import DeadLog
from shared.syncs.naming import known_as

if TYPE_CHECKING:
    from shared.telemetry.metrics import Telemetry

MOST_OF_RUN = 1000
"""A stream with more dead rows in a run fails: a bad deploy must not bury a day."""
MOST_SHARE = 0.1
OF_AT_LEAST = 100
"""The same for a larger share of a batch with so many rows."""
DETAIL_CHARACTERS = 300


class Graves:
    """The dead letters of one sync."""

    def __init__(self, broker: Broker, telemetry: Telemetry, sync: str) -> None:
        self._broker = broker
        self._telemetry = telemetry
        self._sync = sync
        self._name = known_as(sync)
        self._log = DeadLog(logging.ERROR, message="rows are in the dead letters")

    async def bury(self, batch: Batch, shaped: Shaped, refused: Refused, known: Collection[int] = ()) -> None:
        """Makes dead letters of rows.

        Args:
            refused: the rows.
            known: rows that have a letter already.

        Raises:
            NotConnected, Transient, QueueFull: the letters may not be stored; load nothing.
        """
        new = {row: why for row, why in sorted(refused.items()) if row not in known}
        if not new:
            return
        letters = [self._letter(batch, shaped, row, why) for row, why in new.items()]
        content = ",".join(f"{shaped.name}:{row}:{reason}" for row, (reason, _) in new.items())
        msg_id = f"loader.{self._name}.{lane_of(batch.run)}.{batch.number}.{zlib.crc32(content.encode()):08x}"
        await bury(publisher=self._broker.publisher, stage="loader", name=self._name, letters=letters, msg_id=msg_id)
        reasons = [reason for reason, _ in new.values()]
        for reason, count in Counter(reasons).items():
            self._telemetry.count("loader_sync_rows_dead_total", count, sync=self._sync, stream=shaped.name, reason=reason)
        self._log.note(reasons, sync=self._sync)

    def _letter(self, batch: Batch, shaped: Shaped, row: int, why: tuple[DeadReason, str]) -> DeadLetter:
        reason, detail = why
        return DeadLetter(
            stage="loader",
            site="",
            connection=self._name,
            table=shaped.table,
            reason=reason,
            detail=detail,
            body=shaped.body(row),
            at=now(),
            origin=_origin(batch, shaped.name, row),
        )

    async def buried(self, batch: Batch) -> Mapping[str, set[int]]:
        """Returns the rows of a batch that have a letter, by stream; for batches that come again after a loader died.

        Raises:
            NotConnected: the broker does not answer.
        """
        found: dict[str, set[int]] = defaultdict(set)
        if not batch.seqs:
            return found
        prefix = _origin(batch, "", 0).partition(":")[0] + ":"
        async for letter in letters_since(self._broker, "loader", self._name, batch.oldest_at):
            if letter.origin.startswith(prefix):
                stream, _, row = letter.origin.removeprefix(prefix).rpartition(":")
                found[stream].add(int(row))
        return found


def too_many(dead: int, rows: int, of_run: int, refused: Refused) -> str:
    """Returns why a stream has too many dead rows; empty if it has not. Pure.

    Args:
        dead: rows of the batch that are dead.
        rows: rows of the batch.
        of_run: dead rows of the run before this batch.
        refused: some of the dead ones.
    """
    if not dead or (dead + of_run <= MOST_OF_RUN and (rows < OF_AT_LEAST or dead <= MOST_SHARE * rows)):
        return ""
    counted = f"{dead} of {rows} rows of a batch" if dead + of_run <= MOST_OF_RUN else f"{dead + of_run} rows of a run"
    such = next(iter(refused.values()), None)
    last = f"; one of them: {such[0]}: {such[1][:DETAIL_CHARACTERS]}" if such else ""
    return f"{counted} would be dead letters, more than the limit{last}"


def _origin(batch: Batch, stream: str, row: int) -> str:
    return f"{lane_of(batch.run)}.{batch.number}:{stream}:{row}"
