"""The link to NATS: one per process. It reconnects for ever, and publishers, readers and watches use it.

A read loop of nats-py can die while the client believes to be connected, and a half-open socket shows only in missing pings.
So the client pings every two seconds, and a watchdog (`shared/jetstream/watch`) leaves a broker that does not answer, and a node of
a cluster at which JetStream does not answer. Everything here survives the broker's absence: publishers wait up to their deadline, readers and watches start again
where they stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TypeVar

import msgspec
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import StreamConfig
from nats.js.errors import APIError, NotFoundError

from shared.errors import Denied, NotConnected
from shared.jetstream.address import Address, parse_address, without_password
from shared.jetstream.client import HearingClient
from shared.jetstream.publisher import Publisher
from shared.jetstream.watch.watchdog import Suspicion, watch
from shared.tasks import timeout

T = TypeVar("T")

DELETE_SECONDS = 10.0
PENDING_BYTES = 16 * 1024 * 1024
LOOK_SECONDS, LOOKS = 2, 5
"""How long a stream may take to say what it is, and how often it is asked."""
MOST_TOLD = 100
"""Different denials that are logged."""
_DENIED = "permissions violation"

log = logging.getLogger(__name__)


class Broker:
    """An open link: `nc` and `js` of nats-py for management calls, `publisher` for messages that must be durable."""

    def __init__(self, nc: HearingClient) -> None:
        self.nc = nc
        self.js: JetStreamContext = nc.jetstream(timeout=10)
        self.suspicion = Suspicion()
        """Where to note a stream that does not answer; then the watchdog looks at once."""
        self.publisher = Publisher(nc, self.suspicion.note_subject)
        self._reconnected: set[Callable[[], None]] = set()
        self.connected = asyncio.Event()
        self.trouble = ""
        """Why there is no link, in words for `/ready`; empty: there is one, or none was tried yet."""
        self.denied = ""
        """The last action that the broker denied its user. The broker never answers a denied request, so only this tells of it."""
        self.denying = asyncio.Event()
        """Set when the broker denies an action."""
        self._told: set[str] = set()

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls `callback` after each reconnection; returns a function that ends that."""
        self._reconnected.add(callback)
        return lambda: self._reconnected.discard(callback)

    async def unless_denied(self, stream: str, call: Awaitable[T]) -> T:
        """Waits for a call that asks the broker about a stream, or for its denial.

        Raises:
            Denied: it says which action.
        """
        asked = asyncio.ensure_future(call)
        try:
            while not asked.done():
                self.denying.clear()
                denied = asyncio.ensure_future(self.denying.wait())
                await asyncio.wait({asked, denied}, return_when=asyncio.FIRST_COMPLETED)
                denied.cancel()
                if not asked.done() and f'.{stream}"'.lower() in self.denied.lower():  # else another call was denied meanwhile
                    denial, self.denied = self.denied, ""
                    raise Denied(denial)
            return asked.result()
        finally:
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)

    async def describe(self, stream: str) -> StreamConfig:
        """Returns how a stream is configured.

        A stream that has no leader for the moment does not answer, and the question is gone; so it is asked again.

        Raises:
            TimeoutError: it never answered.
            NotFoundError, Denied: there is none, or the user may not look.
        """
        quick, tries_left = self.nc.jetstream(timeout=LOOK_SECONDS), LOOKS
        while True:
            try:
                return (await self.unless_denied(stream, quick.stream_info(stream))).config
            except TimeoutError:
                self.suspicion.note(stream)
                tries_left -= 1
                if not tries_left:
                    raise

    def _note_disconnect(self) -> None:
        self.connected.clear()
        self.denied = ""  # the next connection may have more rights; the broker tells again what it denies

    def _note_error(self, error: Exception) -> None:
        text = str(error).strip()
        if self.nc.is_connected:
            log.debug("nats client error", extra={"error": text})
            if _DENIED in text.lower():
                denied = text.removeprefix("nats: ")
                if denied not in self._told and len(self._told) < MOST_TOLD:
                    self._told.add(denied)
                    log.warning("the broker denies a permission", extra={"error": denied})
                self.denied = denied
                self.denying.set()
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


async def delete_message(broker: Broker, stream: str, seq: int, *, erase: bool = True) -> None:
    """Deletes a message of a stream; a missing one is no error.

    Args:
        erase: overwrite its bytes on the disk too, which takes the server fifteen times as long.

    Raises:
        NotConnected: not known to be deleted.
    """
    wanted = msgspec.json.encode({"seq": seq, "no_erase": not erase})
    with asking(f"cannot remove a message of {stream}"):
        answer = await broker.nc.request(f"$JS.API.STREAM.MSG.DELETE.{stream}", wanted, timeout=DELETE_SECONDS)
        if b'"error"' in answer.data:  # the server has one code for all that can go wrong
            with contextlib.suppress(NotFoundError):
                await broker.js.get_msg(stream, seq)
                raise NotConnected(f"the broker does not remove a message of {stream}: {answer.data.decode(errors='replace')}")


@contextlib.asynccontextmanager
async def connect(url: str, name: str, *, patience_seconds: float | None = None, wait: bool = True) -> AsyncIterator[Broker]:
    """Opens the connection and closes it at the end.

    Args:
        url: one or more addresses, separated by commas, as `shared/jetstream/address.py` reads them.
        name: shown in the server's connection list.
        patience_seconds: how long to wait for the first connection; None: for ever.
        wait: False: yield at once and connect meanwhile. Until `connected` is set, use only publishers, readers and watches;
            they wait.

    Raises:
        NotConnected: no server answered in time.
        ConfigError: the address is wrong, or names a file that cannot be read.
    """
    address = parse_address(url)
    tls = address.context()
    nc = HearingClient(inbox_prefix=address.inbox_prefix, only_tls=address.tls)
    broker = Broker(nc)
    tasks: list[asyncio.Task[None]] = []
    try:
        if wait:
            try:
                async with timeout(patience_seconds):
                    await _establish(broker, address, tls, name)
            except TimeoutError as exc:
                raise NotConnected(
                    f"no connection to {without_password(url)} within {patience_seconds:g} s: {broker.trouble or 'no answer'}"
                ) from exc
        else:
            tasks.append(asyncio.create_task(_establish(broker, address, tls, name), name="broker-connect"))
        tasks.append(asyncio.create_task(watch(nc, address, tls, broker.suspicion), name="broker-watchdog"))
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


async def _establish(broker: Broker, address: Address, tls: ssl.SSLContext | None, name: str) -> None:
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

    while True:
        try:
            await nc.connect(
                servers=random.sample(address.servers, len(address.servers)),
                dont_randomize=True,  # so that the one it leaves comes last
                name=name,
                user=address.user,
                password=address.password,
                token=address.token,
                tls=tls,
                inbox_prefix=address.inbox_prefix,
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


def _why_not_connected(error: Exception) -> str:
    if "authorization" in str(error).lower() or "authentication" in str(error).lower():
        return "it refuses the user or the password; correct its address (PENSTOCK_NATS_URL, --url)"
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not good: {error.verify_message}; name the file of the authority that signed it in the address "
            "(tls://host:4222?ca=FILE), and call the server by a name of its certificate"
        )
    if isinstance(error, ssl.SSLError):
        return f"TLS fails: {error.reason or error}; look at the broker's log"
    if isinstance(error, socket.gaierror):
        return "the name of its host is not known; correct its address (PENSTOCK_NATS_URL, --url)"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there; start the broker, or correct its address (PENSTOCK_NATS_URL, --url)"
    if isinstance(error, TimeoutError):
        return "it does not answer; look at the broker and the network"
    return f"{str(error).strip().removeprefix('nats: ') or type(error).__name__}; look at the broker's log"
