"""When certificates of TLS end: of the broker, of servers that the project names by https, and of servers that alerts list.

A server is asked for its certificate once an hour: no data is exchanged. Of a server that cannot be
reached nothing is known, which is no fault of a certificate.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from cryptography import x509

from shared.tasks import timeout

HOUR_SECONDS = 3600.0
PROBE_SECONDS = 5.0
AT_ONCE = 8
"""Servers that one look asks."""
MOST_SERVERS = 100
_HTTPS = re.compile(r"^https://[^\s{}]+$")

log = logging.getLogger(__name__)


class Server(NamedTuple):
    """A place with TLS; `nats`: the broker's, which begins in the clear."""

    host: str
    port: int
    nats: bool = False

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Certificates:
    """Looks at certificates, each once an hour."""

    def __init__(self, look_seconds: float = HOUR_SECONDS) -> None:
        self._look_seconds = look_seconds
        self._known: dict[Server, tuple[float, float | None]] = {}

    async def ends(self, servers: set[Server]) -> dict[str, float | None]:
        """Returns when each certificate ends (epoch seconds); None: it is not known."""
        wanted = sorted(servers)[:MOST_SERVERS]
        now = asyncio.get_running_loop().time()
        self._known = {server: known for server, known in self._known.items() if server in servers}
        stale = [each for each in wanted if each not in self._known or now - self._known[each][0] >= self._look_seconds]

        async def look(server: Server) -> None:
            found = await end_of(server)
            before = self._known.get(server)
            # a server that is away for a moment keeps its certificate
            self._known[server] = (now, found if found is not None or before is None else before[1])

        # a few at each look, so that servers that are away do not hold up what else is told
        await asyncio.gather(*(look(server) for server in stale[:AT_ONCE]))
        return {str(server): self._known[server][1] if server in self._known else None for server in wanted}


async def end_of(server: Server) -> float | None:
    """Returns when the certificate of a server ends; None: it cannot be reached or has none."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # a wrong certificate ends, too
    with contextlib.suppress(OSError, TimeoutError, ssl.SSLError, ValueError, asyncio.IncompleteReadError):
        async with timeout(PROBE_SECONDS):
            if server.nats:
                reader, writer = await asyncio.open_connection(server.host, server.port)
            else:
                reader, writer = await asyncio.open_connection(server.host, server.port, ssl=context, server_hostname=server.host)
            try:
                if server.nats:
                    await reader.readline()  # INFO
                    await writer.start_tls(context, server_hostname=server.host)
                found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
                return x509.load_der_x509_certificate(found).not_valid_after_utc.timestamp() if found else None
            finally:
                writer.close()
    return None


def servers_of(documents: Iterable[Mapping[str, Any]], listed: list[str], nats_url: str) -> set[Server]:
    """Returns the servers with TLS that the project and the settings name. Pure.

    Args:
        documents: entries of the project file that may hold addresses.
        listed: servers that alerts list, as `host:port`.
        nats_url: addresses of the broker.
    """
    found = {_listed(each) for each in listed}
    for options in documents:
        for address in _addresses(options):
            with contextlib.suppress(ValueError):
                parts = urlsplit(address)
                if parts.hostname:
                    found.add(Server(parts.hostname, parts.port or 443))
    for url in nats_url.split(","):
        with contextlib.suppress(ValueError):
            parts = urlsplit(url.strip())
            if parts.scheme == "tls" and parts.hostname:
                found.add(Server(parts.hostname, parts.port or 4222, nats=True))
    return found


def _listed(text: str) -> Server:
    host, _, port = text.rpartition(":")
    return Server(host.strip("[]"), int(port))


def _addresses(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for each in value.values():
            yield from _addresses(each)
    elif isinstance(value, list):
        for each in value:
            yield from _addresses(each)
    elif isinstance(value, str) and _HTTPS.match(value):
        yield value
