"""Buckets, leases and the config snapshot against a real server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from shared.errors import Conflict
from shared.jetstream import lease, topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.jetstream.publisher import PubAck, Publisher
from shared.project.snapshot import StoredProject, apply_project, resolve, stored_project, watch_config
from tests.support.nats import NatsServer

DOCUMENT = {"sites": {"shop": {"keys": [{"id": "api", "secret": "${SECRET}"}]}}}


async def test_compare_and_set_refuses_a_stale_revision(broker: Broker) -> None:
    bucket = Bucket(broker, topology.STATE_BUCKET)
    first = await bucket.put("k", b"1", revision=0)
    second = await bucket.put("k", b"2", revision=first)
    with pytest.raises(Conflict):
        await bucket.put("k", b"3", revision=first)
    entry = await bucket.get("k")
    assert entry is not None
    assert (entry.value, entry.revision) == (b"2", second)
    await bucket.delete("k")
    assert await bucket.get("k") is None


class Forgetful:
    """A publisher that loses the first answer and, as a publisher does then, sends the same bytes under the same id again."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    async def publish(self, *arguments: Any, **options: Any) -> PubAck:
        await self._publisher.publish(*arguments, **options)
        return await self._publisher.publish(*arguments, **options)


async def test_a_write_sent_again_because_its_answer_was_lost_is_not_taken_for_somebody_elses(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = Bucket(broker, topology.STATE_BUCKET)
    monkeypatch.setattr(broker, "publisher", Forgetful(broker.publisher))
    first = await bucket.put("k", b"1", revision=0)
    second = await bucket.put("k", b"2", revision=first)
    assert second == first + 1
    with pytest.raises(Conflict):
        await bucket.put("k", b"2", revision=first)
    async with lease.hold(broker, "site.shop", "one", ttl_seconds=4) as held:
        await asyncio.sleep(4.5)
        assert not held.lost.is_set()


async def test_a_second_holder_waits_and_gets_a_larger_epoch(broker: Broker) -> None:
    async with lease.hold(broker, "site.shop", "one", ttl_seconds=4) as first:
        waiting = asyncio.create_task(lease.hold(broker, "site.shop", "two", ttl_seconds=4).__aenter__())
        await asyncio.sleep(4.5)
        assert not waiting.done(), "a renewed lease outlives its time to live"
        assert await lease.holder(broker, "site.shop") == "one"
    async with asyncio.timeout(60):
        second = await waiting
    assert second.epoch > first.epoch
    assert first.lost.is_set()


async def test_a_lease_of_a_dead_holder_is_taken_after_its_time(broker: Broker) -> None:
    bucket = Bucket(broker, topology.LEASE_BUCKET)
    dead = await bucket.put("x", b"dead", revision=0, ttl_seconds=1)
    async with asyncio.timeout(60), lease.hold(broker, "x", "alive", ttl_seconds=2) as taken:
        assert taken.epoch > dead


async def test_a_lease_that_the_broker_forgot_to_end_is_taken_and_one_that_is_renewed_is_not(broker: Broker) -> None:
    bucket = Bucket(broker, topology.LEASE_BUCKET)
    dead = await bucket.put("forgotten", b"dead", revision=0)  # no time to live
    async with lease.hold(broker, "renewed", "slow", ttl_seconds=9) as held:
        impatient = asyncio.create_task(lease.hold(broker, "renewed", "quick", ttl_seconds=1).__aenter__())
        async with asyncio.timeout(60), lease.hold(broker, "forgotten", "alive", ttl_seconds=4) as taken:
            assert taken.epoch > dead
            await asyncio.sleep(4.5)
            assert not taken.lost.is_set()
        assert not impatient.done()
        assert not held.lost.is_set()
        impatient.cancel()
        await asyncio.wait([impatient])


async def test_a_holder_notices_that_the_broker_forgot_it(broker: Broker, nats: NatsServer) -> None:
    async with lease.hold(broker, "x", "me", ttl_seconds=2) as held:
        nats.kill()
        async with asyncio.timeout(60):
            await held.lost.wait()
        nats.start()


async def test_watchers_see_applied_projects_whole_and_export_gives_the_document_back(broker: Broker, tmp_path: Path) -> None:
    async with watch_config(broker, str(tmp_path)) as watcher:
        empty = watcher.current
        resolved = resolve(DOCUMENT, {"SECRET": "hunter2"})
        revision = await apply_project(broker, StoredProject(DOCUMENT, resolved))
        async with asyncio.timeout(60):
            snapshot = await watcher.changed(empty)
        assert snapshot.revision == revision
        assert snapshot.project.sites["shop"].keys[0].secret == resolved["sites"]["shop"]["keys"][0]["secret"]
        stored = await stored_project(broker)
        assert stored is not None
        assert stored[1].document == DOCUMENT
        assert b"hunter2" not in repr(stored).encode()
    async with watch_config(broker, str(tmp_path)) as cached:
        assert "shop" in cached.current.project.sites, "the last good project is known before the broker answers"
