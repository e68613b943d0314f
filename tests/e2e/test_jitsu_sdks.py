"""Jitsu's own SDK, unmodified, against a real edge: what it says it delivered is what is stored."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from shared.jetstream.broker import Broker
from tests.e2e.ingest.edge import edge_here
from tests.e2e.test_browser_sdks import arrived
from tests.support.browser import chromium, opened, pages
from tests.support.nats import NatsServer
from tests.support.sdks import node_sdks, run

__all__ = ["node_sdks"]

HERE = Path(__file__).parent
ROUNDS = 10


async def test_the_sdk_in_node_delivers_every_call(nats: NatsServer, broker: Broker, node_sdks: Path) -> None:
    async with edge_here(nats, broker) as edge:
        command = ["node", str(HERE / "node" / "jitsu.cjs"), edge.url, "api:s3cret", str(ROUNDS)]
        sent = await run(command, NODE_PATH=str(node_sdks))
        assert sent == {"delivered": 4 * ROUNDS, "problems": []}
        stored = await edge.events()
        assert Counter(each.head.type for each in stored) == dict.fromkeys(["track", "identify", "page", "group"], ROUNDS)
        assert len({each.head.message_id for each in stored}) == 4 * ROUNDS
        events = [each.materialised() for each in stored]
        assert {event["context"]["library"]["name"] for event in events} == {"@jitsu/js"}
        assert {event["properties"]["items"][0]["sku"] for event in events if event["type"] == "track"} == {
            f"é-{number}" for number in range(ROUNDS)
        }
        assert await edge.dead() == []


async def test_the_script_in_a_page_delivers_every_call(nats: NatsServer, broker: Broker, node_sdks: Path) -> None:
    script = (node_sdks / "@jitsu/js/dist/web/p.js.txt").read_text(encoding="utf-8")
    # the script takes no key without a secret
    project = {"sites": {"shop": {"keys": [{"id": "web", "secret": "p4ge"}]}}}
    async with edge_here(nats, broker, project) as edge, pages({}) as site, chromium() as browser:
        # the script sends to the server that it came from
        tag = f'<script src="{edge.url}/jitsu.js" data-write-key="web:p4ge" data-init-only="true"></script>'
        site.pages["/"] = f"<!doctype html><title>Shop</title>{tag}"
        problems: list[str] = []
        shop = await opened(browser, f"{site.url}/", problems, {f"{edge.url}/jitsu.js": script})
        await shop.evaluate("""async () => {
            await jitsu.identify("u1", { plan: "pro" })
            await jitsu.page({ name: "Home" })
            for (let n = 0; n < 5; n++) await jitsu.track("Order Completed", { total: n })
        }""")
        stored = await arrived(edge, 7)
        assert Counter(each.head.type for each in stored) == {"identify": 1, "page": 1, "track": 5}
        for each in stored:
            event = each.materialised()
            assert event["context"]["page"]["url"] == f"{site.url}/"
            assert event["anonymousId"]
        assert problems == []
        assert await edge.dead() == []
