"""The users of `deploy/nats/users.conf` on a real server: what each may not do is denied, and the broker says so; TLS."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Iterator
from pathlib import Path

import msgspec
import pytest

from penstock.stack.certificates import certificates
from penstock.stack.home import SERVICES
from penstock.stack.nodes import COMMAND, SYSTEM
from router.alerts.store import (
    ALL,
    Answer,
    Silence,
    ask_test,
    asked_tests,
    read_answer,
    remove_others,
    write_answer,
    write_silence,
)
from router.layouts import Layouts
from router.shards.keeper import LEASE as KEEPER
from shared.errors import Transient
from shared.events.shards import Layout, layout_key
from shared.jetstream import topology
from shared.jetstream.broker import Broker, connect
from shared.jetstream.kv import Bucket
from shared.jetstream.lease import hold
from shared.jetstream.topology import TopologySettings
from shared.settings import ServiceSettings
from shared.streams.reports import key_of
from shared.telemetry.health import Health
from shared.telemetry.metrics import Telemetry
from tests.e2e.router.alert_support import Evaluation
from tests.support.nats_cluster import Cluster, nats_cluster

pytestmark = pytest.mark.timeout(120)

COPY = "$JS.API.STREAM.CREATE.COPY"
DENIED_SECONDS = 30.0
NOBODY = (
    "$JS.API.STREAM.DELETE.EVENTS", "$JS.API.STREAM.RESTORE.EVENTS", COPY, "$SYS.REQ.SERVER.PING",
    "$JS.API.CONSUMER.CREATE.EVENTS.x.>", "$KV.leases.other.x", "other.x", "_INBOX.other.x",
)  # fmt: skip
"""What no user of a service may publish; the router may make streams."""
NOT_BY = {
    "ingest": ("deliver.c", "functions.c", "retry.loader.c", "dead.loader.c", "$KV.config.project", "$KV.state.router.shop"),
    "router": ("events.shop.0", "retry.loader.c", "dead.ingest.shop", "$KV.config.project", "$KV.state.plan.c", "$JS.ACK.DELIVER.x"),
    "functions_runtime": ("events.shop.0", "functions.c", "$KV.config.project", "$JS.API.STREAM.PURGE.FUNCTIONS", "$JS.ACK.DELIVER.x"),
    "loader": ("events.shop.0", "deliver.c", "$KV.config.project", "$JS.API.STREAM.PURGE.EVENTS", "$JS.ACK.FUNCTIONS.x"),
    "connector_runner": ("deliver.c", "functions.c", "$KV.config.project", "$JS.API.STREAM.MSG.GET.EVENTS", "$JS.ACK.DELIVER.x"),
    COMMAND: ("$JS.ACK.DELIVER.x", "$JS.API.CONSUMER.CREATE.DELIVER.x.deliver.c", "$JS.API.STREAM.UPDATE.EVENTS"),
}  # fmt: skip
MAKES_STREAMS = "router"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("users")
    with nats_cluster(Cluster(folder, nodes=1, certificates=certificates(folder / "tls"))) as cluster:
        yield cluster


@pytest.fixture
async def ready(server: Cluster) -> Cluster:
    async with connect(server.address(MAKES_STREAMS), "router", patience_seconds=60) as broker:
        await topology.ensure(broker, TopologySettings())
    return server


async def denial(broker: Broker, action: Awaitable[object]) -> str:
    """Returns what the server says of an action that it denies; an empty text if it says nothing."""
    broker.denying.clear()
    broker.denied = ""
    await action
    try:
        async with asyncio.timeout(DENIED_SECONDS):
            await broker.denying.wait()
    except TimeoutError:
        return ""
    return broker.denied.lower()


async def cannot_connect(address: str, why: str) -> None:
    """Waits until a client that cannot connect says why, as `/ready` has it."""
    async with connect(address, "test", wait=False) as broker:
        try:
            async with asyncio.timeout(60):
                while not re.search(why, broker.trouble):  # a reset may come before the server's word
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"it says {broker.trouble!r}") from None
        assert not broker.connected.is_set()


@pytest.mark.parametrize("user", [*SERVICES, COMMAND])
async def test_a_user_can_do_nothing_beyond_its_work(ready: Cluster, user: str) -> None:
    async with connect(ready.address(user), "test", patience_seconds=60) as broker:
        for subject in (*NOBODY, *NOT_BY[user]):
            if (user, subject) != (MAKES_STREAMS, COPY):
                said = await denial(broker, broker.nc.publish(subject, b"x"))
                assert f'publish to "{subject.lower()}"' in said, f"{user} may publish to {subject}: {said}"
        for subject in (">", "events.>", "_INBOX.>", "_INBOX.other.>", "$JS.API.>", "$KV.config.>"):
            said = await denial(broker, broker.nc.subscribe(subject))
            assert f'subscription to "{subject.lower()}"' in said, f"{user} may subscribe to {subject}: {said}"
        assert not await topology.missing(broker), "but it may look at streams"


async def test_only_the_router_widens_streams_and_the_others_go_on(ready: Cluster) -> None:
    async with (
        connect(ready.address("loader"), "loader", patience_seconds=60) as loader,
        connect(ready.address(MAKES_STREAMS), "router", patience_seconds=60) as router,
    ):
        await topology.ensure(loader, TopologySettings(deliver_max_frames=30_000))
        config = (await router.js.stream_info(topology.DELIVER)).config
        assert config.max_msgs_per_subject == 20_000, "a denied wish to widen leaves the stream as it is, and the service goes on"
        await topology.ensure(router, TopologySettings(deliver_max_frames=30_000))
        assert (await router.js.stream_info(topology.DELIVER)).config.max_msgs_per_subject == 30_000


async def test_no_user_reads_the_answers_to_another(ready: Cluster) -> None:
    async with connect(ready.address("loader"), "loader", patience_seconds=60) as broker:
        assert broker.nc.new_inbox().startswith("_INBOX.loader.")
        assert broker.publisher._inbox.startswith("_INBOX.loader.")


async def test_the_system_user_sees_the_server_and_no_events(ready: Cluster) -> None:
    async with connect(ready.address(SYSTEM), "people", patience_seconds=60) as broker:
        # its user may listen everywhere in its own account, where no stream is
        answer = await broker.nc.request("$SYS.REQ.SERVER.PING", b"", timeout=30)
        assert b"nats-1" in answer.data


async def test_a_server_whose_authority_is_unknown_is_refused_and_said_so(server: Cluster, tmp_path: Path) -> None:
    other = certificates(tmp_path / "other").ca
    address = re.sub(r"\?ca=.*", f"?ca={other}", server.url)
    for wrong in (address, address.partition("?")[0], address.partition("?")[0].replace("tls://", "nats://")):
        await cannot_connect(wrong, r"its certificate is not good: .*ca=FILE")


async def test_a_client_without_tls_is_refused_by_the_server(server: Cluster) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.nodes[0].port)
    assert b'"tls_required":true' in await reader.readline()
    writer.write(b'CONNECT {"user":"loader","pass":"' + server.passwords["loader"].encode() + b'","verbose":false}\r\nPING\r\n')
    said = await reader.read()
    writer.close()
    assert b"PONG" not in said


async def test_a_password_is_never_sent_to_a_server_without_tls() -> None:
    heard = bytearray()

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.15.0","headers":true,"max_payload":1048576,"auth_required":true}\r\n')
        heard.extend(await reader.read(4096))
        writer.close()

    listener = await asyncio.start_server(plain, "127.0.0.1", 0, family=socket.AF_INET)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        await cannot_connect(f"tls://loader:hidden@127.0.0.1:{port}", "the broker speaks without TLS and the address demands it")
    assert not heard


async def test_a_wrong_password_is_refused_and_said_so(server: Cluster) -> None:
    wrong = server.address("loader").replace(server.passwords["loader"], "wrong")
    await cannot_connect(wrong, "it refuses the user or the password")


async def test_a_missing_stream_is_named_with_the_remedy(tmp_path: Path) -> None:
    with nats_cluster(Cluster(tmp_path, nodes=1)) as empty:
        async with connect(empty.address("loader"), "loader", patience_seconds=60) as broker:
            with pytest.raises(Transient, match=r"it is missing, and the user .* may not make it .* start a router"):
                await topology.ensure(broker, TopologySettings())


async def test_a_router_may_evaluate_alerts_and_every_service_may_say_its_health(ready: Cluster) -> None:
    telemetry = Telemetry("test", ServiceSettings())
    async with connect(ready.address("router"), "router", patience_seconds=60) as broker:
        evaluation = Evaluation(broker, telemetry)
        asked = await asked_tests(broker, ["ops"])
        await evaluation.look()
        await remove_others(broker, {}, {})
        await write_answer(broker, "ops", Answer("x", ""))
        assert (asked, broker.denied) == ({}, "")
    telemetry.shutdown()
    for user in SERVICES:
        async with connect(ready.address(user), user, patience_seconds=60) as broker:
            await Bucket(broker, topology.LEASE_BUCKET).put(key_of(user), b"{}", ttl_seconds=1)
    async with connect(ready.address(COMMAND), COMMAND, patience_seconds=60) as broker:
        await ask_test(broker, "ops", "x")
        await write_silence(broker, ALL, Silence(until=1.0), 0.0)
        assert await read_answer(broker, "ops", "x") == Answer("x", "")
        assert broker.denied == ""


async def test_a_router_may_follow_and_change_the_shards_of_sites(ready: Cluster) -> None:
    layouts = Layouts(Health())
    async with connect(ready.address("router"), "router", patience_seconds=60) as broker, asyncio.timeout(60):
        await layouts.load(broker)
        following = asyncio.create_task(layouts.follow(broker))
        changed = asyncio.create_task(layouts.changed())
        async with hold(broker, KEEPER, "router-1"):
            await Bucket(broker, topology.STATE_BUCKET).put(layout_key("shop"), msgspec.json.encode(Layout(wish=2)), revision=0)
            await changed
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await layouts.load(broker)
        assert layouts.known["shop"].wish == 2
        assert broker.denied == ""
