"""What a site says is in force at the edge: origins, bots, keys, settings; and where the edge listens."""

from __future__ import annotations

import asyncio

import pytest

from shared.errors import ConfigError
from shared.jetstream.broker import Broker
from tests.e2e.ingest.edge import PROJECT, apply, browser, edge_here, post
from tests.support.nats import NatsServer


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
        async with asyncio.timeout(60):
            while True:
                async with session.options(f"{edge.url}/v1/t", headers=asked) as answer:
                    if "Access-Control-Allow-Origin" not in answer.headers:
                        break
                await asyncio.sleep(0.02)
        listed = {"Origin": "https://strict.example", "X-Write-Key": "strict"}
        async with session.post(f"{edge.url}/v1/page", json={"userId": "u"}, headers=listed) as answer:
            assert answer.status == 200
            assert answer.headers["Access-Control-Allow-Credentials"] == "true"


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
        async with asyncio.timeout(60):
            while (answer := await post(edge, "/v1/page", {"userId": "bot"}, bot))[0] == 401:
                await asyncio.sleep(0.02)
        assert (answer[0], answer[1]["code"]) == (403, "bot_refused")
        assert (await post(edge, "/v1/page", {"userId": "person"}, {"X-Write-Key": "no-bots"}))[0] == 200


async def test_a_changed_project_is_in_force_without_a_restart(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker) as edge:
        assert (await post(edge, "/v1/page", {"userId": "u"}, {"X-Write-Key": "new"}))[0] == 401
        await apply(broker, {"sites": {"shop": {"keys": [{"id": "new"}]}}})
        async with asyncio.timeout(60):
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
