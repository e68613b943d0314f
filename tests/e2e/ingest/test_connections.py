"""Connections of clients: kept, pipelined, half closed, left, and closed by the edge."""

from __future__ import annotations

import asyncio
import json

import pytest

from shared.jetstream.broker import Broker
from tests.e2e.ingest.edge import KEY, browser, edge_here, post, raw, track
from tests.support.nats import NatsServer


async def test_a_client_that_waits_for_100_continue_gets_it(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker) as edge:
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        body = json.dumps(track("1")).encode()
        writer.write(
            f"POST /v1/track HTTP/1.1\r\nHost: x\r\nX-Write-Key: web\r\nExpect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        )
        async with asyncio.timeout(60):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(body)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
        assert await edge.ids() == ["1"]


async def test_pipelined_requests_are_answered_in_order(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker) as edge:
        sent = b""
        for number in range(10):
            body = json.dumps(track(f"p{number}")).encode()
            last = b"Connection: close\r\n" if number == 9 else b""
            sent += (
                b"POST /v1/track HTTP/1.1\r\nHost: x\r\nX-Write-Key: web\r\n%bContent-Length: %d\r\n\r\n" % (last, len(body))
                + body
            )
        answer = await raw(edge, sent)
        assert answer.count(b"HTTP/1.1 200 OK") == 10
        assert await edge.ids() == [f"p{number}" for number in range(10)]


@pytest.mark.parametrize("count", [1, 5])
async def test_a_client_that_closes_its_side_after_its_requests_gets_its_answers(
    nats: NatsServer, broker: Broker, count: int
) -> None:
    async with edge_here(nats, broker) as edge:
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        for number in range(count):
            body = json.dumps(track(f"m{number}")).encode()
            writer.write(
                b"POST /v1/track HTTP/1.1\r\nHost: x\r\nX-Write-Key: web\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
        writer.write_eof()
        async with asyncio.timeout(60):
            answer = await reader.read()
        assert answer.count(b'{"success":true}') == count
        writer.close()


async def test_a_client_that_closes_its_side_in_the_middle_of_a_request_is_let_go(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker) as edge:
        for sent in (
            b"",
            b"POST /v1/tr",
            b"POST /v1/track HTTP/1.1\r\nHost: x\r\nX-Write-Key: web\r\nContent-Length: 50\r\n\r\n{",
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
            writer.write(sent)
            await writer.drain()
            await asyncio.sleep(0.1)
            writer.write_eof()
            async with asyncio.timeout(60):
                assert b" 200 " not in await reader.read()
            writer.close()
        assert await edge.ids() == []


async def test_a_client_that_leaves_before_its_answer_harms_no_neighbour(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker, linger=0.05) as edge, browser() as session:
        await post(edge, "/v1/track", track("first"))  # the next frame lingers

        async def leaver(number: int) -> None:
            _, writer = await asyncio.open_connection("127.0.0.1", edge.port)
            body = json.dumps(track(f"gone-{number}")).encode()
            writer.write(
                b"POST /v1/track HTTP/1.1\r\nHost: x\r\nX-Write-Key: web\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
            await writer.drain()
            writer.close()

        async def stayer(number: int) -> int:
            async with session.post(f"{edge.url}/v1/track", json=track(f"here-{number}"), headers=KEY) as answer:
                return answer.status

        results = await asyncio.gather(*(stayer(n) if n % 2 else leaver(n) for n in range(40)))
        assert [status for status in results if status is not None] == [200] * 20
        ids = await edge.ids()
        assert {f"here-{n}" for n in range(1, 40, 2)} <= set(ids)
        assert len(ids) == len(set(ids))


async def test_a_request_that_crosses_with_the_end_of_the_edge_is_answered(
    nats: NatsServer, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.http.server.FAREWELL_SECONDS", 10.0)  # however slow the client is
    async with edge_here(nats, broker) as edge:
        assert edge.context is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        for number in range(2):
            body = json.dumps(track(f"m{number}")).encode()
            writer.write(
                b"POST /v1/track HTTP/1.1\r\nHost: x\r\nX-Write-Key: web\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert (b"Connection: close" in head) is (number == 1)
            await reader.readexactly(len(b'{"success":true}'))
            edge.context.draining.set()
            await asyncio.sleep(0.05)
        assert await reader.read() == b""
        writer.close()
        assert await edge.ids() == ["m0", "m1"]


async def test_connections_are_kept_and_closed_as_each_version_of_http_has_it(nats: NatsServer, broker: Broker) -> None:
    body = json.dumps(track("1")).encode()
    rest = b"Host: x\r\nX-Write-Key: web\r\nContent-Length: %d\r\n" % len(body)

    async with edge_here(nats, broker) as edge:
        old = await raw(edge, b"POST /v1/track HTTP/1.0\r\n" + rest + b"\r\n" + body)
        assert old.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\nConnection: close\r\n" in old
        first, second = b"Connection: keep-alive\r\n\r\n", b"\r\n"
        kept = await raw(
            edge, b"POST /v1/track HTTP/1.0\r\n" + rest + first + body + b"POST /v1/track HTTP/1.0\r\n" + rest + second + body
        )
        assert kept.count(b"HTTP/1.1 200 OK") == 2
        assert kept.count(b"Connection: keep-alive") == kept.count(b"Connection: close") == 1
        new = await raw(
            edge,
            b"POST /v1/track HTTP/1.1\r\n" + rest + b"\r\n" + body
            + b"POST /v1/track HTTP/1.1\r\n" + rest + b"Connection: close\r\n\r\n" + body,
        )  # fmt: skip
        assert new.count(b"HTTP/1.1 200 OK") == 2
        assert new.count(b"Connection: close") == 1
        assert new.count(b"\r\nDate: ") == 2


async def test_the_answer_to_head_has_no_body(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker) as edge:
        answer = await raw(edge, b"HEAD /v1/track HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 405 ")
        assert not body
        for path in (b"/p.js", b"/robots.txt", b"/v1/projects/web/settings", b"/i?aid=web&e=pv", b"/sourceConfig/?writeKey=web"):
            both = [
                await raw(edge, method + b" " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                for method in (b"HEAD", b"GET")
            ]
            (head, _, body), (whole, _, content) = (each.partition(b"\r\n\r\n") for each in both)
            assert head.startswith(b"HTTP/1.1 200 ")
            assert not body
            length = b"Content-Length: %d" % len(content)
            assert length in head
            assert length in whole


async def test_a_strange_origin_breaks_no_answer(nats: NatsServer, broker: Broker) -> None:
    body = json.dumps(track("1")).encode()
    async with edge_here(nats, broker) as edge:
        answer = await raw(
            edge,
            b"POST /v1/track HTTP/1.1\r\nHost: x\r\nX-Write-Key: web\r\nOrigin: https://caf\xe9.example\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body),
        )
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Access-Control-Allow-Origin: https://caf\xe9.example\r\n" in answer
