"""Limits over all connections of a process: their number, the number of one address, WebSockets, and bytes of unfinished heads.

This bounds the cost of connections whose key is unknown; `ingest/limits/bounds.py` bounds the cost of requests.

When all places are taken, a newcomer gets the place of the connection that has waited longest without sending a complete head, if
there is one. So silent connections keep no other client out. Connections of trusted proxies carry many clients, so they are not
counted by address.
"""

from __future__ import annotations

import logging
import resource
from collections import OrderedDict
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Protocol

from ingest.clients.address import Proxies

MAX_HEAD_BYTES = 64 * 1024
"""The most bytes of one unfinished head. The longest line is 16 KiB."""

MAX_HEADS_BYTES = 32 * 1024 * 1024
"""The most bytes of all unfinished heads together."""

STRANGERS = 4
"""At most one WebSocket in so many may be open without a key."""

RESERVE = 128
"""Descriptors that are left for the journal, the broker, databases and logs."""

_V6_NETWORK = (1 << 64) - 1

log = logging.getLogger(__name__)


class Occupant(Protocol):
    """The part of a connection that the guard knows."""

    def make_room(self) -> None:
        """Ends the connection at once: another gets its place."""
        ...


class Guard:
    """Counts connections, and decides whether another may come in.

    Args:
        proxies: the trusted proxies; their addresses are not counted.
        expects_proxy_header: trusted proxies begin every connection with the PROXY protocol.
    """

    def __init__(
        self,
        *,
        max_connections: int,
        max_per_address: int,
        max_sockets: int,
        proxies: Proxies | None = None,
        expects_proxy_header: bool = False,
    ) -> None:
        self.max_connections = max_connections
        self.max_sockets = max_sockets
        self.sockets = 0
        self.strangers = 0
        """Number of WebSockets without a key."""
        self.head_bytes = 0
        self.refused = 0
        """Number of connections refused or ended here."""
        self.expects_proxy_header = expects_proxy_header
        self._max_per_address = max_per_address
        self._proxies = proxies or Proxies()
        self._addresses: dict[str, int] = {}
        self._occupants: dict[Occupant, str] = {}
        self._newcomers: OrderedDict[Occupant, None] = OrderedDict()

    @property
    def connections(self) -> int:
        """Number of open connections."""
        return len(self._occupants)

    def trusts(self, address: str) -> bool:
        """Whether a trusted proxy has this address."""
        return self._proxies.trusts(address)

    def enter(self, occupant: Occupant, address: str) -> str:
        """Takes a connection in and returns an empty text, or returns why it cannot."""
        why = self._count(occupant, address)
        if why:
            return why
        if len(self._occupants) > self.max_connections:
            if not self._newcomers:
                self.leave(occupant)
                self.refused += 1
                return f"all {self.max_connections} connections are taken"
            oldest, _ = self._newcomers.popitem(last=False)
            self.leave(oldest)
            self.refused += 1
            oldest.make_room()
        self._newcomers[occupant] = None
        return ""

    def move(self, occupant: Occupant, address: str) -> str:
        """Counts the connection under the address that its proxy names; returns why that address may have no more, or an empty text."""
        self._uncount(self._occupants.get(occupant, ""))
        return self._count(occupant, address)

    def settle(self, occupant: Occupant) -> None:
        """Notes that the connection sent a complete head."""
        self._newcomers.pop(occupant, None)

    def leave(self, occupant: Occupant) -> None:
        """Notes that the connection is closed."""
        self._newcomers.pop(occupant, None)
        self._uncount(self._occupants.pop(occupant, ""))

    def _count(self, occupant: Occupant, address: str) -> str:
        key = "" if self.trusts(address) else address_key(address)
        if key:
            number = self._addresses.get(key, 0)
            if number >= self._max_per_address:
                self.refused += 1
                return f"{key} has {number} connections, the limit is {self._max_per_address}"
            self._addresses[key] = number + 1
        self._occupants[occupant] = key
        return ""

    def _uncount(self, key: str) -> None:
        left = self._addresses.get(key, 0) - 1
        if left > 0:
            self._addresses[key] = left
        else:
            self._addresses.pop(key, None)


@lru_cache(10_000)
def address_key(address: str) -> str:
    """Returns the name under which an address is counted: an IPv6 host can choose from a whole /64."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return f"{IPv6Address(int(parsed) & ~_V6_NETWORK)}/64"
    return str(parsed)


def places_for(wanted: int) -> int:
    """Raises the limit of descriptors as far as allowed; returns how many connections have room, at most `wanted`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + RESERVE
    if soft < needed and soft != resource.RLIM_INFINITY:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        except (ValueError, OSError):
            soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    places = max(1, soft - RESERVE)
    log.warning("fewer connections than set: the limit of descriptors is low", extra={"connections": places, "descriptors": soft})
    return places
