"""What the server knows of a request, by protocol: one request of each through a real edge; address, agent, bot, place, kept headers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import aiohttp
from websockets.asyncio.client import connect

from shared.events.event import JSON
from shared.jetstream.broker import Broker
from tests.e2e.ingest.edge import Edge, Stored, edge_here
from tests.support.nats import NatsServer
from tests.unit.ingest.test_places import CITY, write_database

ADDRESS = "81.2.69.142"
AGENT = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
HEADERS = {"User-Agent": AGENT, "X-Forwarded-For": ADDRESS, "X-Tenant": "acme", "X-Other": "no"}
PROJECT: dict[str, Any] = {
    "sites": {"shop": {"keys": [{"id": "web"}], "ip": "truncate"}},
    "webhooks": {"any": {"site": "shop", "type": "open"}},
}
ALL = {"ip": "81.2.69.0", "agent": AGENT, "bot": True, "country": "GB", "headers": {"x-tenant": "acme"}}
EVENT = {"type": "track", "event": "Sold", "userId": "u", "messageId": "m"}
CLASSIC = {"event_type": "sold", "event_id": "m", "user": {"id": "u"}}
CALLS: dict[str, tuple[str, Any]] = {
    "segment": ("/v1/track?writeKey=web", EVENT),
    "rudder": ("/beacon/v1/batch?writeKey=web", {"batch": [EVENT]}),
    "jitsu": ("/api/s/track?writekey=web", EVENT),
    "jitsu_classic": ("/api/v1/event?token=web", CLASSIC),
    "snowplow": ("/i?e=pv&p=web&tv=x&aid=web&eid=7e0a8d1c-6e0b-4a43-a2fd-6a2a5f2f8a01&url=http%3A%2F%2Fx", None),
    "webhook": ("/webhooks/any", {"n": 1}),
}


async def send_http(edge: Edge, protocol: str) -> None:
    path, body = CALLS[protocol]
    data = None if body is None else json.dumps(body)
    method = "GET" if body is None else "POST"
    async with aiohttp.ClientSession() as session, session.request(method, edge.url + path, data=data, headers=HEADERS) as answer:
        assert answer.status == 200, await answer.text()


async def send_socket(edge: Edge, _: str) -> None:
    headers = {name: value for name, value in HEADERS.items() if name != "User-Agent"}
    address = f"ws://127.0.0.1:{edge.port}/v1/ws?writeKey=web"
    async with connect(address, additional_headers=headers, user_agent_header=AGENT) as socket:
        await socket.recv()
        await socket.send(json.dumps({"id": 1, "event": EVENT}))
        assert json.loads(await socket.recv())["ack"] == 1


async def test_every_protocol_tells_what_the_server_knows_of_the_request(
    nats: NatsServer, broker: Broker, tmp_path: Path
) -> None:
    file = tmp_path / "city.mmdb"
    write_database(file, ip_network("81.2.69.0/24"), CITY)  # type: ignore[arg-type]  # of version 4
    senders: dict[str, Callable[[Edge, str], Awaitable[None]]] = {**dict.fromkeys(CALLS, send_http), "websocket": send_socket}
    options = {"trusted_proxies": ["127.0.0.1"], "keep_headers": ["x-tenant"], "geo_file": str(file)}
    async with edge_here(nats, broker, PROJECT, **options) as edge:
        for protocol, send in senders.items():
            async with asyncio.timeout(60):
                await send(edge, protocol)
        found = {event.request.protocol: facts(event) for event in await edge.events()}
    nobody = {**ALL, "agent": None, "bot": None, "country": None}  # a vendor's server sends it, and tells nothing of a person
    assert found == {**dict.fromkeys(senders, ALL), "webhook": nobody}


def facts(event: Stored) -> JSON:
    context = event.materialised()["context"]
    place = context.get("geo") or {}
    return {
        "ip": context.get("ip"),
        "agent": context.get("userAgent"),
        "bot": context.get("bot"),
        "country": place.get("country"),
        "headers": event.request.headers,
    }
