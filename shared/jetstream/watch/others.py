"""Which other node of a cluster a client should go to: one at which JetStream answers while it does not where the client is."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Collection

from nats.errors import Error as NatsError

from shared.jetstream.address import Address
from shared.jetstream.client import HearingClient
from shared.jetstream.watch.node import ASK_SECONDS, answers
from shared.tasks import timeout

CONNECT_SECONDS = 2.0
AGAIN_SECONDS = 1.0
"""How long the client's own node gets to answer, which has not answered before."""


async def better_node(nc: HearingClient, address: Address, tls: ssl.SSLContext | None, streams: Collection[str]) -> str | None:
    """Asks the other nodes and the client's own one at the same time, so that a slow machine is slow for all of them.

    Returns:
        The server of the address at which JetStream answers; None if none does, or if it answers where the client is.
    """
    here = nc.server_id
    tasks = [
        asyncio.create_task(_ask(server, here=here, address=address, tls=tls, streams=streams)) for server in address.servers
    ]
    own = asyncio.create_task(answers(nc, streams, AGAIN_SECONDS))
    try:
        if await own:
            return None
        for answered in asyncio.as_completed(tasks):
            server = await answered
            if server is not None:
                return server
        return None
    finally:
        for task in (own, *tasks):
            task.cancel()
        await asyncio.gather(own, *tasks, return_exceptions=True)


async def _ask(server: str, *, here: str, address: Address, tls: ssl.SSLContext | None, streams: Collection[str]) -> str | None:
    """Returns the server if it is another node than `here` and answers. One name may stand for several nodes."""
    other = HearingClient(inbox_prefix=address.inbox_prefix, only_tls=address.tls)
    try:
        async with timeout(CONNECT_SECONDS + ASK_SECONDS):
            await other.connect(
                servers=[server],
                name="looks for another node",
                user=address.user,
                password=address.password,
                token=address.token,
                tls=tls,
                inbox_prefix=address.inbox_prefix,
                error_cb=_nothing,
                connect_timeout=int(CONNECT_SECONDS),
                allow_reconnect=False,
            )
            return server if other.server_id != here and await answers(other, streams) else None
    except (NatsError, OSError, TimeoutError):
        return None
    finally:
        other.abort()
        with contextlib.suppress(NatsError, OSError, TimeoutError):
            async with timeout(CONNECT_SECONDS):
                await other.close()
        await other.end_tasks()


async def _nothing(_: Exception) -> None:
    """Says nothing: a node that does not answer is no news here."""
