"""The egress guard: which addresses may be reached by what another party chose, such as the code of a function or the next link of an API.

Names are resolved here, every address is checked, and the connection goes to the address that was checked: a name that resolves to
another address a moment later changes nothing. Allowed are public addresses, and what an operator or the author of a project adds.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from shared.errors import ConfigError, Problem

Network = IPv4Network | IPv6Network

_NAT64 = IPv6Network("64:ff9b::/96")
_NOT_OF_THE_INTERNET = tuple(map(IPv4Network, ("100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")))
"""Addresses of providers and protocols that Python does not know. Two are metadata of clouds: 192.0.0.192 and 168.63.129.16."""


def networks(text: str, path: str) -> tuple[Network, ...]:
    """Reads addresses and networks, joined by commas: `10.1.0.0/16, 127.0.0.1`.

    Raises:
        ConfigError: one is none.
    """
    found: list[Network] = []
    for part in filter(None, (each.strip() for each in text.split(","))):
        try:
            found.append(ip_network(part))
        except ValueError as exc:
            raise ConfigError([Problem(path, f"expected addresses or networks like 10.1.0.0/16, got {part!r}")]) from exc
    return tuple(found)


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Says whether an address is one of the internet, also where it is written inside another one."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if inner is None and address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if int(address) >> 32 == 0:  # ::a.b.c.d, of old
            return False
        if address.is_site_local:
            return False
    elif any(address in each for each in _NOT_OF_THE_INTERNET):
        return False
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_unspecified or address.is_link_local
    )


class Refused(OSError):
    """An address may not be reached."""

    def __str__(self) -> str:
        return str(self.strerror)  # an OSError without a number writes `[Errno None]` before it


class Guard(AbstractResolver):
    """Resolves names to the addresses that are allowed.

    Args:
        allowed: networks that may be reached although they are not public.
        resolver: resolves names; None: the system does.
        trusted: hosts with their ports, in lower case, which may have any address: a person named them.
        remedy: who allows more, and how, for messages.
    """

    def __init__(
        self,
        allowed: Sequence[Network] = (),
        resolver: AbstractResolver | None = None,
        *,
        trusted: Collection[tuple[str, int]] = (),
        remedy: str = "name one that is",
    ) -> None:
        self._allowed = tuple(allowed)
        self._resolver = resolver
        self._trusted = frozenset(trusted)
        self._remedy = remedy

    def allows(self, address: IPv4Address | IPv6Address) -> bool:
        """Says whether an address may be reached."""
        plain = address.ipv4_mapped or address if isinstance(address, IPv6Address) else address
        return is_public(address) or any(plain.version == network.version and plain in network for network in self._allowed)

    def check_host(self, host: str, port: int = 0) -> None:
        """Looks at a host that may be an address: those are not resolved.

        Raises:
            Refused: it is an address that may not be reached.
        """
        if (host.lower(), port) in self._trusted:
            return
        try:
            address = ip_address(host.strip("[]").partition("%")[0])
        except ValueError:
            return
        if not self.allows(address):
            raise self._refused(host)

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        """Returns the allowed addresses of a name.

        Raises:
            OSError: it has none.
        """
        if self._resolver is None:
            self._resolver = ThreadedResolver()
        found = await self._resolver.resolve(host, port, family)
        if (host.lower(), port) in self._trusted:
            return found
        kept = [each for each in found if self.allows(ip_address(each["host"].partition("%")[0]))]
        if not kept:
            raise self._refused(host)
        return kept

    async def close(self) -> None:
        """Ends the resolver."""
        if self._resolver is not None:
            await self._resolver.close()

    def _refused(self, host: str) -> Refused:
        return Refused(None, f"{host} is no address of the internet; {self._remedy}")
