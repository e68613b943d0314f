"""Routers one after the other that evaluate alerts over one broker, with a moved clock."""

from __future__ import annotations

from typing import Any

import msgspec

from router.alerts.contract import TAKEN, Message, Outcome
from router.alerts.keeper import AlertKeeper
from router.alerts.registry import Alert
from router.alerts.send import Sender
from router.settings import RouterSettings
from shared.clock import Clock
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.jetstream.lease import Lease
from shared.project.read import decode_project
from shared.project.snapshot import ConfigSnapshot, ConfigWatcher
from shared.service import ServiceContext
from shared.settings import ServiceSettings
from shared.streams.reports import Told, key_of
from shared.telemetry.health import Health, Report
from shared.telemetry.metrics import Telemetry

PROJECT: dict[str, Any] = {
    "sites": {"shop": {}},
    "destinations": {"wh": {"type": "duckdb", "path": "/tmp/never.duckdb"}},
    "connections": {name: {"site": "shop", "destination": "wh"} for name in ("a", "b")},
    "alerts": {"ops": {"type": "webhook", "url": "http://127.0.0.1:9/", "when": ["connection"], "after": 0, "every": "1s"}},
}
SNAPSHOT = ConfigSnapshot(1, decode_project(PROJECT))


class Dead(BaseException):
    """The process died."""


class Recorder(Sender):
    """Keeps messages in place of sending them. `dies`: the process dies after the channel took one."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.answer = TAKEN
        self.dies = False

    async def send(self, alert: Alert, message: Message) -> Outcome:
        self.messages.append(message)
        if self.dies:
            raise Dead
        return self.answer

    @property
    def told(self) -> list[tuple[str, str]]:
        return [(item.key, item.status) for message in self.messages for item in message.items]


class Evaluation:
    """Routers one after the other over one broker, with a moved clock."""

    def __init__(self, broker: Broker, telemetry: Telemetry) -> None:
        self.broker = broker
        self.telemetry = telemetry
        self.health = Health()
        self.sent = Recorder()
        self.now = 1_800_000_000.0
        self.document: dict[str, Any] = PROJECT
        self.snapshot = SNAPSHOT
        self.keeper = self.another()

    def use(self, *, others: dict[str, Any] | None = None, **changes: Any) -> None:
        """Applies a project with another alert `ops`, or with other parts."""
        parts: dict[str, Any] = {part: changes.pop(part) for part in ("sites", "connections") if part in changes}
        ops = {**self.document["alerts"]["ops"], **changes}
        self.document = {**self.document, **parts, "alerts": {"ops": ops, **(others or {})}}
        self.snapshot = ConfigSnapshot(self.snapshot.revision + 1, decode_project(self.document))

    def context(self) -> ServiceContext:
        """Returns the context of a router."""
        clock = Clock(lambda: int(self.now * 1e9), lambda: int(self.now * 1e9))
        return ServiceContext(
            "router", "here", ServiceSettings(), self.broker, ConfigWatcher(), self.telemetry, self.health, clock=clock
        )

    def another(self) -> AlertKeeper:
        """Returns a router that takes over."""
        return AlertKeeper(self.context(), RouterSettings(), self.sent, Lease("keeper.alerts", 1, 3600.0))

    async def look(self, seconds: float = 10.0) -> None:
        """Looks after some time."""
        self.now += seconds
        await self.keeper.look_once(self.snapshot, self.keeper._parsed(self.snapshot))

    async def say(self, **problems: str) -> None:
        """Lets a loader work on both connections, and report these problems of them."""
        leases = Bucket(self.broker, topology.LEASE_BUCKET)
        report = Report(not problems, {f"connection {name}": why for name, why in problems.items()})
        told = Told(service="loader", instance="l", at=self.now + 3600, report=report)
        await leases.put(key_of("l"), msgspec.json.encode(told))
        for name in ("a", "b"):
            await leases.put(f"loader.{name}", b"l")
