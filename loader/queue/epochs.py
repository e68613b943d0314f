"""The difference between the epochs of a connection's ledger and of its lease.

Epochs belong to one stack. A destination that was copied from another stack's, such as staging from production, has a ledger with
higher epochs. It refuses this stack for good, as it must while the other stack may still write. If an operator says that no other
stack writes (`PENSTOCK_LOADER_CLAIM`), epochs are raised above the ledger's, for this and all later holders.
"""

from __future__ import annotations

from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket


def _key(connection: str) -> str:
    return f"epoch.{connection}"


async def read_offset(broker: Broker, connection: str) -> int:
    """Returns the number to add to the epoch of the lease.

    Raises:
        NotConnected: the broker does not answer.
    """
    entry = await Bucket(broker, topology.STATE_BUCKET).get(_key(connection))
    return int(entry.value) if entry and entry.value else 0


async def raise_above(broker: Broker, connection: str, epoch: int, newest: int) -> int:
    """Stores, and returns, an offset by which the epoch of the lease exceeds `newest`.

    Raises:
        NotConnected, Transient: it may not be stored.
    """
    offset = newest + 1 - epoch
    await Bucket(broker, topology.STATE_BUCKET).put(_key(connection), str(offset).encode())
    return offset


async def forget_offset(broker: Broker, connection: str) -> None:
    """Removes the offset of a connection that is gone; does nothing if it has none.

    Raises:
        NotConnected: the broker does not answer.
    """
    bucket = Bucket(broker, topology.STATE_BUCKET)
    entry = await bucket.get(_key(connection))
    if entry is not None:
        await bucket.remove(entry.revision)
