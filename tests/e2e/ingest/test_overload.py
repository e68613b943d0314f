"""More than the edge may hold: it refuses the rest with a code and keeps what it has."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from shared.jetstream.broker import Broker
from tests.e2e.ingest.edge import KEY, browser, edge_here, post, track
from tests.support.nats import NatsServer


async def test_clients_that_announce_bodies_and_send_none_keep_nobody_out(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker, inflight_bytes=8 * 2**20) as edge:
        head = b"POST /v1/track HTTP/1.1\r\nHost: x\r\nX-Write-Key: web\r\nContent-Length: 8000000\r\n\r\n{"
        idle = [await asyncio.open_connection("127.0.0.1", edge.port) for _ in range(5)]
        for _, writer in idle:
            writer.write(head)
            await writer.drain()
        await asyncio.sleep(0.2)
        assert (await post(edge, "/v1/track", track("1")))[0] == 200
        for _, writer in idle:
            writer.transport.abort()


async def test_bodies_that_grow_beyond_what_may_be_held_at_once_are_refused_with_503(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker, inflight_bytes=2**20) as edge:
        chunked = b"POST /v1/track HTTP/1.1\r\nHost: x\r\nX-Write-Key: web\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunk = b"f4240\r\n" + b" " * 1_000_000 + b"\r\n"
        many = [await asyncio.open_connection("127.0.0.1", edge.port) for _ in range(4)]
        for _, writer in many:
            writer.write(chunked + chunk)
        async with asyncio.timeout(60):
            done, rest = await asyncio.wait(
                [asyncio.create_task(reader.readline()) for reader, _ in many], return_when=asyncio.FIRST_COMPLETED
            )
        assert {each.result() for each in done} == {b"HTTP/1.1 503 Service Unavailable\r\n"}
        for each in rest:
            each.cancel()
        for _, writer in many:
            writer.transport.abort()


async def test_a_key_beyond_its_rate_is_told_429_and_when_to_come_back(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker) as edge, browser() as session:
        body = json.dumps({"batch": [{"type": "page", "userId": "u"}] * 20})

        async def post_once() -> int:
            async with session.post(f"{edge.url}/v1/batch", data=body, headers={"X-Write-Key": "strict"}) as answer:
                if answer.status == 429:
                    assert int(answer.headers["Retry-After"]) >= 1
                return answer.status

        statuses: set[int] = set()
        while 429 not in statuses:  # together: one after the other they may be slower than the rate
            statuses.update(await asyncio.gather(*(post_once() for _ in range(20))))
        assert statuses == {200, 429}


async def test_more_bytes_than_may_wait_for_the_broker_are_refused_with_503(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker, inflight_bytes=20_000, deadline=3.0) as edge, browser() as session:
        nats.kill()
        body = json.dumps({"batch": [track(f"m{n}", filler="x" * 500) for n in range(15)]})

        async def send() -> str:
            async with session.post(f"{edge.url}/v1/batch", data=body, headers=KEY) as answer:
                assert (answer.status, int(answer.headers["Retry-After"]) > 0) == (503, True)
                return str((await answer.json())["message"])

        messages = await asyncio.gather(*(send() for _ in range(6)))
        assert sum("the limit is 20000" in message for message in messages) == 5
        nats.start()


async def test_rejected_events_that_wait_for_the_broker_are_bounded_as_accepted_ones_are(
    nats: NatsServer, broker: Broker
) -> None:
    async with edge_here(nats, broker, inflight_bytes=40_000, deadline=3.0) as edge, browser() as session:
        nats.kill()
        body = json.dumps({"batch": [{"type": "page", "filler": "x" * 260}] * 20})

        async def send() -> str:
            async with session.post(f"{edge.url}/v1/batch", data=body, headers=KEY) as answer:
                assert answer.status == 503
                return str((await answer.json())["message"])

        messages = await asyncio.gather(*(send() for _ in range(6)))
        assert sum("rejected events wait for the broker, the limit is 40000" in message for message in messages) == 3
        nats.start()


async def test_more_requests_than_the_limit_are_refused_with_503(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker, max_requests=3, linger=2.0, window=1) as edge, browser() as session:
        await post(edge, "/v1/track", track("first"))  # the next frame lingers

        async def send(number: int) -> int:
            async with session.post(f"{edge.url}/v1/track", json=track(f"m{number}"), headers=KEY) as answer:
                assert answer.status == 200 or (await answer.json())["code"] == "overloaded"
                return answer.status

        statuses = await asyncio.gather(*(send(n) for n in range(10)))
        assert sorted(statuses) == [200] * 3 + [503] * 7


async def test_a_trusted_proxy_says_the_address_and_each_has_its_share_of_connections(nats: NatsServer, broker: Broker) -> None:
    trusted: dict[str, Any] = {"trusted_proxies": ["127.0.0.1"], "proxy_protocol": True, "max_connections_per_address": 2}
    async with edge_here(nats, broker, **trusted) as edge:

        async def ask(preface: bytes) -> tuple[bytes, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
            writer.write(preface + b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n")
            return await reader.readline(), writer

        preface = b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n"
        answers = [await ask(preface) for _ in range(3)] + [await ask(b""), await ask(preface.replace(b"7", b"8"))]
        assert [line.split()[1] for line, _ in answers] == [b"404", b"404", b"503", b"400", b"404"]
        async with asyncio.timeout(60):
            while edge.count("ingest_connections_refused_total") < 1:
                await asyncio.sleep(0.05)
        for _, writer in answers:
            writer.transport.abort()
