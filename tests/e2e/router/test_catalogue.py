"""The catalogue on the broker: it survives routers, has one writer, and drops the samples of forgotten people."""

from __future__ import annotations

import msgspec

from penstock.control.catalogue.read import read_catalogue
from router.catalogue.keep import CatalogueKeeper
from router.rules.arrival import Arrival
from shared.catalogue.stored import EVENTS, unpack_details
from shared.events.frame import Head, RequestContext, encode_frame, pack, with_names
from shared.forget.ids import Forgotten, Listed
from shared.forget.listing import IDS, suppress
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket

REQUEST = RequestContext(received_at=1_772_366_400_000_000, protocol="segment", key="web", kind="server")


async def send(broker: Broker, names: list[str], user: str = "jane") -> Arrival:
    heads = [Head(f"{name}-{index}", "track", name, user) for index, name in enumerate(names)]
    bodies = [
        msgspec.json.encode({"type": "track", "event": head.event, "userId": user, "properties": {"x": 1}}) for head in heads
    ]
    payload = encode_frame(with_names(pack("shop", [REQUEST], heads, bodies)))
    ack = await broker.publisher.publish(topology.events_subject("shop"), payload, msg_id=f"{names}{user}")
    return Arrival(ack.seq, 1_772_366_400.0, payload)


async def totals(broker: Broker) -> dict[str, int]:
    return {each.event: each.total for each in (await read_catalogue(broker, "shop")).events}


async def test_counts_are_exact_over_a_router_that_is_killed_before_it_writes(broker: Broker) -> None:
    first = CatalogueKeeper(broker, "shop", Forgotten())
    await first.open("i", 0, "samples")
    for _ in range(2):
        first.note(await send(broker, ["a", "b"]))
    await first.write()
    lost = await send(broker, ["a", "a", "c"])
    first.note(lost)  # and it is killed
    second = CatalogueKeeper(broker, "shop", Forgotten())
    await second.open("i", lost.seq, "samples")
    await second.write()
    second.note(await send(broker, ["c", "c"]))
    await second.write()
    assert await totals(broker) == {"a": 3, "b": 1, "c": 3}
    # one that was frozen meanwhile writes nothing
    first.note(await send(broker, ["z"]))
    await first.write()
    assert await totals(broker) == {"a": 3, "b": 1, "c": 3}


async def test_samples_of_people_go_when_they_are_forgotten_and_sites_may_forbid_them(broker: Broker) -> None:
    forgotten = Forgotten()
    keeper = CatalogueKeeper(broker, "shop", forgotten)
    await keeper.open("i", 0, "samples")
    keeper.note(await send(broker, ["mine"], user="jane"))
    keeper.look()
    keeper.note(await send(broker, ["other"], user="joe"))
    keeper.look()
    await keeper.write()
    assert await samples(broker) == {"mine": ["9"], "other": ["9"]}
    (key,) = await suppress(broker, ["jane"], "r1")
    assert await samples(broker) == {"mine": [None], "other": ["9"]}, "what is read has none of them at once"
    forgotten.put(key, await listed_as(broker, key))
    await keeper.write()
    assert await stored_samples(broker) == {"other"}
    keeper.change("types")
    await keeper.write()
    assert await stored_samples(broker) == set()


async def listed_as(broker: Broker, key: str) -> Listed:
    entry = await Bucket(broker, topology.FORGOTTEN_BUCKET).get(IDS + key)
    assert entry is not None
    assert entry.value
    return msgspec.json.decode(entry.value, type=Listed)


async def stored_samples(broker: Broker) -> set[str]:
    bucket = Bucket(broker, topology.CATALOGUE_BUCKET)
    found = await bucket.get_many(await bucket.keys(EVENTS))
    return {each.event for each in (unpack_details(entry.value or b"") for entry in found.values()) if each.sample}


async def samples(broker: Broker) -> dict[str, list[object]]:
    found = await read_catalogue(broker, "shop")
    return {each.event: [one.sample for one in each.properties if one.path == "properties.x"] for each in found.events}
