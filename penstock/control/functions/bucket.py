"""A bucket in memory, in place of the broker's, so that a function that is tried finds the store that it will find in a stack."""

from __future__ import annotations

from shared.errors import Conflict
from shared.jetstream.kv import Entry


class MemoryBucket:
    """As `shared.jetstream.kv.Bucket`, as far as the store of functions needs it."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._revision = 0

    def keep(self, key: str, value: bytes) -> int:
        """Writes a value and returns its revision."""
        self._revision += 1
        self._entries[key] = Entry(key, value, self._revision)
        return self._revision

    def values(self) -> list[bytes]:
        """Returns all values."""
        return [entry.value for entry in self._entries.values() if entry.value is not None]

    async def get(self, key: str) -> Entry | None:
        """As `Bucket.get`."""
        return self._entries.get(key)

    async def put(self, key: str, value: bytes, *, revision: int | None = None, ttl_seconds: float | None = None) -> int:  # noqa: ARG002
        """As `Bucket.put`; no value vanishes, but its reader sees that its time is over.

        Raises:
            Conflict: the key has another revision.
        """
        there = self._entries.get(key)
        if revision is not None and revision != (there.revision if there else 0):
            raise Conflict(f"{key} has another revision")
        return self.keep(key, value)

    async def erase(self, revision: int) -> None:
        """As `Bucket.erase`."""
        self._entries = {key: entry for key, entry in self._entries.items() if entry.revision != revision}
