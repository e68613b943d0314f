"""Around archives under test: frames as EVENTS would hold them, a writer that dies at any step, and what a reader finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import IO

import msgspec

from router.archive.draft import Draft
from router.archive.writer import Writer
from shared.archive.lines import Stored
from shared.archive.reader import ArchiveReader
from shared.archive.verify import verify
from shared.errors import NotConnected
from shared.events.frame import Head, RequestContext, decode_ids, encode_frame, pack
from shared.jetstream.lease import Lease
from shared.stores.contract import Area, Entry, Store
from shared.threads import ThreadGate

SITE = "shop"
AT = 1_767_225_600.0
GATE = ThreadGate(2, "archive")
REQUEST = RequestContext(received_at=1_767_225_600_000_000, protocol="segment", key="web")


class Died(BaseException):
    """The process is killed here."""


class Dying:
    """A store whose `number`th step never happens, nor any behind it; 0: never. A step is what changes the store.

    Args:
        fails: the step fails once as a store does that is away, and the process lives.
    """

    def __init__(self, store: Store, number: int = 0, *, fails: bool = False) -> None:
        self._store = store
        self._number = number
        self._fails = fails
        self.made = 0

    def step(self) -> None:
        self.made += 1
        if self._number and self._fails and self.made == self._number:
            raise NotConnected("the store is away")
        if self._number and not self._fails and self.made >= self._number:
            raise Died

    async def put(self, key: str, data: bytes) -> None:
        self.step()
        await self._store.put(key, data)

    async def get(self, key: str) -> bytes | None:
        return await self._store.get(key)

    async def list(self, prefix: str) -> list[Entry]:
        return await self._store.list(prefix)

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.step()
            await self._store.delete([key])

    async def claim(self, owner: str, epoch: int) -> Area:
        self.step()
        return DyingArea(self, await self._store.claim(owner, epoch))

    async def forget(self, owner: str) -> None:
        await self._store.forget(owner)

    async def close(self) -> None:
        """The test closes the store."""


class DyingArea:
    """Its area."""

    def __init__(self, store: Dying, area: Area) -> None:
        self._store = store
        self._area = area

    async def stage(self, key: str, write: Callable[[IO[bytes]], object]) -> int:
        self._store.step()
        return await self._area.stage(key, write)

    async def publish(self) -> None:
        self._store.step()
        await self._area.publish()

    async def discard(self) -> None:
        await self._area.discard()


def frame(seq: int, *ids: str, user: str | None = None, at: float = 0.0) -> Stored:
    """Returns a frame of these events as EVENTS stored it, a second after the one before it."""
    bodies = [msgspec.json.encode({"messageId": id_, "type": "track", "userId": user}) for id_ in ids]
    heads = [Head(id_, "track", "Order", user) for id_ in ids]
    return Stored(seq, at or AT + seq, encode_frame(pack(SITE, [REQUEST], heads, bodies)))


async def archive(
    store: Store,
    frames: Sequence[Stored],
    epoch: int,
    *,
    together: int = 3,
    incarnation: str = "x",
    missed: int = 0,
    kept_from: int = 1,
) -> Writer:
    """Archives the frames that the archive does not have, so many in an object, as a router does; goes on after failures."""
    writer = Writer(store, SITE, Lease(f"archive.{SITE}", epoch, 3600), incarnation, gate=GATE, kept_from=kept_from)
    await again(writer.open)
    left = [each for each in frames if each.seq > writer.position]
    for start in range(0, len(left), together):
        some = left[start : start + together]
        day, hour = writer.place_for(some[0].at_seconds)
        draft = Draft(day=day, hour=hour, after=writer.position, incarnation=writer.number)
        draft.add(some)
        entry, data = draft.finish(missed)
        await again(lambda day=day, entry=entry, data=data: writer.write(day, entry, data))  # type: ignore[misc]
    return writer


async def again(call: Callable[[], object]) -> None:
    """Makes a call until it succeeds."""
    while True:
        try:
            await call()  # type: ignore[misc]
        except NotConnected:
            continue
        return


async def archived(store: Store, gate: ThreadGate, number: int = 1, **bounds: float | None) -> list[tuple[int, list[str]]]:
    """Returns the frames that a reader finds: sequences and message ids."""
    reader = ArchiveReader(store, SITE, gate)
    return [(each.seq, list(decode_ids(each.payload))) async for each in reader.frames(number, **bounds)]  # type: ignore[arg-type]


async def faults(store: Store, gate: ThreadGate) -> list[str]:
    """Returns what `penstock archive verify` would complain of, strays included."""
    report = await verify(ArchiveReader(store, SITE, gate), gate)
    return [*report.problems, *report.strays]
