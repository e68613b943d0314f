"""Events over WebSocket with the `websockets` client: acks after durability, both forms, credit, resume, drain."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import msgspec
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from shared.events.outcome import DeadReason
from shared.jetstream.broker import Broker
from tests.e2e.ingest.edge import Edge, apply, edge_here, track
from tests.support.nats import NatsServer


def address(edge: Edge, query: str = "?writeKey=web") -> str:
    return f"ws://127.0.0.1:{edge.port}/v1/ws{query}"


async def receive(socket: ClientConnection) -> Any:
    async with asyncio.timeout(60):
        data = await socket.recv()
    return json.loads(data) if isinstance(data, str) else msgspec.msgpack.decode(data)


async def say(socket: ClientConnection, message: Any) -> Any:
    """Sends a message as JSON and returns the answer."""
    await socket.send(json.dumps(message))
    return await receive(socket)


async def open_raw(edge: Edge) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Opens a connection that does only what it is told."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(
        b"GET /v1/ws?writeKey=web HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    async with asyncio.timeout(60):
        await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def test_a_message_is_acknowledged_by_its_id_after_its_events_are_stored(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker) as edge, connect(address(edge)) as socket:
        assert await receive(socket) == {"hello": 1, "credit": 64}
        batch = {"id": 7, "batch": [track("1"), track("2")], "sentAt": "2026-01-01T00:00:00Z", "context": {"app": "x"}}
        assert await say(socket, batch) == {"ack": 7, "accepted": 2, "rejected": [], "credit": 64}
        assert await edge.ids() == ["1", "2"]
        assert await say(socket, {"id": "b", "event": track("3")}) == {"ack": "b", "accepted": 1, "rejected": [], "credit": 64}
        first, _, third = await edge.events()
        assert first.request.protocol == "websocket"
        assert first.request.sent_at == "2026-01-01T00:00:00Z"
        assert first.materialised()["context"]["app"] == "x"
        assert json.loads(third.body) == track("3")
        assert edge.count("ingest_websockets") == 1
    assert edge.count("ingest_websockets") == 0


async def test_messagepack_is_taken_and_answered_in_its_own_form(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker) as edge, connect(address(edge)) as socket:
        await receive(socket)
        event = track("1", properties={"n": float("nan"), "big": 2**63, "raw": b"\x00\xff", "é": "ü"})
        message = {
            "id": 1,
            "batch": [event, 5, {"type": "page"}, {"type": "page", "userId": "u", "x": msgspec.msgpack.Ext(5, b"x")}],
            "context": {"app": "x"},
        }
        await socket.send(msgspec.msgpack.encode(message))
        answer = await receive(socket)
        assert (answer["ack"], answer["accepted"]) == (1, 1)
        assert {each["index"]: each["reason"] for each in answer["rejected"]} == {
            1: "not_an_object",
            2: "missing_id",
            3: "malformed_json",
        }
        (stored,) = await edge.events()
        assert json.loads(stored.body)["properties"] == {"n": None, "big": 2**63, "raw": "AP8=", "é": "ü"}
        assert stored.materialised()["context"]["app"] == "x"
        assert len(await edge.dead()) == 3


async def test_a_bad_event_or_message_never_closes_the_connection(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker) as edge, connect(address(edge)) as socket:
        await receive(socket)
        answer = await say(socket, {"id": 1, "batch": [track("1"), {"type": "page"}, track("2")]})
        assert answer["rejected"] == [{"index": 1, "reason": "missing_id", "detail": answer["rejected"][0]["detail"]}]
        await socket.send(
            '{"id":2,"batch":[{"type":"page","userId":"u","messageId":"3","n":NaN},{nonsense},{"type":"page","userId":"u"}]}'
        )
        answer = await receive(socket)
        assert (answer["ack"], answer["accepted"]) == (2, 2)
        assert [each["reason"] for each in answer["rejected"]] == [DeadReason.MALFORMED_JSON]
        for broken in (
            "nonsense",
            "[1]",
            '{"id":3}',
            '{"batch":[]}',
            '{"id":{},"event":{}}',
            '{"id":1,"batch":5}',
            "[" * 50_000,
            b"\xc1",
            b"\x93\x01",
        ):
            await socket.send(broken)
            assert (await receive(socket))["error"] in ("invalid_json", "invalid_message", "missing_id")
        assert (await say(socket, {"id": 4, "event": track("4")}))["ack"] == 4
        assert {"1", "2", "3", "4"} <= set(await edge.ids())


@pytest.mark.parametrize("carrier", ["query", "subprotocol", "header", "message", "message with events"])
async def test_the_key_is_taken_from_every_carrier(nats: NatsServer, broker: Broker, carrier: str) -> None:
    key = "api:s3cret"
    encoded = base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")
    offered = [Subprotocol("penstock.v1"), Subprotocol(f"key.{encoded}")] if carrier == "subprotocol" else None
    headers = {"X-Write-Key": key} if carrier == "header" else None
    async with edge_here(nats, broker) as edge:
        query = f"?writeKey={key}" if carrier == "query" else ""
        async with connect(address(edge, query), subprotocols=offered, additional_headers=headers) as socket:
            await receive(socket)
            assert socket.subprotocol == ("penstock.v1" if offered else None)
            message: dict[str, Any] = {"id": 1, "event": track("1")}
            if carrier == "message":
                await socket.send(json.dumps({"key": key}))
            if carrier == "message with events":
                message["key"] = key
            assert (await say(socket, message))["accepted"] == 1
            assert (await say(socket, {"id": 2, "event": track("2")}))["accepted"] == 1
            assert (await edge.events())[0].request.kind == "server"


async def test_a_wrong_key_is_refused_in_the_handshake_or_closes_with_1008(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker, read_timeout=0.3) as edge:
        with pytest.raises(InvalidStatus) as refused:
            async with connect(address(edge, "?writeKey=nobody")):
                pass
        assert refused.value.response.status_code == 401
        for first in ({"key": "nobody"}, {"id": 1, "event": track("1")}, None):
            async with connect(address(edge, "")) as socket:
                await receive(socket)
                if first is not None:
                    await socket.send(json.dumps(first))
                assert (await receive(socket))["error"] in ("unknown_key", "missing_key")
                with pytest.raises(ConnectionClosed) as closed:
                    await receive(socket)
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 1008
        assert await edge.ids() == []


async def test_messages_beyond_the_credit_are_told_so_and_a_client_that_goes_on_is_closed(
    nats: NatsServer, broker: Broker
) -> None:
    async with edge_here(nats, broker, websocket_credit=2, linger=0.5, window=1) as edge, connect(address(edge)) as socket:
        assert (await receive(socket))["credit"] == 2
        assert (await say(socket, {"id": 0, "event": track("0")}))["ack"] == 0  # the next frame lingers
        for number in range(1, 5):
            await socket.send(json.dumps({"id": number, "event": track(str(number))}))
        answers = [await receive(socket) for _ in range(4)]
        assert [(each["error"], each["id"]) for each in answers[:2]] == [("credit_exceeded", 3), ("credit_exceeded", 4)]
        assert [each["ack"] for each in answers[2:]] == [1, 2]
        assert await edge.ids() == ["0", "1", "2"]
        for number in range(100):
            await socket.send(json.dumps({"id": number, "event": track(f"more-{number}")}))
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                await receive(socket)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008


async def test_pings_of_both_kinds_are_answered(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker, websocket_ping=1.0) as edge, connect(address(edge), ping_interval=None) as socket:
        await receive(socket)
        assert await say(socket, {"ping": {"n": 1}}) == {"pong": {"n": 1}}
        await (await socket.ping())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.7):
                await socket.recv()  # the server's pings are answered meanwhile
        assert await say(socket, {"ping": 2}) == {"pong": 2}


async def test_a_client_that_is_cut_off_resumes_by_sending_what_has_no_ack(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker) as edge:
        unacknowledged = {n: {"id": n, "event": track(f"m{n}")} for n in range(300)}
        rounds = 0
        while unacknowledged:
            rounds += 1
            async with connect(address(edge)) as socket:
                credit = (await receive(socket))["credit"]
                waiting = list(unacknowledged.values())[:credit]
                for message in waiting:
                    await socket.send(json.dumps(message))
                for _ in range(len(waiting) // 2 or 1):
                    del unacknowledged[(await receive(socket))["ack"]]
                socket.transport.abort()
        assert rounds > 4
        await asyncio.sleep(0)
        ids = await edge.ids()
        assert set(ids) == {f"m{n}" for n in range(300)}


async def test_a_draining_edge_acknowledges_what_it_took_and_closes_with_1001(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker, linger=0.3, window=1) as edge, connect(address(edge)) as socket:
        await receive(socket)
        await say(socket, {"id": 0, "event": track("0")})
        for number in range(1, 11):
            await socket.send(json.dumps({"id": number, "event": track(str(number))}))
        await socket.send(json.dumps({"ping": 1}))
        assert await receive(socket) == {"pong": 1}  # all are taken, none is acknowledged
        assert edge.context is not None
        edge.context.draining.set()
        assert [(await receive(socket))["ack"] for _ in range(10)] == list(range(1, 11))
        with pytest.raises(ConnectionClosed) as closed:
            await receive(socket)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
        assert await edge.ids() == [str(n) for n in range(11)]


async def test_a_draining_edge_waits_for_the_clients_own_end(nats: NatsServer, broker: Broker) -> None:
    """A connection that is closed while data comes is reset, with the acknowledgements that the client has not read yet."""
    async with edge_here(nats, broker) as edge:
        assert edge.context is not None
        reader, writer = await open_raw(edge)
        await reader.readexactly(2 + len('{"hello":1,"credit":64}'))
        edge.context.draining.set()
        frame = await reader.readexactly(2)
        assert frame[0] == 0x88
        assert (await reader.readexactly(frame[1]))[:2] == (1001).to_bytes(2, "big")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await reader.read(1)
        writer.write(b"\x88\x82\0\0\0\0" + (1001).to_bytes(2, "big"))
        async with asyncio.timeout(60):
            assert await reader.read() == b""
        writer.close()


async def test_a_broker_that_is_away_is_an_error_with_a_time_to_come_back(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker, deadline=0.5) as edge, connect(address(edge)) as socket:
        await receive(socket)
        nats.kill()
        answer = await say(socket, {"id": 1, "event": track("1")})
        assert (answer["error"], answer["id"]) == ("unavailable", 1)
        assert answer["retry_after"] >= 1
        nats.start()
        async with asyncio.timeout(60):
            while "ack" not in (answer := await say(socket, {"id": 2, "event": track("1")})):
                assert answer["error"] == "unavailable"
        assert set(await edge.ids()) == {"1"}


async def test_a_key_that_is_taken_out_of_the_project_ends_its_connections_at_the_next_message(
    nats: NatsServer, broker: Broker
) -> None:
    async with edge_here(nats, broker) as edge, connect(address(edge)) as socket:
        await receive(socket)
        await apply(broker, {"sites": {"shop": {"keys": [{"id": "new"}]}}})
        with pytest.raises(ConnectionClosed):
            async with asyncio.timeout(60):
                while True:
                    await say(socket, {"id": 1, "event": track("1")})


async def test_a_message_beyond_the_request_limit_closes_with_1009(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker) as edge, connect(address(edge), max_size=None) as socket:
        await receive(socket)
        await socket.send("x" * 9_000_000)
        with pytest.raises(ConnectionClosed) as closed:
            await receive(socket)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


@pytest.mark.timeout(240)
async def test_a_client_that_reads_nothing_does_not_hold_up_the_drain(nats: NatsServer, broker: Broker) -> None:
    """Its acknowledgements fill every buffer on the way; an edge that does not drain within its period is an error of `edge_here`."""
    async with edge_here(nats, broker, websocket_credit=500) as edge:
        reader, writer = await open_raw(edge)
        reader._transport.pause_reading()  # type: ignore[attr-defined]  # asyncio has no public way
        message = json.dumps({"id": 1, "batch": [{"type": "page"}] * 9000}).encode()
        frame = b"\x81\xff" + len(message).to_bytes(8, "big") + b"\0\0\0\0" + message
        for _ in range(12):
            writer.write(frame)
        await writer.drain()
        async with asyncio.timeout(60):
            while edge.count("ingest_events_rejected_total", site="shop", protocol="websocket", reason="missing_id") < 9 * 9000:
                await asyncio.sleep(0.05)
    writer.transport.abort()
