"""A client of a cluster leaves a node that hangs, and stays where it is while no other node is better."""

from __future__ import annotations

import asyncio
import asyncio.constants
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator

import pytest

from penstock.stack.certificates import certificates
from shared.errors import NotConnected, Transient
from shared.jetstream import topology
from shared.jetstream.broker import Broker, connect
from shared.jetstream.client import HearingClient
from shared.jetstream.topology import TopologySettings
from shared.jetstream.watch import watchdog
from shared.jetstream.watch.others import better_node
from tests.support.nats import NatsServer
from tests.support.nats_cluster import Cluster, Node, nats_cluster
from tests.support.tcp_proxy import TcpProxy

pytestmark = pytest.mark.timeout(300)

PATIENCE_SECONDS = 120.0
FOR_EVER_SECONDS = 3600.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("leaving")
    with nats_cluster(Cluster(folder, certificates=certificates(folder / "tls"))) as running:
        yield running


@contextlib.asynccontextmanager
async def at_third(cluster: Cluster) -> AsyncIterator[tuple[Broker, Node]]:
    """A client that is connected to the third node and may go to every node."""
    async with contextlib.AsyncExitStack() as held:
        ports = [await held.enter_async_context(TcpProxy(node.ports.broker)) for node in cluster.nodes]
        cluster.fronts = [proxy.port for proxy in ports]
        for proxy in ports[:2]:
            proxy.refuse()
        broker = await held.enter_async_context(connect(cluster.address("router"), "test", patience_seconds=PATIENCE_SECONDS))
        await topology.ensure(broker, TopologySettings(replicas=3))
        for proxy in ports[:2]:
            proxy.accept()
        try:
            yield broker, cluster.nodes[2]
        finally:
            cluster.fronts = ()


async def test_a_client_stays_at_its_node_while_no_other_answers(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    found: asyncio.Queue[str | None] = asyncio.Queue()
    moved: list[str] = []

    async def look(*arguments: object) -> str | None:
        node = await better_node(*arguments)  # type: ignore[arg-type]
        found.put_nowait(node)
        return node

    async def move(_: HearingClient, server: str) -> None:
        moved.append(server)

    monkeypatch.setattr(watchdog, "better_node", look)
    monkeypatch.setattr(HearingClient, "move_to", move)
    async with at_third(cluster) as (broker, _):
        for node in cluster.nodes[:2]:
            node.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(Transient):
                await broker.publisher.publish("dead.router.c", b"x", msg_id="stays", deadline_seconds=3)
            async with asyncio.timeout(PATIENCE_SECONDS):
                assert await found.get() is None
            assert not moved
        finally:
            for node in cluster.nodes[:2]:
                node.send_signal(signal.SIGCONT)
        await stored(broker, "dead.router.c", "stays")


async def stored(broker: Broker, subject: str, msg_id: str) -> None:
    """Publishes until the stream has it."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            with contextlib.suppress(Transient, NotConnected):
                await broker.publisher.publish(subject, b"x", msg_id=msg_id)
                return


async def test_a_client_leaves_a_node_that_hangs_without_its_farewell(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio.constants, "SSL_SHUTDOWN_TIMEOUT", FOR_EVER_SECONDS)  # of TLS
    async with at_third(cluster) as (broker, third):
        third.send_signal(signal.SIGSTOP)
        try:
            await stored(broker, "dead.router.c", "leaves")
        finally:
            third.send_signal(signal.SIGCONT)


async def test_an_error_for_which_the_server_closes_a_connection_does_not_close_the_client(broker: Broker) -> None:
    """nats-py would close for ever: the service would neither end nor go on."""
    again = asyncio.Event()
    broker.on_reconnect(again.set)
    transport = broker.nc._transport
    assert transport is not None
    transport.write(b"nonsense\r\n")
    async with asyncio.timeout(PATIENCE_SECONDS):
        await again.wait()
    await stored(broker, "dead.router.c", "again")


async def test_a_client_whose_password_is_changed_goes_on_asking_and_says_why(nats: NatsServer) -> None:
    address = nats.url.replace("://", "://penstock:first@")
    restart_with(nats, "first", at_once=True)
    async with connect(address, "test", patience_seconds=PATIENCE_SECONDS) as broker:
        await topology.ensure(broker, TopologySettings())
        restart_with(nats, "second")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while "refuses the user or the password" not in broker.trouble:
                await asyncio.sleep(0.02)
        assert not broker.nc.is_connected
        waiting = asyncio.create_task(stored(broker, "dead.router.c", "later"))
        await asyncio.sleep(0)
        restart_with(nats, "first")
        await waiting
        assert broker.trouble == ""


def restart_with(nats: NatsServer, password: str, *, at_once: bool = False) -> None:
    """Changes the password of the one user of a server that runs; `at_once`: starts it again."""
    nats.more_config = f"authorization {{ user: penstock, password: {password} }}\n"
    if at_once:
        nats.stop()
        nats.start()
    else:
        nats.command()  # writes the file
        nats.send_signal(signal.SIGHUP)
