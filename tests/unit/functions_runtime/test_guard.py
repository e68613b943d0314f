"""The egress guard and `fetch` behind it: which addresses a function reaches, in whatever form they are written."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from collections.abc import AsyncIterator
from ipaddress import ip_address
from typing import Any
from unittest.mock import MagicMock

import msgspec
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.test_utils import TestServer

from functions_runtime.host import fetch as fetching
from functions_runtime.host.fetch import Fetcher
from functions_runtime.host.host import ConnectionHost
from functions_runtime.sandbox.chain import CallError, Chain
from shared.driving.egress import Guard, is_public, networks
from shared.errors import ConfigError
from tests.support.functions import outputs, run_one, spec_of

PRIVATE = [
    "127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "100.64.0.1", "192.0.0.192", "168.63.129.16", "fec0::1", "0.0.0.0",
    "255.255.255.255", "224.0.0.1", "192.0.2.1", "198.18.0.1", "240.0.0.1", "::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1",
    "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "::127.0.0.1",
    "2001:db8::1",
]  # fmt: skip


@pytest.mark.parametrize("text", PRIVATE)
def test_addresses_that_are_not_of_the_internet(text: str) -> None:
    assert not is_public(ip_address(text))
    assert not Guard().allows(ip_address(text))


@pytest.mark.parametrize("text", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_addresses_of_the_internet(text: str) -> None:
    assert is_public(ip_address(text))


def test_an_operator_allows_networks() -> None:
    guard = Guard(networks("10.1.0.0/16, ::1", "X"))
    assert guard.allows(ip_address("10.1.2.3"))
    assert guard.allows(ip_address("::ffff:10.1.2.3"))
    assert not guard.allows(ip_address("10.2.0.1"))
    with pytest.raises(ConfigError, match="X: expected addresses"):
        networks("10.1.0.0/16, here", "X")


class Names(AbstractResolver):
    """Resolves names as told; each call takes the next answer, the last one stays."""

    def __init__(self, **names: list[str]) -> None:
        self._names = names

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        answers = self._names[host.partition(".")[0]]
        address = answers.pop(0) if len(answers) > 1 else answers[0]
        kind = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=0)]

    async def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    async def echo(request: web.Request) -> web.Response:
        return web.json_response(
            {"method": request.method, "headers": dict(request.headers), "body": (await request.read()).decode("latin-1")}
        )

    async def redirect(request: web.Request) -> web.Response:
        raise web.HTTPFound(request.query["to"])

    async def slow(_: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    async def large(_: web.Request) -> web.Response:
        return web.Response(body=b"x" * (fetching.MOST_ANSWER_BYTES + 1))

    application = web.Application()
    application.router.add_route("*", "/echo", echo)
    application.router.add_get("/redirect", redirect)
    application.router.add_get("/slow", slow)
    application.router.add_get("/large", large)
    running = TestServer(application)
    async with running:
        yield running


async def sent(guard: Guard, url: str, **request: Any) -> dict[str, Any]:
    fetcher = Fetcher(guard)
    try:
        return await fetcher.fetch({"url": url, **request})
    finally:
        await fetcher.close()


def local(**names: list[str]) -> Guard:
    return Guard(networks("127.0.0.1", "X"), Names(**names) if names else None)


async def test_a_request_and_its_answer(server: TestServer) -> None:
    answer = await sent(
        local(), str(server.make_url("/echo")), method="post", headers=[["x-a", "b"], ["Host", "evil"]], body="text"
    )
    assert answer["status"] == 200
    heard = base64.b64decode(answer["base64"])
    assert b'"method": "POST"' in heard
    assert b'"body": "text"' in heard
    assert b"evil" not in heard


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/echo", "http://localhost:{port}/echo", "http://[::1]:{port}/echo", "http://[::ffff:127.0.0.1]:{port}/echo",
        "http://127.1:{port}/echo", "http://2130706433:{port}/echo", "http://0x7f000001:{port}/echo", "http://0177.0.0.1:{port}/echo",
        "http://169.254.169.254/latest/meta-data/", "file:///etc/passwd", "ftp://a.example/", "http:///echo", "nonsense", "http://0:{port}/echo",
    ],
)  # fmt: skip
async def test_private_addresses_are_refused_however_they_are_written(server: TestServer, url: str) -> None:
    with pytest.raises(CallError):
        await sent(Guard(), url.format(port=server.port))


async def test_a_name_is_checked_each_time_and_the_checked_address_is_the_one_that_is_reached(server: TestServer) -> None:
    rebinding = Guard((), Names(rebind=["8.8.8.8", "127.0.0.1"]))
    await rebinding.resolve("rebind.example")
    with pytest.raises(CallError, match="no address of the internet"):
        await sent(rebinding, f"http://rebind.example:{server.port}/echo")
    allowed = local(inside=["127.0.0.1"])
    assert (await sent(allowed, f"http://inside.example:{server.port}/echo"))["status"] == 200


@pytest.mark.parametrize(
    "target",
    ["http://10.0.0.1/", "http://169.254.169.254/", "http://[::ffff:10.0.0.1]/", "file:///etc/passwd", "http://far.example/"],
)
async def test_redirects_are_checked_too(server: TestServer, target: str) -> None:
    guard = local(far=["10.0.0.1"])
    url = str(server.make_url("/redirect").with_query(to=target))
    with pytest.raises(CallError):
        await sent(guard, url)
    assert (await sent(guard, url, redirect="manual"))["status"] == 302


async def test_a_redirect_to_another_host_loses_its_credentials(server: TestServer) -> None:
    guard = local(other=["127.0.0.1"])
    url = str(server.make_url("/redirect").with_query(to=f"http://other.example:{server.port}/echo"))
    answer = await sent(guard, url, headers=[["Authorization", "Bearer x"], ["X-Kept", "y"]])
    heard = base64.b64decode(answer["base64"])
    assert answer["redirected"]
    assert b"Bearer" not in heard
    assert b"X-Kept" in heard


@pytest.mark.parametrize(
    ("path", "request_", "said"),
    [
        ("/slow", {"timeout": 50}, "no answer within"),
        ("/large", {}, "larger than"),
        ("/echo", {"body": "x" * (fetching.MOST_REQUEST_BYTES + 1)}, "the body is larger"),
        ("/echo", {"method": "TRACE"}, "method"),
        ("/echo", {"body": {"base64": "!"}}, "neither text nor bytes"),
        ("/echo", {"headers": [["a", "b\r\nc: d"]]}, "fetch"),
    ],
)
async def test_bounds_of_a_request(server: TestServer, path: str, request_: dict[str, Any], said: str) -> None:
    with pytest.raises(CallError, match=said):
        await sent(local(), str(server.make_url(path)), **request_)


async def test_headers_may_hold_any_bytes() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 sch\xf6n\r\nContent-Length: 0\r\nX-Name: caf\xe9 \xe2\x82\xac\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        answered = await sent(local(), f"http://127.0.0.1:{port}/")
    assert msgspec.json.encode(answered)
    assert dict(answered["headers"])["X-Name"].encode("latin-1") == b"caf\xe9 \xe2\x82\xac"
    assert answered["statusText"].encode("latin-1") == b"sch\xf6n"


async def test_a_function_gets_the_answer_of_a_real_server(server: TestServer) -> None:
    """All the way: sandbox, pipe, host, network and back."""
    fetcher = Fetcher(local())
    host = ConnectionHost(store=MagicMock(), fetcher=fetcher, lines=MagicMock(), secrets=[], counted=lambda _kind, _failed: None)
    code = f"""export default async (event, ctx) => {{
        const answer = await ctx.fetch({json.dumps(str(server.make_url("/echo")))}, {{method: "POST", body: JSON.stringify({{n: 1}})}});
        const copy = answer.clone();
        return {{ok: answer.ok, type: answer.headers.get("content-type"), said: await answer.json(), same: (await copy.text()).length > 0}}; }}"""
    chain = Chain(spec_of(code), host)
    try:
        fate = await run_one(chain)
    finally:
        await chain.close()
        await fetcher.close()
    assert not fate.errors
    said = outputs(fate)[0]
    assert (said["ok"], said["same"]) == (True, True)
    assert said["type"].startswith("application/json")
