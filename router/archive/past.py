"""The frames of an EVENTS stream that is gone: the broker lost its store, and the archive has what came before.

Their sequences are not those of the present stream. A replay sends them in a lane of its own (`router/replay/run.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import NamedTuple, Self

from router.archive.older import FAR, ArchiveUnreadError, Older
from shared.archive.lines import Stored
from shared.errors import PenstockError
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.identity import identify
from shared.jetstream.reader import Message


class Past(NamedTuple):
    """A stream that is gone, as the archive of a site has it: its incarnation, and its first and last sequence there."""

    stream: str
    first: int
    last: int


async def past_streams(broker: Broker, site: str, older: Older) -> list[Past]:
    """Returns the streams that are gone and of which the archive has frames, the oldest first.

    Raises:
        ArchiveUnreadError, NotConnected
    """
    present, found = (await identify(broker, topology.EVENTS)).incarnation, list[Past]()
    try:
        async with older.reader(site) as reader:
            for stream in (await reader.index()).incarnations if reader is not None else ():
                if reader is not None and stream != present and (reach := await reader.reach(stream))[1]:
                    found.append(Past(stream, *reach))
    except PenstockError as exc:
        raise ArchiveUnreadError(str(exc)) from exc
    return found


class PastReader:
    """Reads a stream that is gone, as `LongReader` reads the present one. After its last frame `next` gives None."""

    def __init__(
        self, older: Older, site: str, stream: str, *, start_seq: int | None = None, start_seconds: float | None = None
    ) -> None:
        self._older = older
        self._site = site
        self._stream = stream
        self._start_seq = start_seq
        self._start_seconds = start_seconds
        self._stack = contextlib.AsyncExitStack()
        self._frames: AsyncIterator[Stored] | None = None
        self.last_seq = 0
        """The last sequence that was read."""

    async def __aenter__(self) -> Self:
        try:
            reader = await self._stack.enter_async_context(self._older.reader(self._site))
            if reader is not None and (number := (await reader.index()).number(self._stream)):
                self._frames = reader.frames(number, first=self._start_seq or 1, since=self._start_seconds)
        except PenstockError as exc:
            await self._stack.aclose()
            raise ArchiveUnreadError(str(exc)) from exc
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def next(self, timeout_seconds: float | None = None) -> Message | None:  # noqa: ARG002  # as `LongReader.next`
        """Returns the next frame; None: there is none.

        Raises:
            ArchiveUnreadError: open another reader later.
        """
        try:
            stored = await anext(self._frames, None) if self._frames is not None else None
        except PenstockError as exc:
            raise ArchiveUnreadError(str(exc)) from exc
        if stored is None:
            return None
        self.last_seq = stored.seq
        return Message(
            subject=topology.events_subject(self._site), payload=stored.payload, headers={}, seq=stored.seq,
            at_seconds=stored.at_seconds, waiting=FAR,
        )  # fmt: skip
