"""The watchdog of a link: it asks the node from time to time, and at once when an answer is missing, and leaves a node that is of no use.

It leaves a node that does not answer at all, and a node of a cluster at which JetStream does not answer while it does at another.
So a client never wanders while no node is better, and a broker that is no cluster is only left when it is silent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl

from nats.errors import Error as NatsError

from shared.jetstream import topology
from shared.jetstream.address import Address
from shared.jetstream.client import HearingClient
from shared.jetstream.watch.node import answers
from shared.jetstream.watch.others import better_node
from shared.tasks import timeout

IDLE_SECONDS = 5.0
"""How often it asks while nothing is wrong."""
PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 8.0
"""Between two questions while no node is better."""
ANSWER_SECONDS = 2

log = logging.getLogger(__name__)


class Suspicion:
    """Which streams did not answer a client. To note one costs nothing, so it may be done for each message without an answer."""

    def __init__(self) -> None:
        self._streams: set[str] = set()
        self.noted = asyncio.Event()

    def note(self, stream: str) -> None:
        """A stream did not answer, or says that it cannot."""
        self._streams.add(stream)
        self.noted.set()

    def note_subject(self, subject: str) -> None:
        """The stream that takes a subject did not answer."""
        first, _, rest = subject.partition(".")
        self.note(f"KV_{rest.partition('.')[0]}" if first == "$KV" else first.upper())

    def taken(self) -> set[str]:
        """Returns the streams noted since the last call, and EVENTS."""
        streams, self._streams = self._streams, set()
        self.noted.clear()
        return {topology.EVENTS, *streams}


async def watch(nc: HearingClient, address: Address, tls: ssl.SSLContext | None, suspicion: Suspicion) -> None:
    """Watches the link for ever."""
    silent, pause = 0, PAUSE_SECONDS
    while True:
        with contextlib.suppress(TimeoutError):
            async with timeout(IDLE_SECONDS):
                await suspicion.noted.wait()
        streams = suspicion.taken()
        if not nc.is_connected:
            silent, pause = 0, PAUSE_SECONDS
            await asyncio.sleep(PAUSE_SECONDS)
            continue
        here = nc.server_id
        linked, answered = await asyncio.gather(_linked(nc), _answered(nc, streams))
        if linked and answered:
            silent, pause = 0, PAUSE_SECONDS
        elif nc.in_cluster and (server := await better_node(nc, address, tls, streams)) is not None:
            if nc.is_connected and nc.server_id == here:
                log.warning("JetStream does not answer at this node and does at another; going there", extra={"node": server})
                with contextlib.suppress(NatsError, OSError, TimeoutError):  # then it asks again
                    await nc.move_to(server)
        elif linked:
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        else:
            silent += 1
            if silent >= 2 and nc.is_connected:
                silent = 0
                log.warning("broker does not answer; connecting again")
                with contextlib.suppress(NatsError, OSError, TimeoutError):
                    await nc.force_reconnect()
        await asyncio.sleep(pause)


async def _linked(nc: HearingClient) -> bool:
    try:
        await nc.flush(timeout=ANSWER_SECONDS)
    except (NatsError, OSError, TimeoutError):
        return False
    return True


async def _answered(nc: HearingClient, streams: set[str]) -> bool:
    return not nc.in_cluster or await answers(nc, streams)
