"""The client's address, and the scheme and host it used: from the socket, or from trusted proxies. Pure.

A proxy's word counts only if the proxy is trusted, and only in the one header that the operator names: proxies pass on every
other header as the client sent it. The header's list is read from the nearest proxy outwards, over all its lines, and the first
address that is not a trusted proxy's is the client's. `Forwarded` (RFC 7239) also carries scheme and host; with any other header
they come from `X-Forwarded-Proto` and `X-Forwarded-Host`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Literal, NamedTuple

from multidict import MultiMapping

from shared.errors import ConfigError, Problem

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

FORWARDED_FOR = "X-Forwarded-For"
MAX_HOPS = 20
MAX_COMMAS = 40
LONGEST_ADDRESS = 64
LONGEST_FORWARDED = 4096
REMEMBERED_ADDRESSES = 10_000

_PAIR = r'([\w-]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s",;=\\]*))'
_PAIRS = re.compile(_PAIR)
_ELEMENT = re.compile(rf"{_PAIR}(?:\s*;\s*{_PAIR})*(?:\s*;)?")
_AUTHORITY = re.compile(r"[A-Za-z0-9._-]{1,253}(?::\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](?::\d{1,5})?")


def parse_networks(texts: Iterable[str], name: str) -> tuple[Network, ...]:
    """Reads networks such as `10.0.0.0/8` and single addresses.

    Raises:
        ConfigError: names each that is none.
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


class Place(NamedTuple):
    """The address that a client called, as the outermost trusted proxy saw it. None: the proxy does not say."""

    scheme: str | None = None
    authority: str | None = None


class Proxies:
    """The trusted proxies, and the header with their word."""

    def __init__(self, trusted: Sequence[Network] = (), header: str = FORWARDED_FOR) -> None:
        self.trusted = tuple(trusted)
        self._header = header.lower()
        self._nearest = lru_cache(REMEMBERED_ADDRESSES)(self._read_nearest)

    def client_address(self, peer: str | None, headers: Mapping[str, str]) -> str | None:
        """Returns the address of the client, in canonical form.

        Args:
            peer: the address on the socket.
        """
        if not peer:
            return None
        nearest, trusted = self._nearest(peer)
        if not trusted:
            return nearest
        client = nearest
        for hop in self._hops(headers)[1]:
            client = str(hop)
        return client

    def place(self, peer: str | None, headers: Mapping[str, str]) -> Place:
        """Returns the scheme and host the client used, as far as a trusted proxy says."""
        if not self.trusted or not peer or not self._nearest(peer)[1]:
            return _NO_PLACE
        elements, hops = self._hops(headers)
        back = max(1, len(hops))  # the outermost trusted proxy wrote the entry that names the client
        if self._header == "forwarded":
            element = elements[back - 1] if len(elements) >= back else {}
            return _as_place(element.get("proto", ""), element.get("host", ""))
        schemes, hosts = (_last(headers, name, back) for name in ("x-forwarded-proto", "x-forwarded-host"))
        # the lists do not say which of several proxies added to them: a host counts only if all entries agree
        agreed = hosts[0] if len(set(hosts)) == 1 else ""
        return _as_place("https" if "https" in map(str.lower, schemes) else schemes[0], agreed)

    def trusts(self, peer: str | None) -> bool:
        """Whether the peer of a socket is a trusted proxy."""
        return bool(self.trusted) and peer is not None and self._nearest(peer)[1]

    def _hops(self, headers: Mapping[str, str]) -> tuple[list[dict[str, str]], list[Address]]:
        """Returns the elements of `Forwarded`, and the addresses up to the client's, which is the last; both the nearest first."""
        text = _joined(headers, self._header)
        elements: list[dict[str, str]] = []
        if self._header == "forwarded":
            elements = _elements(text[-LONGEST_FORWARDED:])
            texts = [each.get("for", "") for each in elements]
        else:
            texts = [each for each in text.rsplit(",", MAX_HOPS)[: -MAX_HOPS - 1 : -1] if each.strip()]
        hops: list[Address] = []
        for each in texts:
            hop = _parse(each)
            if hop is None:
                break  # `unknown`, an obfuscated name, or nonsense: no address beyond it can be trusted
            hops.append(hop)
            if not _is_in(hop, self.trusted):
                break
        return elements, hops

    def _read_nearest(self, peer: str) -> tuple[str | None, bool]:
        address = _parse(peer)
        return (None, False) if address is None else (str(address), _is_in(address, self.trusted))


_NO_PLACE = Place()


def _elements(text: str) -> list[dict[str, str]]:
    """Returns the elements of `Forwarded`, the nearest first, up to the first malformed one.

    Reads from the end, because only the end is a proxy's: from the beginning, a quote that a client leaves open would swallow the
    proxies' elements. Each element is the shortest end that is a whole element, so a comma inside quotes ends none.
    """
    elements: list[dict[str, str]] = []
    element: str | None = None
    for part in reversed(text.rsplit(",", MAX_COMMAS)):
        element = part if element is None else f"{part},{element}"
        element = element.strip()
        if _ELEMENT.fullmatch(element):
            # if a name comes twice the first counts
            elements.append({name.lower(): quoted or plain for name, quoted, plain in reversed(_PAIRS.findall(element))})
            element = None
        elif not element:
            element = None
    return elements[:MAX_HOPS]


def _as_place(scheme: str, authority: str) -> Place:
    scheme = scheme.lower()
    return Place(scheme if scheme in ("http", "https") else None, authority if _AUTHORITY.fullmatch(authority) else None)


def _last(headers: Mapping[str, str], name: str, count: int) -> list[str]:
    """Returns the last entries of a list; trusted proxies wrote at least one, and most replace earlier entries."""
    return [entry.strip() for entry in _joined(headers, name).split(",")[-count:]]


def _joined(headers: Mapping[str, str], name: str) -> str:
    """Returns all lines of a header as one list."""
    if isinstance(headers, MultiMapping):
        return ",".join(headers.getall(name, ()))
    return headers.get(name, "")


Treatment = Literal["keep", "truncate", "drop"]
ASKED: Mapping[str, Treatment] = {"stripLastOctet": "truncate", "remove": "drop"}
"""What Jitsu's SDK asks for in `X-IP-Policy`, where a page sets `privacy.ipPolicy`."""
_STRICTNESS: Sequence[Treatment] = ("keep", "truncate", "drop")


def stricter(site: Treatment, asked: str | None) -> Treatment:
    """Returns how an address is treated: as the site says, or as the client asks if that keeps less."""
    if not asked:
        return site
    wanted = ASKED.get(asked, "keep")
    return max(site, wanted, key=_STRICTNESS.index)


def treat_address(address: str | None, treatment: Treatment) -> str | None:
    """Returns the part of an address that the site lets us keep: all, the network (/24, /48), or nothing."""
    if treatment == "keep" or address is None:
        return address
    if treatment == "drop":
        return None
    prefix = 48 if ":" in address else 24
    return str(ip_network(f"{address}/{prefix}", strict=False).network_address)


def _parse(text: str) -> Address | None:
    text = text.strip()
    return _parse_short(text) if len(text) <= LONGEST_ADDRESS else None


@lru_cache(REMEMBERED_ADDRESSES)
def _parse_short(text: str) -> Address | None:
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
