"""Services that are users of the broker: who makes streams, and what its monitor tells to all who reach it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NoAnswer

from shared import service
from shared.jetstream import topology
from shared.jetstream.broker import connect
from shared.jetstream.topology import TopologySettings
from shared.settings import ServiceSettings
from shared.telemetry.health import Health
from tests.support.nats_cluster import Cluster, nats_cluster

pytestmark = pytest.mark.timeout(120)

PAGES = (
    "", "varz", "connz?auth=1&subs=detail", "routez?subs=detail", "subsz?subs=1", "accountz?acc=PENSTOCK", "accstatz", "leafz", "gatewayz",
    "jsz?accounts=1&streams=1&consumers=1&config=1", "healthz", "ipqueuesz", "stacksz", "debug/pprof/", "raftz",
)  # fmt: skip
"""What the broker's monitor has (https://docs.nats.io/running-a-nats-service/nats_admin/monitoring)."""


async def test_a_service_leaves_streams_to_a_router_and_the_monitor_tells_no_password(tmp_path: Path) -> None:
    with nats_cluster(Cluster(tmp_path, nodes=1)) as empty:
        health, address = Health(), empty.address("loader")
        async with connect(address, "loader", patience_seconds=30) as loader:
            ensuring = asyncio.create_task(service._ensure_topology(loader, "loader", ServiceSettings(nats_url=address), health))
            while not health.problems.get("streams"):
                await asyncio.sleep(0.05)
            assert health.problems["streams"].startswith("waits for a router to make ")
            async with connect(empty.address("router"), "router", patience_seconds=30) as router:
                await topology.ensure(router, TopologySettings(deliver_max_frames=1))  # fewer than the service would have
            await ensuring
            assert (loader.denied, loader._told) == ("", set())
            await router_makes(empty)
            told = ""
            async with ClientSession() as session:
                for page in PAGES:
                    async with session.get(f"http://127.0.0.1:{empty.nodes[0].ports.monitor}/{page}") as answer:
                        told += await answer.text()
        assert '"authorized_user": "loader"' in told, "it names users"
        assert "EVENTS" in told, "it names streams"
        assert not [user for user, password in empty.passwords.items() if password in told]


async def test_a_question_that_a_stream_without_a_leader_lost_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with nats_cluster(Cluster(tmp_path, nodes=1)) as server:
        async with connect(server.address("router"), "router", patience_seconds=30) as router:
            await topology.ensure(router, TopologySettings())
            ask, lost = router.nc.request, set[str]()

            async def loses_the_first(subject: str, *rest: Any, **more: Any) -> Msg:
                if ".STREAM.INFO." in subject and subject not in lost:
                    lost.add(subject)
                    raise NoAnswer
                return await ask(subject, *rest, **more)

            monkeypatch.setattr(router.nc, "request", loses_the_first)
            await topology.ensure(router, TopologySettings())
            assert len(lost) > 10


async def router_makes(cluster: Cluster) -> None:
    """Waits for streams as a router does: it needs no other one."""
    address = cluster.address("router")
    async with connect(address, "router", patience_seconds=30) as router:
        await service._ensure_topology(router, "router", ServiceSettings(nats_url=address), Health())
        assert not await topology.missing(router)
