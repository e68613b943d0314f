"""The client's address: from the socket, or from what trusted proxies say of it. Pure.

A proxy's word counts only when the proxy itself is trusted: the list of addresses is read from the nearest one outwards, and the
first that is not a trusted proxy is the client. Both `Forwarded` (RFC 7239) and `X-Forwarded-For` are read; the former wins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Literal

from shared.errors import ConfigError, Problem

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

MAX_HOPS = 20

_FOR = re.compile(r'(?:^|[;,\s])for=(?:"([^"]*)"|([^;,\s]*))', re.IGNORECASE)
_PROTO = re.compile(r'(?:^|[;,\s])proto="?([a-z]+)', re.IGNORECASE)


def parse_networks(texts: Iterable[str], name: str) -> tuple[Network, ...]:
    """Reads networks such as `10.0.0.0/8` and single addresses.

    Raises:
        ConfigError: naming each that is none.
    """
    networks: list[Network] = []
    problems: list[Problem] = []
    for text in texts:
        try:
            networks.append(ip_network(text.strip(), strict=False))
        except ValueError:
            problems.append(Problem(name, f"expected an address or network such as 10.0.0.0/8, got {text!r}"))
    if problems:
        raise ConfigError(problems)
    return tuple(networks)


def client_address(peer: str | None, headers: Mapping[str, str], trusted: Sequence[Network]) -> str | None:
    """Returns the address of the client, in canonical form."""
    nearest = _parse(peer) if peer else None
    if nearest is None:
        return None
    if not trusted or not _is_in(nearest, trusted):
        return str(nearest)
    client = nearest
    for text in reversed(_hops(headers)[-MAX_HOPS:]):
        hop = _parse(text)
        if hop is None:
            break  # `unknown`, an obfuscated name, or nonsense: what is beyond it cannot be trusted
        client = hop
        if not _is_in(hop, trusted):
            break
    return str(client)


def forwarded_scheme(peer: str | None, headers: Mapping[str, str], trusted: Sequence[Network]) -> str | None:
    """Returns the scheme the client used, if a trusted proxy tells."""
    nearest = _parse(peer) if peer and trusted else None
    if nearest is None or not _is_in(nearest, trusted):
        return None
    match = _PROTO.search(headers.get("forwarded", ""))
    scheme = match[1] if match else headers.get("x-forwarded-proto", "").split(",")[0].strip()
    return scheme.lower() if scheme.lower() in ("http", "https") else None


def treat_address(address: str | None, treatment: Literal["keep", "truncate", "drop"]) -> str | None:
    """Returns what the site lets us keep: everything, the network (/24, /48), or nothing."""
    if treatment == "keep" or address is None:
        return address
    if treatment == "drop":
        return None
    prefix = 48 if ":" in address else 24
    return str(ip_network(f"{address}/{prefix}", strict=False).network_address)


def _hops(headers: Mapping[str, str]) -> list[str]:
    forwarded = headers.get("forwarded")
    if forwarded:
        return [quoted or plain for quoted, plain in _FOR.findall(forwarded)]
    return [part for part in headers.get("x-forwarded-for", "").split(",") if part.strip()]


def _parse(text: str) -> Address | None:
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _is_in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)
