"""What a verified delivery of a webhook costs beside an event of Segment's API: `python -m bench.webhooks`.

One edge, one broker with synced writes. Requests of one event each, about 800 bytes, take turns round by round: a track with a key in
its header, and a delivery signed as GitHub signs it, each with its own id. The ratios are medians over the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import hmac
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from bench import history
from bench.edge import ROOT, _process, _wait_for
from bench.kit.machine import Meter
from bench.kit.volley import fire
from shared.jetstream import topology
from shared.jetstream.broker import connect
from shared.project.snapshot import StoredProject, apply_project, resolve
from tests.support.nats import NatsServer, nats_server
from tests.support.ports import free_port

SECRET = "bench-secret"  # of this benchmark
PROJECT: dict[str, Any] = {
    "sites": {"bench": {"keys": [{"id": "bench-key", "kind": "server"}]}},
    "webhooks": {"github": {"site": "bench", "type": "github", "secret": SECRET}},
}
PREPARED, CONNECTIONS = 2000, 256


def payload(number: int) -> dict[str, Any]:
    """Returns an object of about 700 bytes."""
    return {
        "action": "opened",
        "number": number,
        "items": [{"sku": f"lamp-{each}", "price": 12.5 * each, "name": "a lamp of brass"} for each in range(10)],
    }


def tracks() -> list[bytes]:
    """Returns requests of Segment's API."""
    bodies = (
        json.dumps(
            {"type": "track", "event": "Opened", "userId": f"u{n}", "messageId": f"m{n}", "properties": payload(n)}
        ).encode()
        for n in range(PREPARED)
    )
    return [_request("/v1/track", body, "X-Write-Key: bench-key") for body in bodies]


def deliveries() -> list[bytes]:
    """Returns signed deliveries."""
    requests = []
    for n in range(PREPARED):
        body = json.dumps(payload(n)).encode()
        sign = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        headers = f"X-Hub-Signature-256: sha256={sign}\r\nX-GitHub-Event: issues\r\nX-GitHub-Delivery: {n:032x}"
        requests.append(_request("/webhooks/github", body, headers))
    return requests


def _request(path: str, body: bytes, headers: str) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n{headers}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


async def prepare(nats: NatsServer) -> None:
    """Creates the streams and applies the project."""
    async with connect(nats.url, "bench", patience_seconds=10) as broker:
        await topology.ensure(broker, topology.TopologySettings())
        await apply_project(broker, StoredProject(PROJECT, resolve(PROJECT)))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=10_000, help="in each round")
    arguments = parser.parse_args()
    rates: list[float] = []
    costs: list[float] = []
    with tempfile.TemporaryDirectory() as data, nats_server(Path(data)) as nats:
        asyncio.run(prepare(nats))
        port = free_port()
        environment = {"PENSTOCK_NATS_URL": nats.url, "PENSTOCK_INGEST_PORT": str(port), "PENSTOCK_ADMIN_PORT": str(free_port())}
        with _process("ingest", folder=ROOT, **environment, PENSTOCK_LOG_LEVEL="warning") as ingest:
            _wait_for(port)
            kinds = {"track": tracks(), "webhook": deliveries()}
            for number in range(arguments.rounds + 1):
                found: dict[str, tuple[float, float]] = {}
                for name, prepared in kinds.items():
                    with Meter({"ingest": ingest.pid}) as meter:
                        result = asyncio.run(fire(port, prepared, arguments.requests, CONNECTIONS))
                    if result["refused"]:
                        raise SystemExit(f"{result['refused']:.0f} requests of {name} were refused")
                    found[name] = arguments.requests / result["seconds"], meter.costs["ingest"].cpu_seconds
                if number:  # the first one warms up
                    rates.append(found["webhook"][0] / found["track"][0])
                    costs.append(found["webhook"][1] / found["track"][1])
                    print(f"track {found['track'][0]:,.0f}/s, webhook {found['webhook'][0]:,.0f}/s, {os.cpu_count()} cores")
    rate, cost = statistics.median(rates), statistics.median(costs)
    history.keep("webhooks", "github, one a request", {"rate of a track": rate, "CPU of a track": cost})
    print(f"a delivery has {rate:.2f} of the rate of a track, and {cost:.2f} of its CPU")


if __name__ == "__main__":
    main()
