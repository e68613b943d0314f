"""What functions and identity remember of a person: found and removed, for `penstock forget`."""

from __future__ import annotations

from collections.abc import Callable

from functions_runtime.host.store import names_person
from functions_runtime.rules.visitor import encode_visitor, open_visitor, without_people
from shared.errors import Conflict
from shared.forget.requests import FUNCTIONS, LOADER, PartReceipt, Request, read_part
from shared.forget.worker import Save, take_up
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket, Entry
from shared.jetstream.lease import Lease
from shared.service import ServiceContext

STORE, IDENTITY = "store of functions", "identity"


async def keep_forgetting(context: ServiceContext, lease_seconds: float) -> None:
    """Works on requests to forget for as long as the service runs."""

    async def work(request: Request, receipt: PartReceipt, save: Save, _: Lease) -> bool:
        # a batch that began before the id was on the list may keep something of the person; the loader sees its frame until it is done
        loader = await read_part(context.broker, request.id, LOADER)
        is_last = request.verify or loader is None or loader.state == "done"
        if receipt.places and not is_last:
            return False
        names = frozenset(request.names)
        for where, bucket, change in (
            (STORE, topology.STORE_BUCKET, lambda value: None if names_person(value, names) else value),
            (IDENTITY, topology.IDENTITY_BUCKET, lambda value: _visitor_without(value, names)),
        ):
            place = receipt.place(where)
            place.look(await _go_through(context.broker, bucket, change, remove=False), verify=request.verify)
            await save()
            if place.left and not request.verify:
                await _go_through(context.broker, bucket, change, remove=True)
                place.look(0)
                await save()
        return is_last

    await take_up(context.broker, context.instance, part=FUNCTIONS, lease_seconds=lease_seconds, work=work)


async def _go_through(broker: Broker, name: str, change: Callable[[bytes], bytes | None], *, remove: bool) -> int:
    """Counts the entries of a bucket that `change` does not leave as they are, and changes or removes them."""
    bucket, count = Bucket(broker, name), 0
    for key in await bucket.keys():
        entry = await bucket.get(key)
        while entry is not None and entry.value is not None and (fresh := change(entry.value)) != entry.value:
            if not remove or await _change(bucket, entry, fresh):
                count += 1
                break
            entry = await bucket.get(key)
    return count


async def _change(bucket: Bucket, entry: Entry, value: bytes | None) -> bool:
    """Changes or removes an entry; False: another writer was quicker."""
    if value is None:
        await bucket.erase(entry.revision)
        return True
    try:
        await bucket.put(entry.key, value, revision=entry.revision, ttl_seconds=entry.ttl_seconds)
    except Conflict:
        return False
    return True


def _visitor_without(value: bytes, names: frozenset[str]) -> bytes | None:
    visitor = open_visitor(value)
    if visitor is None:
        return value
    left = without_people(visitor, names)
    if left == visitor:
        return value
    return None if left is None else encode_visitor(left)
