"""The streams of the broker and its servers as metrics: size, limit, age, readers, copies, disk.

One router at a time measures (a lease), so that the broker answers once however many services run. A former holder forgets its
values. One request lists all streams with the state of their copies, one more each stream with readers lists these.

What JetStream may take of a server's disk is told by the server's monitoring address only (`http_port`; `/varz`), so its values
are there if `PENSTOCK_ROUTER_NATS_MONITOR` names the addresses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import cast
from urllib.parse import urlsplit

import aiohttp
import msgspec

from router.forwarding.keeper import look_while_held
from shared.errors import NotConnected
from shared.jetstream import topology
from shared.jetstream.broker import Broker, asking
from shared.jetstream.lease import hold
from shared.service import ServiceContext
from shared.tasks import together
from shared.telemetry.declared.of_streams import OF_STREAMS
from shared.telemetry.metrics import Telemetry
from shared.telemetry.names import GaugeName

LEASE = "keeper.measured"
PERIOD_SECONDS = 5.0
ASK_SECONDS = 5.0
MONITOR_SECONDS = 2.0
READ = (topology.EVENTS, topology.FUNCTIONS, topology.DELIVER, topology.RETRY)
"""Streams whose readers are measured."""

_TOLD_BY_ALL = "stream_fill_ratio"
_MINE = tuple(cast("GaugeName", metric.name) for metric in OF_STREAMS if metric.name != _TOLD_BY_ALL)


class Copy(msgspec.Struct, frozen=True):
    """A copy of a stream beside its leader's."""

    current: bool = False
    lag: int = 0


class Copies(msgspec.Struct, frozen=True):
    """The leader of a stream, and its other copies; a server without a cluster names none."""

    leader: str = ""
    replicas: list[Copy] | None = None


class Config(msgspec.Struct, frozen=True):
    """Limits of a stream; -1: none."""

    name: str
    max_bytes: int = -1
    num_replicas: int = 1


class State(msgspec.Struct, frozen=True):
    """Content of a stream."""

    messages: int = 0
    bytes: int = 0
    last_seq: int = 0
    first_ts: datetime | None = None
    consumer_count: int = 0


class Stream(msgspec.Struct, frozen=True):
    """A stream, as the broker lists it."""

    config: Config
    state: State
    cluster: Copies | None = None


class Reader(msgspec.Struct, frozen=True):
    """A consumer, as the broker lists it."""

    num_pending: int = 0
    num_ack_pending: int = 0
    num_redelivered: int = 0


class Page(msgspec.Struct, frozen=True):
    """A page of the list of streams, or of a stream's consumers. `missing`: streams whose leader did not answer."""

    total: int = 0
    streams: list[Stream] | None = None
    consumers: list[Reader] | None = None
    missing: list[str] | None = None
    error: dict[str, msgspec.Raw] | None = None


class Storage(msgspec.Struct, frozen=True):
    """Room of JetStream on a server."""

    max_storage: int = 0


class Api(msgspec.Struct, frozen=True):
    """Requests to JetStream on a server."""

    total: int = 0
    errors: int = 0


class Used(msgspec.Struct, frozen=True):
    """Use of JetStream on a server."""

    storage: int = 0
    reserved_storage: int = 0
    api: Api = Api()


class JetStream(msgspec.Struct, frozen=True):
    """JetStream of a server; empty where it has none."""

    config: Storage = Storage()
    stats: Used = Used()


class Server(msgspec.Struct, frozen=True):
    """The answer of `/varz` (nats-server, server/monitor.go), as far as it is used."""

    mem: int = 0
    cpu: float = 0.0
    connections: int = 0
    slow_consumers: int = 0
    jetstream: JetStream = JetStream()
    tls_cert_not_after: datetime | None = None


async def keep_measured(context: ServiceContext, monitors: str) -> None:
    """Measures for ever, while this process holds the lease for it.

    Args:
        monitors: monitoring addresses of the broker's servers, separated by commas; may be empty.
    """
    addresses = [each.strip() for each in monitors.split(",") if each.strip()]
    while True:
        async with (
            hold(context.broker, LEASE, context.instance) as lease,
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=MONITOR_SECONDS)) as session,
        ):

            async def look(session: aiohttp.ClientSession = session) -> None:
                await measure_servers(session, addresses, context.telemetry)
                await measure_streams(context.broker, context.telemetry, context.clock.now())

            try:
                await look_while_held(lease, "streams", PERIOD_SECONDS, look)
            finally:
                forget(context.telemetry)


async def measure_streams(broker: Broker, telemetry: Telemetry, now: float) -> None:
    """Measures all streams and buckets once.

    Raises:
        NotConnected: the broker does not answer.
    """
    settings = topology.TopologySettings()
    ours = {str(each.name) for each in (*topology.streams(settings), *topology.buckets(settings))}
    for page in await _pages(broker, "STREAM.LIST"):
        for stream in page.streams or ():
            if stream.config.name in ours:
                tell_stream(stream, telemetry, now)
        for name in page.missing or ():
            if name in ours:
                telemetry.gauge("stream_replicas_current", 0, stream=name)
    for name in READ:
        pages = await _pages(broker, f"CONSUMER.LIST.{name}")
        tell_readers(name, [each for page in pages for each in page.consumers or ()], telemetry)


async def measure_servers(session: aiohttp.ClientSession, addresses: Iterable[str], telemetry: Telemetry) -> None:
    """Asks all servers at once; one that does not answer is down, and its other values are gone."""

    async def one(address: str) -> None:
        server = urlsplit(address).netloc or address
        try:
            async with session.get(f"{address.rstrip('/')}/varz") as answer:
                answer.raise_for_status()
                tell_server(server, msgspec.json.decode(await answer.read(), type=Server), telemetry)
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError, ValueError):
            forget(telemetry, server=server)
            telemetry.gauge("broker_up", 0, server=server)

    await together(*(one(each) for each in addresses))


def tell_stream(stream: Stream, telemetry: Telemetry, now: float) -> None:
    """Writes the metrics of a stream."""
    name, config, state = stream.config.name, stream.config, stream.state
    telemetry.gauge("stream_bytes", state.bytes, stream=name)
    if config.max_bytes > 0:
        telemetry.gauge("stream_limit_bytes", config.max_bytes, stream=name)
    telemetry.gauge("stream_messages", state.messages, stream=name)
    telemetry.gauge("stream_last_sequence", state.last_seq, stream=name)
    oldest = now - state.first_ts.timestamp() if state.messages and state.first_ts is not None else 0.0
    telemetry.gauge("stream_oldest_seconds", max(0.0, oldest), stream=name)
    telemetry.gauge("stream_readers", state.consumer_count, stream=name)
    copies = stream.cluster or Copies(leader=name)
    others = copies.replicas or []
    telemetry.gauge("stream_replicas", config.num_replicas, stream=name)
    current = 1 + sum(each.current for each in others) if copies.leader else 0
    telemetry.gauge("stream_replicas_current", current, stream=name)
    telemetry.gauge("stream_replica_lag_messages", max((each.lag for each in others), default=0), stream=name)


def tell_readers(name: str, readers: Sequence[Reader], telemetry: Telemetry) -> None:
    """Writes the metrics of a stream's readers."""
    telemetry.gauge("stream_pending_messages", max((each.num_pending for each in readers), default=0), stream=name)
    telemetry.gauge("stream_unacknowledged_messages", sum(each.num_ack_pending for each in readers), stream=name)
    telemetry.gauge("stream_redelivered_messages", sum(each.num_redelivered for each in readers), stream=name)


def tell_server(name: str, server: Server, telemetry: Telemetry) -> None:
    """Writes the metrics of a server that answers."""
    used = server.jetstream.stats
    telemetry.gauge("broker_up", 1, server=name)
    telemetry.gauge("broker_storage_bytes", used.storage, server=name)
    # the broker counts streams without a limit below zero
    telemetry.gauge("broker_storage_reserved_bytes", max(0, used.reserved_storage), server=name)
    telemetry.gauge("broker_storage_limit_bytes", server.jetstream.config.max_storage, server=name)
    telemetry.gauge("broker_memory_bytes", server.mem, server=name)
    telemetry.gauge("broker_cpu_cores", server.cpu / 100, server=name)
    telemetry.gauge("broker_connections", server.connections, server=name)
    telemetry.gauge("broker_slow_consumers", server.slow_consumers, server=name)
    telemetry.gauge("broker_api_requests", used.api.total, server=name)
    telemetry.gauge("broker_api_errors", used.api.errors, server=name)
    if server.tls_cert_not_after is not None:
        telemetry.gauge("broker_certificate_expires_seconds", server.tls_cert_not_after.timestamp(), server=name)


def forget(telemetry: Telemetry, **labels: str) -> None:
    """Removes the values; another process measures now, or the server that the labels name is down."""
    telemetry.forget(*_MINE, **labels)


async def _pages(broker: Broker, what: str) -> list[Page]:
    """Reads a list of the broker to its end."""
    pages: list[Page] = []
    held = 0
    while True:
        with asking(f"cannot read the broker's {what}"):
            answer = await broker.nc.request(f"$JS.API.{what}", msgspec.json.encode({"offset": held}), timeout=ASK_SECONDS)
        page = msgspec.json.decode(answer.data, type=Page)
        if page.error is not None:
            raise NotConnected(f"cannot read the broker's {what}: {bytes(page.error.get('description', b'refused')).decode()}")
        pages.append(page)
        got = len(page.streams or page.consumers or ())
        held += got
        if not got or held >= page.total:
            return pages
