"""What an object store is: whole objects under keys, and areas from which the newest holder of an owner publishes.

A key is text of segments parted by `/`. Keys below `_penstock/` are the store's own and never listed. Every object is visible
whole or not at all; a later write to a key replaces the earlier object.

An *area* lets one holder at a time write an owner's objects. The holder *stages* objects: their bytes are in the store, and no
reader sees them. Then it *publishes* them. `claim` with a higher epoch takes the owner's area away from earlier holders: their
staged objects are gone, and their `publish` fails, even if a holder was frozen in the middle of it and wakes later. It may have
published some of its objects before; none becomes visible afterwards.

Errors come from `shared/errors.py` and name the place and the remedy. Cancellation may come at any await.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import IO, NamedTuple, Protocol, runtime_checkable

from shared.errors import Fenced, SetupError

PRIVATE = "_penstock"
"""The first segment of keys that are the store's own. Readers of data directories pass over names that start with an underscore."""


class KeyRefused(SetupError):
    """A person must change something at one key, such as a file in the way; the store takes objects of other keys."""


class Entry(NamedTuple):
    """One object in a list; `size` in bytes, `modified`: when it was written, in epoch seconds by the store's clock."""

    key: str
    size: int
    modified: float


class Place(NamedTuple):
    """Where other programs find an object: `url` as `s3://bucket/key` or `file:///path`; `address` for readers that speak HTTP, or a
    path.
    """

    url: str
    address: str


class Area(Protocol):
    """The right of one holder to publish objects of an owner. One task uses it at a time."""

    async def stage(self, key: str, write: Callable[[IO[bytes]], object]) -> int:
        """Stores an object where no reader sees it, and returns its size in bytes.

        Args:
            key: where it will be.
            write: writes the object to the file it is given. It blocks and runs on a thread of the store's gate.

        Raises:
            Fenced: a newer holder exists.
            KeyRefused: there can be no object of this key.
            NotConnected, Transient, SetupError
            Every error of `write`.
        """
        ...

    async def publish(self) -> None:
        """Makes every staged object visible, one by one; once begun it goes on, also when the task is cancelled.

        Raises:
            Fenced: a newer holder exists; nothing more becomes visible.
            NotConnected, Transient, SetupError: some objects may be visible and the others are not; the same objects can be
                staged and published again.
        """
        ...

    async def discard(self) -> None:
        """Removes objects that are staged and not published, as far as the store can be reached. Never raises."""
        ...


class Store(Protocol):
    """A place for objects."""

    async def put(self, key: str, data: bytes) -> None:
        """Writes a small object.

        Raises:
            NotConnected, Transient, SetupError
        """
        ...

    async def get(self, key: str) -> bytes | None:
        """Returns a whole object, None if there is none. For objects that fit into memory.

        Raises:
            NotConnected, Transient, SetupError
        """
        ...

    async def list(self, prefix: str) -> list[Entry]:
        """Returns all objects whose keys start with `prefix`, ordered by key.

        Raises:
            NotConnected, Transient, SetupError
        """
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Removes objects; skips a key without one.

        Raises:
            NotConnected, Transient, SetupError
        """
        ...

    async def claim(self, owner: str, epoch: int) -> Area:
        """Takes the owner's area away from holders with lower epochs, removes what they staged, and returns it.

        Args:
            owner: whose area, one segment of a key.
            epoch: grows with each holder.

        Raises:
            Fenced: a holder with a higher epoch exists.
            NotConnected, Transient, SetupError
        """
        ...

    async def forget(self, owner: str) -> None:
        """Forgets an owner that will never come again.

        Raises:
            NotConnected, Transient, SetupError
        """
        ...

    async def close(self) -> None:
        """Closes links. Never raises."""
        ...


@runtime_checkable
class Walked(Protocol):
    """A store that lists its objects in portions, for places with more objects than fit into memory. Optional."""

    def walk(self, prefix: str) -> AsyncIterator[list[Entry]]:
        """Yields the objects whose keys start with `prefix`, in any order. Raises as `list`."""
        ...


@runtime_checkable
class KeepsVersions(Protocol):
    """A store that may keep what was replaced or removed. Optional."""

    async def versions(self) -> str:
        """Returns what it keeps, and how a person removes it; empty: nothing. Never raises for a missing right, but says that it is missing.

        Raises:
            NotConnected, Transient
        """
        ...


async def walk(store: Store, prefix: str) -> AsyncIterator[list[Entry]]:
    """Yields all objects whose keys start with `prefix`, in portions where the store offers them. Raises as `Store.list`."""
    if isinstance(store, Walked):
        async for portion in store.walk(prefix):
            yield portion
    else:
        yield await store.list(prefix)


def is_private(key: str) -> bool:
    """Whether a key is the store's own."""
    return key.split("/", 1)[0] == PRIVATE


def fenced(owner: str, epoch: int, newest: int = 0) -> Fenced:
    """Returns the error of a holder that a newer one has overtaken; `newest` is that holder's epoch, if known."""
    return Fenced(f'connection "{owner}": a loader with a newer epoch than {epoch} holds it; nothing was loaded', newest)
