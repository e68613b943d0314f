"""Publisher and readers against a real server that is killed, frozen and restarted under them."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import time

import pytest
from nats.js.api import StorageType, StreamConfig

from shared.errors import NotConnected, QueueFull
from shared.jetstream import topology
from shared.jetstream.broker import Broker, connect
from shared.jetstream.kv import PAGE, Bucket
from shared.jetstream.lease import hold
from shared.jetstream.queue_reader import QueueReader
from shared.jetstream.reader import PULL_BYTES, StreamReader, StreamReplaced
from tests.support.nats import NatsServer

SUBJECT = topology.events_subject("shop")


async def publish(broker: Broker, numbers: range, subject: str = SUBJECT) -> None:
    for number in numbers:
        await broker.publisher.publish(subject, b"%d" % number, msg_id=f"m{number}", deadline_seconds=60)


async def read(reader: StreamReader, count: int) -> list[int]:
    seen: list[int] = []
    async with asyncio.timeout(60):
        while len(seen) < count:
            message = await reader.next()
            if message is not None:
                seen.append(int(message.payload))
    return seen


async def test_a_message_published_twice_under_one_id_is_stored_once(broker: Broker) -> None:
    first = await broker.publisher.publish(SUBJECT, b"x", msg_id="same")
    again = await broker.publisher.publish(SUBJECT, b"x", msg_id="same")
    assert (again.seq, again.duplicate) == (first.seq, True)


async def test_a_reader_that_is_woken_gives_what_is_here_and_then_waits_no_more(broker: Broker) -> None:
    await publish(broker, range(2))
    async with asyncio.timeout(60), StreamReader(broker, topology.EVENTS, SUBJECT) as reader:
        assert await read(reader, 2) == [0, 1]
        waiting = asyncio.ensure_future(reader.next())
        await asyncio.sleep(0)
        reader.wake()
        assert await waiting is None
        assert await reader.next() is None


async def test_a_full_subject_raises_queue_full_and_its_neighbour_takes_messages(nats: NatsServer) -> None:
    async with connect(nats.url, "test", patience_seconds=60) as broker:
        await topology.ensure(broker, topology.TopologySettings(deliver_max_frames=2))
        for number in range(2):
            await broker.publisher.publish(topology.deliver_subject("a"), b"x", msg_id=f"a{number}")
        with pytest.raises(QueueFull, match="maximum messages per subject"):
            await broker.publisher.publish(topology.deliver_subject("a"), b"x", msg_id="a2")
        await broker.publisher.publish(topology.deliver_subject("b"), b"x", msg_id="b0")


async def test_publishing_without_a_server_raises_not_connected_after_its_deadline(broker: Broker, nats: NatsServer) -> None:
    nats.kill()
    with pytest.raises(NotConnected, match=r"within 0\.5 s"):
        await broker.publisher.publish(SUBJECT, b"x", msg_id="x", deadline_seconds=0.5)


async def test_a_publish_begun_while_the_server_is_away_succeeds_when_it_returns(broker: Broker, nats: NatsServer) -> None:
    nats.kill()
    waiting = asyncio.create_task(broker.publisher.publish(SUBJECT, b"x", msg_id="x"))
    await asyncio.sleep(0.3)
    nats.start()
    assert (await waiting).seq == 1


async def test_a_reader_starts_at_a_sequence_and_counts_what_is_behind(broker: Broker) -> None:
    await publish(broker, range(10))
    async with StreamReader(broker, topology.EVENTS, SUBJECT, start_seq=4) as reader:
        message = await reader.next(60)
        assert message is not None
        assert (message.seq, int(message.payload), message.waiting) == (4, 3, 6)
        assert await read(reader, 6) == [4, 5, 6, 7, 8, 9]
        assert await reader.next(0.1) is None


async def test_a_reader_sees_every_message_once_in_order_over_kills_and_freezes(broker: Broker, nats: NatsServer) -> None:
    total = 600
    chance = random.Random(7)

    async def trouble() -> None:
        for _ in range(3):
            await asyncio.sleep(chance.uniform(0.05, 0.3))
            if chance.random() < 0.5:
                nats.kill()
                nats.start()
            else:
                nats.send_signal(signal.SIGSTOP)
                await asyncio.sleep(0.3)
                nats.send_signal(signal.SIGCONT)

    async with StreamReader(broker, topology.EVENTS, SUBJECT) as reader, asyncio.TaskGroup() as group:
        group.create_task(publish(broker, range(total)))
        group.create_task(trouble())
        assert await read(reader, total) == list(range(total))


async def test_a_queue_reader_hands_out_once_and_a_successor_gets_only_what_was_not_acknowledged(
    broker: Broker, nats: NatsServer
) -> None:
    subject = topology.deliver_subject("c")
    await publish(broker, range(100), subject)
    async with QueueReader(broker, topology.DELIVER, subject, "loader-c") as reader:
        assert await read(reader, 50) == list(range(50))
        await reader.ack(list(range(1, 31)))
        nats.kill()
        nats.start()
        # what was handed out and not acknowledged stays with this reader, although the server delivers it again
        assert await read(reader, 50) == list(range(50, 100))
        await reader.ack(list(range(31, 41)))
    async with QueueReader(broker, topology.DELIVER, subject, "loader-c") as reader:
        assert await read(reader, 60) == list(range(40, 100))
        await reader.ack(list(range(41, 101)))
    assert (await broker.js.stream_info(topology.DELIVER)).state.messages == 0


async def test_a_reader_opened_while_the_connection_comes_back_reads_at_once(
    broker: Broker, nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "shared.jetstream.reader.STALLED_SECONDS", 3600.0
    )  # else a reader that hears nothing starts again, and hears
    for _ in range(5):
        await broker.publisher.publish(topology.deliver_subject("shop-wh"), b"frame")
    await asyncio.to_thread(nats.kill)
    await asyncio.to_thread(nats.start)
    async with QueueReader(broker, topology.DELIVER, topology.deliver_subject("shop-wh"), "test") as reader:
        message = await reader.next(60)
    assert message is not None


async def test_a_queue_reader_works_through_a_long_backlog(broker: Broker) -> None:
    subject = topology.deliver_subject("c")
    await publish(broker, range(1000), subject)
    async with QueueReader(broker, topology.DELIVER, subject, "loader-c") as reader:
        assert await read(reader, 1000) == list(range(1000))


async def test_the_topology_is_widened_and_never_shrunk(nats: NatsServer) -> None:
    async with connect(nats.url, "test", patience_seconds=60) as broker:
        await topology.ensure(broker, topology.TopologySettings(deliver_max_frames=10))
        await topology.ensure(broker, topology.TopologySettings(deliver_max_frames=20))
        await topology.ensure(broker, topology.TopologySettings(deliver_max_frames=5))
        assert (await broker.js.stream_info(topology.DELIVER)).config.max_msgs_per_subject == 20


async def test_a_broker_with_little_room_gives_what_it_has(nats: NatsServer) -> None:
    nats.stop()
    nats.max_file = 5 * 1024**3
    nats.start()
    async with connect(nats.url, "test", patience_seconds=60) as broker:
        for _ in range(2):  # the second finds them narrower than they should be, and no room
            await topology.ensure(broker, topology.TopologySettings())
        events, dead = [(await broker.js.stream_info(name)).config.max_bytes or 0 for name in (topology.EVENTS, topology.DEAD)]
        assert dead == topology.TopologySettings().dead_max_bytes
        assert 1024**3 < events <= nats.max_file - dead


async def test_a_message_larger_than_a_whole_pull_is_read_in_its_place(broker: Broker) -> None:
    large = 2 * PULL_BYTES
    for size in (1, large, 1, large, large, 1):
        await broker.publisher.publish(SUBJECT, b"x" * size)
    async with StreamReader(broker, topology.EVENTS, SUBJECT) as reader:
        sizes = [len(message.payload) for _ in range(6) if (message := await reader.next(60)) is not None]
    assert sizes == [1, large, 1, large, large, 1]


async def made_anew(broker: Broker, stream: str) -> None:
    config = (await broker.js.stream_info(stream)).config
    await broker.js.delete_stream(stream)
    await broker.js.add_stream(config)


async def test_a_reader_of_a_stream_that_was_made_anew_says_so(broker: Broker) -> None:
    await publish(broker, range(5))
    async with StreamReader(broker, topology.EVENTS, SUBJECT) as reader:
        await read(reader, 5)
        await made_anew(broker, topology.EVENTS)
        await publish(broker, range(10, 20))
        with pytest.raises(StreamReplaced):
            await read(reader, 1)


async def test_a_queue_made_anew_is_not_taken_for_what_was_done_already(broker: Broker) -> None:
    subject = topology.deliver_subject("c")
    await publish(broker, range(5), subject)
    async with QueueReader(broker, topology.DELIVER, subject, "loader-c") as reader:
        assert await read(reader, 5) == list(range(5))
        await reader.ack([1, 2, 3, 4, 5])
        await made_anew(broker, topology.DELIVER)
        await publish(broker, range(10, 13), subject)
        with pytest.raises(StreamReplaced):
            await read(reader, 1)
    async with QueueReader(broker, topology.DELIVER, subject, "loader-c") as reader:
        assert await read(reader, 3) == [10, 11, 12]


async def test_a_watch_of_a_bucket_that_was_made_anew_begins_again(broker: Broker) -> None:
    bucket = Bucket(broker, topology.CONFIG_BUCKET)
    for number in range(5):
        await bucket.put("project", b"old%d" % number)
    watch = bucket.watch("project")
    async with asyncio.timeout(60):
        assert (await anext(watch)).value == b"old4"
        await made_anew(broker, "KV_config")
        await bucket.put("project", b"new")
        assert (await anext(watch)).value == b"new"
    await watch.aclose()


async def test_a_start_by_time_never_begins_behind_the_wanted_sequence(broker: Broker) -> None:
    """A broker whose clock went back holds times that are later than those of the frames behind them."""
    await publish(broker, range(5))
    async with StreamReader(broker, topology.EVENTS, SUBJECT, start_seq=3, start_seconds=time.time() + 3600) as reader:
        assert await read(reader, 5) == list(range(5))


async def test_epochs_go_on_rising_when_the_store_was_lost(broker: Broker, nats: NatsServer) -> None:
    async with hold(broker, "loader.c", "first") as lease:
        before = lease.epoch
    again = asyncio.Event()
    broker.on_reconnect(again.set)
    nats.kill()
    shutil.rmtree(nats.directory / "store")
    nats.start()
    async with asyncio.timeout(60):
        await again.wait()
    await topology.ensure(broker, topology.TopologySettings())
    async with hold(broker, "loader.c", "second") as lease:
        assert lease.epoch > before


async def test_all_keys_of_a_bucket_are_listed_though_the_server_names_them_by_pages(broker: Broker) -> None:
    await broker.js.add_stream(StreamConfig("KV_many", subjects=["$KV.many.>"], storage=StorageType.MEMORY))  # no sync for each
    bucket, keys = Bucket(broker, "many"), {f"id.{number}" for number in range(PAGE + 5)}
    for key in keys:
        await broker.nc.publish(f"$KV.many.{key}", b"1")
    async with asyncio.timeout(60):
        while (await broker.js.stream_info("KV_many")).state.messages < len(keys):
            await asyncio.sleep(0.05)
    assert set(await bucket.keys("id.")) == keys
