"""The edge over real sockets, with a real broker behind it: what it answers, what is stored, and what it survives."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest

from shared.errors import ConfigError
from shared.events.outcome import DeadReason
from shared.jetstream.broker import Broker
from tests.e2e.ingest_support import PROJECT, Edge, apply, browser, edge_here, track
from tests.support.nats import NatsServer

KEY = {"X-Write-Key": "web"}


async def post(edge: Edge, path: str, body: Any, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """Returns (status, decoded answer)."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with browser() as session, session.post(edge.url + path, data=io.BytesIO(data), headers=headers or KEY) as answer:
        return answer.status, json.loads(await answer.read())


async def raw(edge: Edge, data: bytes, *, read_seconds: float = 10) -> bytes:
    """Sends bytes over a socket of its own and returns what comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(data)
    await writer.drain()
    async with asyncio.timeout(read_seconds):
        answer = await reader.read()
    writer.close()
    return answer


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


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "code"),
    [
        ("/v1/track", b"nonsense", KEY, 400, "invalid_json"),
        ("/v1/track", b"", KEY, 400, "empty_body"),
        ("/v1/track", b"{}", {"X-Write-Key": "nobody"}, 401, "unknown_key"),
        ("/v1/track", b"{}", {"Host": "elsewhere"}, 401, "missing_key"),
        ("/v1/track", b"{}", {"X-Write-Key": "closed"}, 401, "site_disabled"),
        ("/v1/track", b"{}", {"Authorization": "Bearer nobody"}, 401, "unknown_key"),
        (f"/v1/track?writeKey=nobody&{'&'.join(f'a{n}=' for n in range(900))}", b"{}", {"Host": "x"}, 401, "unknown_key"),
        ("/v1/unheard", b"{}", KEY, 404, "unknown_path"),
        ("/v1/pixel/track", b"{}", KEY, 405, "wrong_method"),
        ("/v1/ws", b"{}", KEY, 426, "upgrade_required"),
        ("/v1/track", b"{}", {**KEY, "Content-Encoding": "compress"}, 415, "bad_encoding"),
        ("/v1/track", b"xx", {**KEY, "Content-Encoding": "gzip"}, 400, "bad_encoding"),
        ("/v1/track", b" " * 9_000_000, KEY, 413, "request_too_large"),
        ("/v1/track", gzip.compress(b"0" * 9_000_000), {**KEY, "Content-Encoding": "gzip"}, 413, "request_too_large"),
        ("/v1/track", gzip.compress(b"0" * 9_000_000), KEY, 413, "request_too_large"),
        ("/v1/batch", b" " * 10_001, {"X-Write-Key": "strict"}, 413, "request_too_large"),
        ("/v1/page", b'{"userId":"' + b"u" * 2001 + b'"}', {"X-Write-Key": "strict"}, 413, "event_too_large"),
        ("/v1/page", b'{"userId":"u"}', {"X-Write-Key": "strict", "Origin": "https://evil.example"}, 403, "origin_not_allowed"),
        ("/v1/page", b'{"userId":"u"}', {"X-Write-Key": "api:wrong"}, 401, "wrong_secret"),
    ],
)
async def test_a_bad_request_is_told_so_with_a_code_and_words(
    nats: NatsServer, broker: Broker, path: str, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    async with edge_here(nats, broker) as edge:
        answered, answer = await post(edge, path, body, headers)
        assert (answered, answer["code"]) == (status, code)
        assert answer["message"]
        if status == 413:
            assert any(limit in answer["message"] for limit in ("8388608", "10000", "2000"))
        assert await edge.ids() == []


async def test_a_declared_length_beyond_the_limit_is_refused_before_the_body_comes(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker) as edge:
        head = b"POST /v1/batch HTTP/1.1\r\nHost: x\r\nX-Write-Key: web\r\nContent-Length: 99999999999\r\n\r\n"
        answer = await raw(edge, head)
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"99999999999 bytes" in answer


async def test_an_endless_chunked_body_is_cut_at_the_limit(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker) as edge:
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        writer.write(b"POST /v1/batch HTTP/1.1\r\nHost: x\r\nX-Write-Key: strict\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"1000\r\n" + b" " * 0x1000 + b"\r\n"
        for _ in range(20):
            writer.write(chunk)
        await writer.drain()
        async with asyncio.timeout(10):
            assert (await reader.readline()).startswith(b"HTTP/1.1 413")
        writer.close()


@pytest.mark.parametrize("sent", [b"", b"POST /v1/tr", b"POST /v1/track HTTP/1.1\r\nHost: x\r\n"])
async def test_a_client_that_never_finishes_its_headers_is_told_408_and_let_go(
    nats: NatsServer, broker: Broker, sent: bytes
) -> None:
    async with edge_here(nats, broker, read_timeout=0.3) as edge:
        answer = await raw(edge, sent)
        assert answer.startswith(b"HTTP/1.1 408")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in head
        assert json.loads(body)["code"] == "read_timeout"


async def test_a_client_that_never_finishes_its_body_is_told_408(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker, read_timeout=0.3) as edge:
        answer = await raw(edge, b"POST /v1/track HTTP/1.1\r\nHost: x\r\nX-Write-Key: web\r\nContent-Length: 50\r\n\r\n{")
        assert answer.startswith(b"HTTP/1.1 408")
        assert await edge.ids() == []


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x02\x00", b"GARBAGE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /\xff HTTP/1.1\r\nA\x00b: c\r\n\r\n"]
)
async def test_what_is_no_http_is_answered_400_in_json(nats: NatsServer, broker: Broker, sent: bytes) -> None:
    async with edge_here(nats, broker, read_timeout=0.5) as edge:
        answer = await raw(edge, sent)
        assert answer.split(b" ")[1] in (b"400", b"404", b"408"), answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"]


async def test_a_client_that_waits_for_100_continue_gets_it(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker) as edge:
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        body = json.dumps(track("1")).encode()
        writer.write(
            f"POST /v1/track HTTP/1.1\r\nHost: x\r\nX-Write-Key: web\r\nExpect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        )
        async with asyncio.timeout(5):
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
        async with asyncio.timeout(10):
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
            async with asyncio.timeout(5):
                assert b" 200 " not in await reader.read()
            writer.close()
        assert await edge.ids() == []


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
        async with asyncio.timeout(10):
            done, rest = await asyncio.wait(
                [asyncio.create_task(reader.readline()) for reader, _ in many], return_when=asyncio.FIRST_COMPLETED
            )
        assert {each.result() for each in done} == {b"HTTP/1.1 503 Service Unavailable\r\n"}
        for each in rest:
            each.cancel()
        for _, writer in many:
            writer.transport.abort()


async def test_the_request_limit_of_a_site_holds_where_its_key_stands_in_the_body(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker) as edge:
        body = {"writeKey": "strict", "batch": [{"type": "page", "userId": "u", "a": "x" * 1500}] * 10}
        status, answer = await post(edge, "/v1/batch", body, {"Host": "elsewhere"})
        assert (status, answer["code"]) == (413, "request_too_large")
        assert "10000" in answer["message"]


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


async def test_a_request_that_crosses_with_the_end_of_the_edge_is_answered(nats: NatsServer, broker: Broker) -> None:
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


async def test_a_preflight_is_answered_on_every_path_and_allows_what_the_sites_list(nats: NatsServer, broker: Broker) -> None:
    only_strict = {"sites": {"strict": PROJECT["sites"]["strict"]}}
    asked = {
        "Origin": "https://a.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    async with edge_here(nats, broker) as edge, browser() as session:
        for path in ("/v1/t", "/v1/projects/web/settings", "/nowhere"):
            async with session.options(edge.url + path, headers=asked) as answer:
                assert answer.status == 204
                assert answer.headers["Access-Control-Allow-Origin"] == "https://a.example"
                assert "authorization" in answer.headers["Access-Control-Allow-Headers"]
        async with session.post(f"{edge.url}/v1/t", data="{}", headers={"Origin": "https://a.example"}) as answer:
            assert answer.status == 401
            assert answer.headers["Access-Control-Allow-Origin"] == "https://a.example"
        await apply(broker, only_strict)
        async with asyncio.timeout(5):
            while True:
                async with session.options(f"{edge.url}/v1/t", headers=asked) as answer:
                    if "Access-Control-Allow-Origin" not in answer.headers:
                        break
                await asyncio.sleep(0.02)
        listed = {"Origin": "https://strict.example", "X-Write-Key": "strict"}
        async with session.post(f"{edge.url}/v1/page", json={"userId": "u"}, headers=listed) as answer:
            assert answer.status == 200
            assert answer.headers["Access-Control-Allow-Credentials"] == "true"


async def test_a_pixel_is_a_gif_whether_its_event_is_good_or_not(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker) as edge, browser() as session:
        for query in ("writeKey=web&userId=u&messageId=1&properties.a=b", "writeKey=web&data=%21%21", "writeKey=nobody", ""):
            async with session.get(f"{edge.url}/v1/pixel/page?{query}") as answer:
                assert (answer.status, answer.content_type) == (200, "image/gif")
        assert await edge.ids() == ["1"]
        assert [letter.reason for letter in await edge.dead()] == [DeadReason.MALFORMED_JSON]
        assert edge.count("ingest_requests_refused_total", code="unknown_key", site="", key="") == 1


async def test_a_key_beyond_its_rate_is_told_429_and_when_to_come_back(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker) as edge, browser() as session:
        body = json.dumps({"batch": [{"type": "page", "userId": "u"}] * 20})
        statuses = set()
        for _ in range(300):
            async with session.post(f"{edge.url}/v1/batch", data=body, headers={"X-Write-Key": "strict"}) as answer:
                statuses.add(answer.status)
                if answer.status == 429:
                    assert int(answer.headers["Retry-After"]) >= 1
                    break
        assert statuses == {200, 429}


async def test_bots_are_dropped_where_the_site_says_so_and_addresses_are_cut(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker) as edge:
        strict = {"X-Write-Key": "strict", "User-Agent": "Googlebot/2.1 (+http://www.google.com/bot.html)"}
        assert await post(edge, "/v1/page", {"userId": "bot"}, strict) == (200, {"success": True})
        assert await post(edge, "/v1/page", {"userId": "person", "messageId": "1"}, {"X-Write-Key": "strict"}) == (
            200,
            {"success": True},
        )
        (stored,) = await edge.events("strict")
        assert stored.head.message_id == "1"
        assert stored.request.ip == "127.0.0.0"


async def test_bots_are_refused_where_the_site_says_so(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker) as edge:
        await apply(broker, {"sites": {"shop": {"keys": [{"id": "no-bots"}], "bots": "refuse"}}})
        bot = {"X-Write-Key": "no-bots", "User-Agent": "Googlebot/2.1 (+http://www.google.com/bot.html)"}
        async with asyncio.timeout(5):
            while (answer := await post(edge, "/v1/page", {"userId": "bot"}, bot))[0] == 401:
                await asyncio.sleep(0.02)
        assert (answer[0], answer[1]["code"]) == (403, "bot_refused")
        assert (await post(edge, "/v1/page", {"userId": "person"}, {"X-Write-Key": "no-bots"}))[0] == 200


async def test_a_changed_project_is_in_force_without_a_restart(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker) as edge:
        assert (await post(edge, "/v1/page", {"userId": "u"}, {"X-Write-Key": "new"}))[0] == 401
        await apply(broker, {"sites": {"shop": {"keys": [{"id": "new"}]}}})
        async with asyncio.timeout(5):
            while (await post(edge, "/v1/page", {"userId": "u"}, {"X-Write-Key": "new"}))[0] != 200:
                await asyncio.sleep(0.02)
        assert (await post(edge, "/v1/page", {"userId": "u"}))[0] == 401


async def test_a_port_that_is_taken_is_named(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker) as edge:
        with pytest.raises(ConfigError, match=f"PENSTOCK_INGEST_PORT: cannot listen on 127.0.0.1:{edge.port}"):
            async with edge_here(nats, broker, port=edge.port):
                pass


async def test_settings_are_readable_by_pages_of_any_origin(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker) as edge, browser() as session:
        headers = {"Origin": "https://any.example"}
        async with session.get(f"{edge.url}/v1/projects/web/settings", headers=headers) as answer:
            assert answer.status == 200
            assert answer.headers["Access-Control-Allow-Origin"] == "https://any.example"
            settings = (await answer.json())["integrations"]["Segment.io"]
            assert settings["apiHost"] == f"127.0.0.1:{edge.port}/v1"
        async with session.get(f"{edge.url}/v1/projects/nobody/settings", headers=headers) as answer:
            assert (answer.status, (await answer.json())["code"]) == (401, "unknown_key")


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
    async with edge_here(nats, broker, max_requests=3, linger=0.3, window=1) as edge, browser() as session:
        await post(edge, "/v1/track", track("first"))  # the next frame lingers

        async def send(number: int) -> int:
            async with session.post(f"{edge.url}/v1/track", json=track(f"m{number}"), headers=KEY) as answer:
                assert answer.status == 200 or (await answer.json())["code"] == "overloaded"
                return answer.status

        statuses = await asyncio.gather(*(send(n) for n in range(10)))
        assert sorted(statuses) == [200] * 3 + [503] * 7


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
        for _, writer in answers:
            writer.transport.abort()
