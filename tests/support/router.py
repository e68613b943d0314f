"""Around a router under test: projects, frames in, and a reader of queues that recognises repeats as the loader does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from router.forwarding.state import SiteState, StateKeeper
from router.rules.compiled import compile_project
from router.settings import RouterSettings
from router.site import SiteRouter
from shared.events.frame import Head, RequestContext, decode_frame, encode_frame, pack
from shared.events.headers import read_place
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.queue_reader import QueueReader
from shared.project.read import decode_project
from shared.project.snapshot import ConfigSnapshot, StoredProject, apply_project, current_snapshot, resolve
from shared.telemetry.metrics import Telemetry
from tests.support.forked import Process, start_forked

REQUEST = RequestContext(received_at=1_700_000_000_000_000, protocol="segment", key="shop-web")


def project(connections: dict[str, dict[str, Any]], **site: Any) -> dict[str, Any]:
    """Returns a project document: the site `shop`, the destination `wh` and these connections between them."""
    return {
        "sites": {"shop": site},
        "destinations": {"wh": {"type": "duckdb"}},
        "connections": {name: {"site": "shop", "destination": "wh", **options} for name, options in connections.items()},
    }


def snapshot(connections: dict[str, dict[str, Any]], revision: int = 1, **site: Any) -> ConfigSnapshot:
    """Returns the same as services see it."""
    return ConfigSnapshot(revision, decode_project(project(connections, **site)))


async def apply(broker: Broker, document: dict[str, Any]) -> int:
    """Applies a project document as `penstock apply` does."""
    return await apply_project(broker, StoredProject(document, resolve(document)))


def frame(events: Sequence[dict[str, Any]]) -> bytes:
    """Returns a frame of these events; `messageId` and `type` are filled in."""
    heads = [
        Head(
            event.get("messageId") or uuid.uuid4().hex, event.get("type", "track"), event.get("event"), event.get("userId"), None
        )
        for event in events
    ]
    return encode_frame(pack("shop", [REQUEST], heads, [msgspec.json.encode(event) for event in events]))


async def put(broker: Broker, ids: Sequence[str], *, site: str = "shop", **event: Any) -> int:
    """Accepts events of these ids as the edge does; returns the sequence of their frame."""
    payload = frame([{"messageId": id_, **event} for id_ in ids])
    return (await broker.publisher.publish(topology.events_subject(site), payload, msg_id=uuid.uuid4().hex)).seq


@dataclass
class Queue:
    """What a connection's queue held, read as the loader reads it: within a lane a sequence that is not above the last is a repeat."""

    name: str
    ids: list[str] = field(default_factory=list)
    seqs: list[int] = field(default_factory=list)
    lanes: list[str] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)
    repeats: int = 0
    last: dict[str, int] = field(default_factory=dict)

    def take(self, headers: Any, payload: bytes) -> None:
        """Takes one message."""
        place = read_place(headers)
        assert place is not None, f"no place in {headers}"
        content = decode_frame(payload)
        assert place.events == len(content)
        if place.seq <= self.last.get(place.lane, 0):
            assert place.seq in self.seqs, (
                f"frame {place.seq} comes after {self.last[place.lane]}; a loader would take it for a repeat"
            )
            self.repeats += 1
            return
        self.last[place.lane] = place.seq
        self.lanes.append(place.lane)
        self.seqs.append(place.seq)
        self.payloads.append(payload)
        self.ids.extend(head.message_id for head in content.heads)

    def twice(self) -> list[str]:
        """Ids that arrived more than once."""
        return [id_ for id_, count in Counter(self.ids).items() if count > 1]


@contextlib.asynccontextmanager
async def reading(broker: Broker, *names: str | Queue, pause_seconds: float = 0.0) -> AsyncIterator[list[Queue]]:
    """Empties the queues of connections, or goes on with one, while the context is open; waits `pause_seconds` after each frame."""
    queues = [name if isinstance(name, Queue) else Queue(name) for name in names]

    async def follow(queue: Queue) -> None:
        subject = await deliver_subject(broker, queue.name)
        async with QueueReader(broker, topology.DELIVER, subject, f"test-{queue.name}") as reader:
            async for message in reader:
                queue.take(message.headers, message.payload)
                await reader.ack([message.seq])
                if pause_seconds:
                    await asyncio.sleep(pause_seconds)

    tasks = [asyncio.create_task(follow(queue)) for queue in queues]
    try:
        yield queues
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled() and task.exception() is not None:
                raise RuntimeError("reading a queue failed") from task.exception()


async def until(condition: Callable[[], bool], timeout_seconds: float = 60.0) -> None:
    """Waits until a condition holds."""
    async with asyncio.timeout(timeout_seconds):
        while not condition():  # what is waited for happens in another process
            await asyncio.sleep(0.01)


async def deliver_subject(broker: Broker, connection: str) -> str:
    """Returns the subject of a connection's queue, under the project that is applied, if any."""
    return topology.deliver_subject((await current_snapshot(broker)).queue_of(connection))


async def waiting(broker: Broker, connection: str) -> int:
    """Returns how many frames wait in a connection's queue."""
    subject = await deliver_subject(broker, connection)
    info = await broker.js.stream_info(topology.DELIVER, subjects_filter=subject)
    return (info.state.subjects or {}).get(subject, 0)


async def limit_queues(broker: Broker, frames: int) -> None:
    """Lets every connection's queue hold so many frames only."""
    config = (await broker.js.stream_info(topology.DELIVER)).config
    config.max_msgs_per_subject = frames
    await broker.js.update_stream(config)


async def forget_message_ids(broker: Broker) -> None:
    """Lets the broker forget message ids after a tenth of a second, so that repeats reach the queues."""
    config = (await broker.js.stream_info(topology.DELIVER)).config
    config.duplicate_window = 0.1
    await broker.js.update_stream(config)


@contextlib.asynccontextmanager
async def routing(
    broker: Broker, telemetry: Telemetry, config: ConfigSnapshot, settings: RouterSettings | None = None, *, site: str = "shop"
) -> AsyncIterator[SiteRouter]:
    """Routes a site in this process while the context is open, and drains at its end."""
    ready, stop = asyncio.Event(), asyncio.Event()
    router = SiteRouter(broker, compile_project(config)[site], telemetry, settings or RouterSettings(), on_ready=ready.set)
    task = asyncio.create_task(router.run(stop))
    try:
        waiting_ready = asyncio.create_task(ready.wait())
        await asyncio.wait([task, waiting_ready], return_when=asyncio.FIRST_COMPLETED)
        waiting_ready.cancel()
        if task.done():
            await task
        yield router
        stop.set()
        async with asyncio.timeout(60):
            await task
    finally:
        task.cancel()
        await asyncio.wait([task])


class RouterProcess:
    """The router as its own process."""

    def __init__(self, url: str, log: Path, **environment: str) -> None:
        self._environment = {
            **os.environ,
            "PENSTOCK_NATS_URL": url,
            "PENSTOCK_ROUTER_LEASE": "2s",
            "PENSTOCK_LOG_FORMAT": "text",
            **environment,
        }
        self.log = log
        self._process: Process | None = None

    def start(self) -> None:
        """Starts it."""
        with self.log.open("ab") as output:
            self._process = start_forked("router", self._environment, output)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """Ends it at once (SIGKILL)."""
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self, timeout_seconds: float = 15.0) -> int:
        """Waits for its end; returns the exit code."""
        assert self._process is not None
        return self._process.wait(timeout_seconds)

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Says whether it lives."""
        return self._process is not None and self._process.poll() is None


@contextlib.contextmanager
def router_process(url: str, log: Path, **environment: str) -> Iterator[RouterProcess]:
    """Runs a router while the context is open."""
    process = RouterProcess(url, log, **environment)
    process.start()
    try:
        yield process
    finally:
        if process.running:
            with contextlib.suppress(ProcessLookupError):
                process.signal(signal.SIGCONT)
                process.kill()


async def state_of(broker: Broker) -> SiteState:
    state = await StateKeeper(broker, "shop").load()
    assert state is not None
    return state
