"""What the edge stores, over real sockets and with a real broker behind it."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest

from shared.events.outcome import DeadReason
from shared.jetstream.broker import Broker
from tests.e2e.ingest.edge import KEY, browser, edge_here, post, raw, track
from tests.support.nats import NatsServer


async def test_an_answer_comes_after_the_event_is_stored(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker) as edge:
        for number in range(5):
            assert await post(edge, "/v1/track", track(f"m{number}")) == (200, {"success": True})
            assert (await edge.ids())[-1] == f"m{number}"


async def test_what_the_server_knows_of_a_browser_stands_once_beside_its_events(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker, trusted_proxies=["127.0.0.0/8"], keep_headers=["Referer"]) as edge:
        agent = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"
        headers = {**KEY, "User-Agent": agent, "X-Forwarded-For": "81.2.69.160", "Referer": "https://shop.example.com/a"}
        clock = datetime.now(UTC) - timedelta(hours=3)
        body = {
            "batch": [track("1", timestamp=(clock - timedelta(seconds=5)).isoformat()), track("2")],
            "context": {"library": {"name": "x"}, "ip": "9.9.9.9"},
            "sentAt": clock.isoformat(),
        }
        assert (await post(edge, "/v1/batch", body, headers))[0] == 200
        first, second = await edge.events()
        assert first.request is not second.request or first.frame == second.frame
        request = first.request
        assert (request.protocol, request.key, request.kind, request.ip) == ("segment", "web", "browser", "81.2.69.160")
        assert request.agent is not None
        assert request.agent["browser"] == "Chrome"
        assert request.headers == {"referer": "https://shop.example.com/a"}
        event = first.materialised()
        assert event["context"]["ip"] == "81.2.69.160"
        assert event["context"]["userAgent"] == agent
        assert event["context"]["library"] == {"name": "x"}
        sent, received = event["sentAt"], event["receivedAt"]
        assert event["timestamp"] - event["originalTimestamp"] == received - sent


async def test_a_header_that_is_no_utf8_costs_neither_its_event_nor_its_neighbours(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker, keep_headers=["Referer"], linger=0.1) as edge:
        await post(edge, "/v1/track", track("0"))  # the next frame lingers
        head = b"POST /v1/track HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Write-Key: web\r\n"

        async def send(id_: str, header: bytes) -> bytes:
            body = json.dumps(track(id_)).encode()
            return await raw(edge, head + header + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

        answers = await asyncio.gather(
            send("1", b"User-Agent: Caf\xe9"),
            send("2", b"Referer: http://x/\xff"),
            send("3", b"Origin: http://\xe9"),
            send("4", b"A: b"),
        )
        assert [answer[:12] for answer in answers] == [b"HTTP/1.1 200"] * 4
        events = {each.head.message_id: each.request for each in await edge.events()}
        assert set(events) == {"0", "1", "2", "3", "4"}
        assert events["1"].user_agent == "Caf\ufffd"
        assert events["2"].headers == {"referer": "http://x/\ufffd"}


async def test_large_contexts_of_many_requests_cost_no_neighbour(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker, window=1) as edge, browser() as session:
        context = {"a": os.urandom(120_000).hex()}

        async def send(number: int) -> int:
            body: dict[str, Any] = {"batch": [track(f"m{number}")]}
            if number % 10:
                body["context"] = context
            async with session.post(f"{edge.url}/v1/batch", json=body, headers=KEY) as answer:
                return answer.status

        assert set(await asyncio.gather(*(send(n) for n in range(150)))) == {200}
        assert Counter(await edge.ids()) == Counter(f"m{n}" for n in range(150))
        good = [track(f"g{n}") for n in range(2)]
        status, answer = await post(edge, "/v1/batch", {"batch": [*good, *[{"type": "page"}] * 100], "context": context})
        assert (status, answer["accepted"], answer["rejected"]) == (200, 2, 100)
        assert len(await edge.dead()) == 100


async def test_a_backends_own_address_says_nothing_of_its_user(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker) as edge:
        auth = aiohttp.encode_basic_auth("api", "s3cret")
        event = track("1", context={"ip": "1.2.3.4", "userAgent": "theirs"})
        assert (await post(edge, "/v1/track", event, {"Authorization": auth, "User-Agent": "ours"}))[0] == 200
        (stored,) = await edge.events()
        assert stored.materialised()["context"] == {"ip": "1.2.3.4", "userAgent": "theirs"}
        assert stored.request.key == "api"


async def test_good_events_of_a_batch_are_stored_and_bad_ones_are_dead_letters_with_their_bytes(
    nats: NatsServer, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    async with edge_here(nats, broker) as edge:
        body = b'{"batch":[{"type":"page","userId":"u","messageId":"1"},{"type":"page"},7,{"type":"page","userId":"u","messageId":"2"}]}'
        status, answer = await post(edge, "/v1/batch", body)
        assert (status, answer["accepted"], answer["rejected"]) == (200, 2, 2)
        assert await edge.ids() == ["1", "2"]
        letters = await edge.dead()
        assert [(letter.reason, letter.body) for letter in letters] == [
            (DeadReason.MISSING_ID, b'{"type":"page"}'),
            (DeadReason.NOT_AN_OBJECT, b"7"),
        ]
        assert [letter.origin.rsplit(":", 1)[1] for letter in letters] == ["1", "2"]
        assert letters[0].request is not None
        assert letters[0].request.key == "web"
        told = [vars(line) for line in caplog.records if line.message == "events are in the dead letters"]
        assert [(line["levelname"], line["site"], line["reason"], line["events"]) for line in told] == [
            ("WARNING", "shop", "missing_id", 1),
            ("WARNING", "shop", "not_an_object", 1),
        ]
        assert edge.count("ingest_events_accepted_total", site="shop", protocol="segment") == 2
        assert edge.count("ingest_events_rejected_total", site="shop", protocol="segment", reason="missing_id") == 1


async def test_what_is_odd_in_an_accepted_request_is_counted(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker) as edge:
        body = b'{"writeKey":"strict","context":7,"batch":[{"type":"page","userId":"u"},{"type":"page","userId":"u","messageId":"2"}]}'
        status, _ = await post(edge, "/v1/batch", body)
        assert (status, len(await edge.ids())) == (200, 2)
        assert edge.count("ingest_ids_made_total", site="shop") == 1
        assert edge.count("ingest_members_ignored_total", site="shop", reason="context_not_an_object") == 1
        assert edge.count("ingest_key_disagreements_total", site="shop") == 1
        assert edge.count("ingest_requests_total") == 1
        _, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        async with asyncio.timeout(60):  # told every two seconds
            while edge.count("ingest_connections") != 1 or not edge.count("ingest_tasks"):
                await asyncio.sleep(0.05)
        writer.close()
        assert (edge.count("ingest_inflight_bytes"), edge.count("ingest_unfinished_bytes")) == (0, 0)


async def test_concurrent_requests_share_frames(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker, window=1) as edge, browser() as session:

        async def send(number: int) -> int:
            async with session.post(f"{edge.url}/v1/track", json=track(f"m{number}"), headers=KEY) as answer:
                return answer.status

        assert set(await asyncio.gather(*(send(n) for n in range(150)))) == {200}
        events = await edge.events()
        assert sorted(each.head.message_id for each in events) == sorted(f"m{n}" for n in range(150))
        assert len({each.frame for each in events}) < 75
        assert all(json.loads(each.body)["messageId"] == each.head.message_id for each in events)


async def test_a_request_larger_than_a_frame_is_split_and_answered_once(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker, frame_events=50) as edge:
        body = {"batch": [track(f"m{n}") for n in range(230)]}
        assert await post(edge, "/v1/batch", body) == (200, {"success": True})
        events = await edge.events()
        assert [each.head.message_id for each in events] == [f"m{n}" for n in range(230)]
        assert len({each.frame for each in events}) == 5


async def test_a_pixel_is_a_gif_whether_its_event_is_good_or_not(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker) as edge, browser() as session:
        for query in ("writeKey=web&userId=u&messageId=1&properties.a=b", "writeKey=web&data=%21%21", "writeKey=nobody", ""):
            async with session.get(f"{edge.url}/v1/pixel/page?{query}") as answer:
                assert (answer.status, answer.content_type) == (200, "image/gif")
        assert await edge.ids() == ["1"]
        assert [letter.reason for letter in await edge.dead()] == [DeadReason.MALFORMED_JSON]
        assert edge.count("ingest_requests_refused_total", code="unknown_key", site="", key="") == 1
