"""The PROXY protocol, in whole, in pieces and broken."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from ingest.clients.address import Proxies, parse_networks
from ingest.clients.proxy_protocol import V2_SIGNATURE, Preface, read_preface
from ingest.http.watched import Watched
from ingest.limits.guard import Guard
from tests.unit.ingest.wires import PEER, Wire

V2_IPV4 = V2_SIGNATURE + b"\x21\x11\x00\x0c" + bytes([192, 0, 2, 1, 10, 0, 0, 1]) + b"\x1f\x90\x00\x50"
V2_IPV6 = V2_SIGNATURE + b"\x21\x21\x00\x27" + bytes.fromhex("20010db8" + "00" * 11 + "05") + bytes(20) + b"\x04\x00\x00"
V2_LOCAL = V2_SIGNATURE + b"\x20\x00\x00\x00"
GOOD = {
    b"PROXY TCP4 192.0.2.1 10.0.0.1 8080 80\r\n": "192.0.2.1",
    b"PROXY TCP6 2001:db8::5 ::1 8080 80\r\n": "2001:db8::5",
    b"PROXY UNKNOWN ffff::1 whatever\r\n": None,
    V2_IPV4: "192.0.2.1",
    V2_IPV6: "2001:db8::5",
    V2_LOCAL: None,
    V2_IPV4.replace(b"\x21\x11", b"\x20\x11"): None,  # of a balancer's own: not whom it speaks for
    V2_SIGNATURE + b"\x21\x31\x00\xd8" + bytes(216): None,
}


@pytest.mark.parametrize(("header", "address"), GOOD.items())
def test_an_address_is_read_whole_and_not_before(header: bytes, address: str | None) -> None:
    assert read_preface(header + b"GET / HTTP/1.1\r\n") == Preface(address, len(header))
    assert all(read_preface(header[:size]) is None for size in range(len(header)))


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"PROXY TCP4 192.0.2.1\r\n",
        b"PROXY TCP4 2001:db8::5 ::1 1 2\r\n",
        b"PROXY TCP4 nonsense 10.0.0.1 1 2\r\n",
        b"PROXY " + b"x" * 200,
        V2_SIGNATURE + b"\x31\x11\x00\x0c" + bytes(12),
        V2_SIGNATURE + b"\x21\x11\xff\xff",
        V2_SIGNATURE + b"\x21\x11\x00\x04" + bytes(4),
    ],
)
def test_what_is_no_header_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_preface(data)


@given(st.binary(max_size=300), st.sampled_from([b"", b"PROXY ", V2_SIGNATURE, V2_SIGNATURE + b"\x21"]))
def test_any_bytes_are_read_or_refused_in_bounded_space(data: bytes, prefix: bytes) -> None:
    try:
        found = read_preface(prefix + data)
    except ValueError:
        return
    assert found is None or found.size <= len(prefix + data)


@pytest.mark.parametrize(("header", "address"), GOOD.items())
async def test_headers_of_a_client_whose_proxy_does_not_name_it_are_not_believed(header: bytes, address: str | None) -> None:
    proxies = Proxies(parse_networks([PEER[0]], "X"))
    guard = Guard(max_connections=1, max_per_address=1, max_sockets=1, proxies=proxies, expects_proxy_header=True)

    async def handler(_: web.BaseRequest) -> web.StreamResponse:
        raise AssertionError("no request came")

    connection = Watched(web.Server(handler), guard, 5.0, loop=asyncio.get_running_loop())
    wire = Wire(connection)
    wire.send(header)
    written_by_the_client = {"x-forwarded-for": "6.6.6.6", "x-forwarded-host": "evil.example"}
    assert proxies.client_address(connection.peer, written_by_the_client) == address
    assert proxies.place(connection.peer, written_by_the_client).authority is None
    wire.vanish()
