"""The PROXY protocol, versions 1 and 2: a proxy sends the client's address in the first bytes of a connection. Pure.

https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt. Read only from trusted proxies: any other client could choose its
address by it.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

V1_PREFIX = b"PROXY "
V2_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V1_LONGEST = 107
V2_LONGEST = 4096
"""Bytes of the addresses and the optional fields behind them (names in certificates and the like), which are skipped."""

_LOCAL, _PROXY = 0x20, 0x21
_LENGTHS = {0x1: 12, 0x2: 36}


class Preface(NamedTuple):
    """The header: the client's address, None if the proxy speaks for itself, and the header's size in bytes."""

    address: str | None
    size: int


def read_preface(data: bytes) -> Preface | None:
    """Returns the header at the beginning of a connection; None while it is incomplete.

    Raises:
        ValueError: it is none; says why.
    """
    if data.startswith(V2_SIGNATURE[: len(data)]):
        return _read_v2(data)
    if data.startswith(V1_PREFIX[: len(data)]):
        return _read_v1(data)
    raise ValueError("the connection does not begin with the PROXY protocol")


def _read_v1(data: bytes) -> Preface | None:
    end = data.find(b"\r\n", 0, V1_LONGEST)
    if end < 0:
        if len(data) >= V1_LONGEST:
            raise ValueError("the line of the PROXY protocol does not end")
        return None
    words = data[:end].decode("ascii", "replace").split(" ")
    if words[1:2] == ["UNKNOWN"]:
        return Preface(None, end + 2)
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6"):
        raise ValueError(f"expected PROXY TCP4 or TCP6 and four values, got {' '.join(words)[:60]!r}")
    address = ip_address(words[2])  # a ValueError of its own
    if address.version != int(words[1][-1]):
        raise ValueError(f"{words[2]} is no address of {words[1]}")
    return Preface(str(address), end + 2)


def _read_v2(data: bytes) -> Preface | None:
    if len(data) < 16:
        return None
    command, family, length = data[12], data[13] >> 4, int.from_bytes(data[14:16], "big")
    if command not in (_LOCAL, _PROXY):
        raise ValueError(f"version and command {command:#x} of the PROXY protocol are unknown")
    if length > V2_LONGEST:
        raise ValueError(f"the PROXY protocol announces {length} bytes, the limit is {V2_LONGEST}")
    if len(data) < 16 + length:
        return None
    if command == _LOCAL or family not in _LENGTHS:
        return Preface(None, 16 + length)
    if length < _LENGTHS[family]:
        raise ValueError(f"{length} bytes are too few for an address")
    raw = data[16:20] if family == 0x1 else data[16:32]
    return Preface(str(IPv4Address(raw) if family == 0x1 else IPv6Address(raw)), 16 + length)
