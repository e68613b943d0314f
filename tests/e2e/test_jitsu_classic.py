"""Classic Jitsu's own SDK, unmodified, and uploads of files, against a real edge: what they say they delivered is what is stored."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections import Counter
from pathlib import Path

import aiohttp

from shared.jetstream.broker import Broker
from tests.e2e.ingest.edge import browser, edge_here
from tests.e2e.test_browser_sdks import arrived
from tests.support.browser import chromium, opened, pages
from tests.support.nats import NatsServer
from tests.support.sdks import node_sdks, run

__all__ = ["node_sdks"]

HERE = Path(__file__).parent
ROUNDS = 10


async def test_the_sdk_in_node_delivers_every_call(nats: NatsServer, broker: Broker, node_sdks: Path) -> None:
    async with edge_here(nats, broker) as edge:
        command = ["node", str(HERE / "node" / "jitsu_classic.cjs"), edge.url, "api:s3cret", str(ROUNDS)]
        sent = await run(command, NODE_PATH=str(node_sdks))
        assert sent == {"sent": 4 * ROUNDS, "problems": []}
        events = [each.materialised() for each in await edge.events()]
        assert Counter(event["type"] for event in events) == {"track": 2 * ROUNDS, "identify": ROUNDS, "page": ROUNDS}
        assert len({event["messageId"] for event in events}) == 4 * ROUNDS
        assert {event["traits"]["plan"] for event in events if event["type"] == "identify"} == {"pro"}
        assert {event["properties"]["items"][0]["sku"] for event in events if event.get("event") == "order_completed"} == {
            f"é-{number}" for number in range(ROUNDS)
        }
        assert await edge.dead() == []


async def test_the_script_in_a_page_delivers_every_call_also_when_the_page_is_left(
    nats: NatsServer, broker: Broker, node_sdks: Path
) -> None:
    folder = node_sdks / "@jitsu/sdk-js/dist/web"
    async with edge_here(nats, broker) as edge, pages({}, {"/sdk/": folder}) as site, chromium() as browser_:
        tag = f'<script src="/sdk/lib.js" data-key="web" data-tracking-host="{edge.url}" data-init-only="yes" data-use-beacon-api="true"></script>'
        queue = "<script>window.jitsu = window.jitsu || ((...args) => (window.jitsuQ = window.jitsuQ || []).push(args))</script>"
        site.pages["/"] = f"<!doctype html><title>Shop</title>{tag}{queue}"
        problems: list[str] = []
        shop = await opened(browser_, f"{site.url}/?utm_campaign=c&gclid=g", problems)
        await shop.evaluate("""() => {
            jitsu("id", { id: "u1", plan: "pro" })
            jitsu("track", "pageview")
            for (let n = 0; n < 5; n++) jitsu("track", "order", { total: n })
        }""")
        await shop.goto("about:blank")
        stored = await arrived(edge, 7)
        assert Counter(each.head.type for each in stored) == {"identify": 1, "page": 1, "track": 5}
        for each in stored:
            event = each.materialised()
            context = event["context"]
            assert context["page"]["url"] == f"{site.url}/?utm_campaign=c&gclid=g"
            assert (context["campaign"], context["clickIds"]) == ({"name": "c"}, {"gclid": "g"})
            assert context["screen"]["innerWidth"]
            assert event["anonymousId"]
        assert problems == []
        assert await edge.dead() == []


async def test_a_file_that_broke_off_is_sent_again_and_its_lines_have_the_same_ids(nats: NatsServer, broker: Broker) -> None:
    lines = [json.dumps({"event_type": "sold", "user": {"id": "u"}, "n": number}) for number in range(300)]
    lines[7] = "{broken"
    file = gzip.compress("\n".join(lines).encode())
    path = "/api/v1/events/bulk?token=api:s3cret&idempotency_key=file-1"
    async with edge_here(nats, broker) as edge, browser() as session:
        # the connection ends in the middle of the file: nothing is stored
        head = f"POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len(file)}\r\n\r\n".encode()
        _, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        writer.write(head + file[:-200])
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert await edge.events() == []
        for _ in range(2):
            form = aiohttp.FormData()
            form.add_field("file", file, filename="events.ndjson.gz")
            async with session.post(edge.url + path, data=form) as answer:
                said = await answer.json()
            assert (answer.status, said["accepted"], said["rejected"], said["rejected_lines"]) == (200, 299, 1, [[8, 8]])
        ids = Counter(await edge.ids())
        assert set(ids.values()) == {2}  # the router's window of duplicates delivers each once
        assert len(ids) == 299
        assert {each.body for each in await edge.dead()} == {b"{broken"}
        assert len(await edge.dead()) == 1
