"""The link to NATS: one per process. It reconnects for ever, and publishers, readers and watches use it.

A read loop of nats-py can die while the client believes to be connected, and a half-open socket shows only in missing pings.
So the client pings every two seconds and a watchdog asks for a round trip. When that fails twice, the watchdog makes the client
reconnect. Everything here survives the broker's absence: publishers wait up to their deadline, readers and watches start again
where they stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import APIError

from shared.errors import NotConnected
from shared.jetstream.client import HearingClient
from shared.jetstream.publisher import Publisher
from shared.tasks import timeout

PENDING_BYTES = 16 * 1024 * 1024
WATCHDOG_SECONDS = 5.0
_DENIED = "permissions violation"

log = logging.getLogger(__name__)


class Broker:
    """An open link: `nc` and `js` of nats-py for management calls, `publisher` for messages that must be durable."""

    def __init__(self, nc: Client) -> None:
        self.nc = nc
        self.js: JetStreamContext = nc.jetstream(timeout=10)
        self.publisher = Publisher(nc)
        self._reconnected: set[Callable[[], None]] = set()
        self.connected = asyncio.Event()
        self.trouble = ""
        """Why there is no link, in words for `/ready`; empty: there is one, or none was tried yet."""
        self.denied = ""
        """The last action that the broker denied its user. The broker never answers a denied request, so only this tells of it."""

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls `callback` after each reconnection; returns a function that ends that."""
        self._reconnected.add(callback)
        return lambda: self._reconnected.discard(callback)

    def _note_disconnect(self) -> None:
        self.connected.clear()

    def _note_error(self, error: Exception) -> None:
        text = str(error).strip()
        if self.nc.is_connected:
            log.debug("nats client error", extra={"error": text})
            if _DENIED in text.lower():
                self.denied = text.removeprefix("nats: ")
                log.warning("the broker denies a permission", extra={"error": self.denied})
            return
        why = _why_not_connected(error)
        if why != self.trouble:
            self.trouble = why
            log.warning("the broker cannot be reached", extra={"error": why})

    def _note_reconnect(self) -> None:
        self.trouble = ""
        self.connected.set()
        self.publisher.resend_all()
        for callback in list(self._reconnected):
            callback()


@contextlib.contextmanager
def asking(failure: str) -> Iterator[None]:
    """Translates what the client raises while the body asks the broker.

    Args:
        failure: what failed, for the message.

    Raises:
        NotConnected: the broker does not answer or refuses. That includes `NotFoundError`, unless the body catches it.
    """
    try:
        yield
    except (APIError, NatsError, OSError, TimeoutError) as exc:
        raise NotConnected(f"{failure}: {str(exc) or type(exc).__name__}") from exc


@contextlib.asynccontextmanager
async def connect(url: str, name: str, *, patience_seconds: float | None = None, wait: bool = True) -> AsyncIterator[Broker]:
    """Opens the connection and closes it at the end.

    Args:
        url: one or more `nats://` addresses, separated by commas; user and password may stand in them.
        name: shown in the server's connection list.
        patience_seconds: how long to wait for the first connection; None: for ever.
        wait: False: yield at once and connect meanwhile. Until `connected` is set, use only publishers, readers and watches;
            they wait.

    Raises:
        NotConnected: no server answered in time.
    """
    nc = HearingClient()
    broker = Broker(nc)
    tasks: list[asyncio.Task[None]] = []
    try:
        if wait:
            try:
                async with timeout(patience_seconds):
                    await _establish(broker, url, name)
            except TimeoutError as exc:
                raise NotConnected(
                    f"no connection to {without_password(url)} within {patience_seconds:g} s: {broker.trouble or 'no answer'}"
                ) from exc
        else:
            tasks.append(asyncio.create_task(_establish(broker, url, name), name="broker-connect"))
        tasks.append(asyncio.create_task(_watch(broker), name="broker-watchdog"))
        yield broker
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        broker.publisher.close()
        with contextlib.suppress(NatsError, OSError, TimeoutError):
            async with timeout(2):
                await nc.close()
        await nc.end_tasks()


async def _establish(broker: Broker, url: str, name: str) -> None:
    nc = broker.nc

    async def disconnected() -> None:
        if broker.connected.is_set() and not nc.is_closed:
            broker._note_disconnect()
            log.warning("broker connection lost")

    async def reconnected() -> None:
        log.info("broker connection restored")
        broker._note_reconnect()

    async def failed(exc: Exception) -> None:
        broker._note_error(exc)

    servers = [server.strip() for server in url.split(",")]
    while True:
        try:
            await nc.connect(
                servers=servers,
                name=name,
                error_cb=failed,
                disconnected_cb=disconnected,
                reconnected_cb=reconnected,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.25,  # type: ignore[arg-type]  # annotated int, used as seconds for sleep
                connect_timeout=2,
                ping_interval=2,
                max_outstanding_pings=3,
                pending_size=PENDING_BYTES,
                skip_subject_validation=True,
                allow_reconnect=True,
            )
            break
        except (NatsError, OSError) as exc:
            broker._note_error(exc)
            await asyncio.sleep(0.25)
    await broker.publisher.start()
    broker._note_reconnect()


async def _watch(broker: Broker) -> None:
    misses = 0
    while True:
        await asyncio.sleep(WATCHDOG_SECONDS)
        if not broker.nc.is_connected:
            misses = 0
            continue
        try:
            await broker.nc.flush(timeout=3)
            misses = 0
        except (NatsError, OSError, TimeoutError):
            misses += 1
            if misses >= 2:
                misses = 0
                log.warning("broker does not answer; connecting again")
                with contextlib.suppress(NatsError, OSError, TimeoutError):
                    await broker.nc.force_reconnect()


def _why_not_connected(error: Exception) -> str:
    if "authorization" in str(error).lower() or "authentication" in str(error).lower():
        return "it refuses the user or the password; correct its address (PENSTOCK_NATS_URL, --url)"
    if isinstance(error, socket.gaierror):
        return "the name of its host is not known; correct its address (PENSTOCK_NATS_URL, --url)"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there; start the broker, or correct its address (PENSTOCK_NATS_URL, --url)"
    if isinstance(error, TimeoutError):
        return "it does not answer; look at the broker and the network"
    return f"{str(error).strip().removeprefix('nats: ') or type(error).__name__}; look at the broker's log"


def without_password(url: str) -> str:
    """Returns addresses without their passwords."""
    return ",".join(part.split("@")[-1] for part in url.split(","))
