"""A cluster of three brokers with users and TLS, two of each service, under load: nodes are killed, frozen, cut off and restarted one after the other.

The configuration files and the users are those of `deploy/nats`. All faults happen to one cluster, one after the other, and the books
are held against the tables once at the end: an event that any of them lost or doubled is found there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import nats.errors
import pytest
from nats.js.api import ClusterInfo
from nats.js.errors import APIError

from penstock.stack.certificates import certificates
from penstock.stack.home import SERVICES
from shared.jetstream import topology
from shared.jetstream.broker import Broker, connect
from tests.faults.judge import verify
from tests.faults.places import DuckSchema, Place, Schema
from tests.faults.project import QUICK, batch, project, stream
from tests.faults.test_frozen import succeeded, taken_by
from tests.support.nats_cluster import Cluster, Node
from tests.support.sender import Books, Sender
from tests.support.stack import Stack, stack
from tests.support.tcp_proxy import TcpProxy

NewSchema = Callable[[], Schema]

PATIENCE_SECONDS = 120.0
SECOND = tuple(f"{name}-2" for name in SERVICES)


@contextlib.asynccontextmanager
async def beside(stack: AbstractContextManager[Stack]) -> AsyncIterator[Stack]:
    """Starts and stops a stack in a thread, because nodes that start need the proxy, which runs in this loop."""
    running = await asyncio.to_thread(stack.__enter__)
    try:
        yield running
    except BaseException as exc:
        if not await asyncio.to_thread(stack.__exit__, type(exc), exc, exc.__traceback__):
            raise
    else:
        await asyncio.to_thread(stack.__exit__, None, None, None)


async def looked_at(broker: Broker, name: str) -> ClusterInfo | None:
    """Returns who has copies of a stream; None if nobody answers soon."""
    try:
        async with asyncio.timeout(2):
            return (await broker.js.stream_info(name)).cluster
    except (APIError, nats.errors.Error, OSError, TimeoutError):
        return None


async def leader_of(broker: Broker, name: str, *, other_than: str = "") -> str:
    """Waits until a stream has a leader, another one than the node that is named; returns it."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            cluster = await looked_at(broker, name)
            if cluster is not None and cluster.leader and cluster.leader != other_than:
                return cluster.leader
            await asyncio.sleep(0.05)


async def acknowledged_again(books: Books) -> None:
    """Waits until the edge acknowledges events that were sent from now on."""
    known = set(books.fates)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not books.acknowledged - known:
            await asyncio.sleep(0.02)


async def caught_up(broker: Broker) -> None:
    """Waits until all copies of the streams that carry events are current; the next fault may then take any node."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        for name in (topology.EVENTS, topology.DELIVER, "KV_leases", "KV_state"):
            while True:
                cluster = await looked_at(broker, name)
                if cluster is not None and cluster.leader and all(each.current for each in cluster.replicas or []):
                    break
                await asyncio.sleep(0.05)


def clients_of(node: Node) -> set[int]:
    """Returns the process ids of the services that are connected to a node; their names end with them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{node.ports.monitor}/connz?limit=1000", timeout=5) as answer:
        names = [str(each.get("name", "")) for each in json.load(answer)["connections"]]
    return {int(name.rpartition("-")[2]) for name in names if name.startswith(SERVICES)}


def routes_of(node: Node) -> int:
    """Returns how many connections a node has to other nodes."""
    with urllib.request.urlopen(f"http://127.0.0.1:{node.ports.monitor}/routez", timeout=5) as answer:
        return int(json.load(answer)["num_routes"])


@pytest.mark.timeout(600)
async def test_a_cluster_loses_and_doubles_nothing_whatever_happens_to_one_of_its_nodes(
    tmp_path: Path, new_schema: NewSchema, chance: random.Random
) -> None:
    places: dict[str, Place] = {"pg": new_schema(), "duck": DuckSchema(tmp_path / "warehouse.duckdb")}
    document = project({"pg": batch("pg"), "duck": stream("duck")}, {name: each.destination for name, each in places.items()})
    cluster = Cluster(tmp_path, certificates=certificates(tmp_path / "tls"))
    third = cluster.nodes[2]
    async with contextlib.AsyncExitStack() as held:
        network = [await held.enter_async_context(TcpProxy(node.ports.route)) for node in cluster.nodes]
        # the third node calls no other but those of which it hears, and all that hear of a node hear of the proxy before it
        for node, proxy in zip(cluster.nodes, network, strict=True):
            node.advertised = proxy.port
        fronts = [await held.enter_async_context(TcpProxy(node.ports.broker)) for node in cluster.nodes]
        cluster.fronts = [proxy.port for proxy in fronts]
        to_third = network[2].port
        cluster.route({(0, 2): to_third, (1, 2): to_third, (2, 0): third.ports.route, (2, 1): third.ports.route})
        async with beside(stack(tmp_path, QUICK, cluster=cluster)) as running:
            await running.apply(document)
            await asyncio.to_thread(running.start_all, *SERVICES, *SECOND)
            async with (
                connect(cluster.url, "test", patience_seconds=PATIENCE_SECONDS) as broker,
                Sender(list(running.ports.values()), chance.randrange(10**6)).running() as books,
            ):
                await acknowledged_again(books)
                for fault in (killed, frozen, restarted, loader_frozen):
                    began = time.monotonic()
                    await fault(running, cluster, broker, books)
                    print(f"{fault.__name__}: {time.monotonic() - began:.0f} s")
                began = time.monotonic()
                await cut_off(running, third, broker=broker, books=books, network=network, fronts=fronts)
                print(f"cut_off: {time.monotonic() - began:.0f} s")
            await verify(running, books, places)
    logs = [path.read_text(errors="replace") for path in cluster.logs.values()]
    assert not [line for log in logs for line in log.splitlines() if "Violation" in line], (
        "a user lacks a right that its work needs"
    )


async def killed(running: Stack, cluster: Cluster, broker: Broker, books: Books) -> None:
    """`kill -9` of each node in turn, first the leader of EVENTS."""
    first = await leader_of(broker, topology.EVENTS)
    for node in sorted(cluster.nodes, key=lambda each: each.node != first):
        await asyncio.to_thread(node.kill)
        await leader_of(broker, topology.EVENTS, other_than=node.node)
        await acknowledged_again(books)
        await asyncio.to_thread(node.start)
        await caught_up(broker)


async def frozen(running: Stack, cluster: Cluster, broker: Broker, books: Books) -> None:
    """The leader of EVENTS stops to run and its sockets stay open; it wakes after another has taken its place."""
    node = cluster.node(await leader_of(broker, topology.EVENTS))
    node.send_signal(signal.SIGSTOP)
    try:
        await leader_of(broker, topology.EVENTS, other_than=node.node)
        await acknowledged_again(books)
    finally:
        node.send_signal(signal.SIGCONT)
    await caught_up(broker)


async def restarted(running: Stack, cluster: Cluster, broker: Broker, books: Books) -> None:
    """A rolling restart in order: every broker, then every service."""
    for node in cluster.nodes:
        await asyncio.to_thread(node.stop)
        await asyncio.to_thread(node.start)
        await caught_up(broker)
    for names in (SERVICES, SECOND):
        codes = await asyncio.gather(*(asyncio.to_thread(running.stop, name) for name in names))
        assert not any(codes), {name: running.log(name) for name, code in zip(names, codes, strict=True) if code}
        for name in names:
            running.start(name)
        for name in names:
            await asyncio.to_thread(running.wait_ready, name)
    await acknowledged_again(books)


async def loader_frozen(running: Stack, cluster: Cluster, broker: Broker, books: Books) -> None:
    """The loader that holds a connection is frozen past its lease, and wakes beside its successor."""
    name = await taken_by(running, "loader.pg")
    running.freeze(name)
    try:
        await succeeded(running, "loader.pg", name)
        await acknowledged_again(books)
    finally:
        running.thaw(name)


async def cut_off(
    running: Stack, third: Node, *, broker: Broker, books: Books, network: Sequence[TcpProxy], fronts: Sequence[TcpProxy]
) -> None:
    """The network between one node and the two others is gone, and all services are connected to this one: they leave it, what it
    leads moves, and it finds back."""
    for proxy in fronts[:2]:
        proxy.refuse()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while any(running.pids[name] not in clients_of(third) for name in (*SERVICES, *SECOND)):
            await asyncio.sleep(0.05)
    await acknowledged_again(books)
    assert routes_of(third)
    for proxy in network:
        proxy.refuse()
    for proxy in fronts:
        proxy.accept()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while routes_of(third):
            await asyncio.sleep(0.05)
    for name in (topology.EVENTS, topology.DELIVER):
        await leader_of(broker, name, other_than=third.node)
    await acknowledged_again(books)
    for proxy in network:
        proxy.accept()
    await caught_up(broker)
