"""Shares the shards of one thing out evenly among the processes of a service: a process that has two more than another gives one up.

Each process notes every few seconds how many it has, under a key that expires. A process that joins has none, and gets some. All processes
wait for the lease of a shard that is given up. A note that expires says whom it is for; another one that gets it gives it back.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2s

from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket

LOOK_SECONDS = 2.0
NOTED_SECONDS = 6.0
GIVEN_SECONDS = 5.0


class Shares:
    """The notes of one process.

    Args:
        prefix: of the keys in the bucket `leases`.
        instance: of the process.
    """

    def __init__(self, broker: Broker, prefix: str, instance: str) -> None:
        self._bucket = Bucket(broker, topology.LEASE_BUCKET)
        self._prefix = prefix
        self._me = name_of(instance)

    async def turn(self, group: str, count: int) -> str:
        """Notes how many shards of a group this process has; returns the process to which it gives one, or nothing.

        Raises:
            NotConnected, Transient: the broker does not answer.
        """
        prefix = f"{self._prefix}.shares.{group}."
        await self._bucket.put(prefix + self._me, str(count).encode(), ttl_seconds=NOTED_SECONDS)
        entries = await self._bucket.entries(prefix)
        others = {
            each.key.removeprefix(prefix): int(each.value)
            for each in entries
            if each.value and each.value.isdigit() and not each.key.endswith(self._me)
        }
        return min(others, key=lambda name: (others[name], name)) if gives(self._me, count, others) else ""

    async def give(self, shard: str, to: str) -> None:
        """Notes for whom a shard is given up. Raises as `turn`."""
        await self._bucket.put(f"{self._prefix}.given.{shard}", to.encode(), ttl_seconds=GIVEN_SECONDS)

    async def is_for_another(self, shard: str) -> bool:
        """Whether a shard, by name, was given up a moment ago for another process.

        Raises:
            NotConnected: the broker does not answer.
        """
        entry = await self._bucket.get(f"{self._prefix}.given.{shard}")
        return entry is not None and bool(entry.value) and entry.value != self._me.encode()


def name_of(instance: str) -> str:
    """Returns the name of a process in these notes."""
    return blake2s(instance.encode(), digest_size=8).hexdigest()


def gives(me: str, mine: int, others: Mapping[str, int]) -> bool:
    """Whether a process gives a shard up: it has most of all, and two more than another. Pure.

    Args:
        others: the number of shards of the other processes, by name.
    """
    if not others or mine < min(others.values()) + 2:
        return False
    return all((mine, me) > (count, name) for name, count in others.items())
