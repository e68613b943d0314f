"""What a hanging neighbour costs: `python -m bench.whole.neighbours [--case loop|promise|destination] [--rounds N]`.

One connection with a small function loads into Postgres in stream mode at a steady rate. Beside it the same few events go to a second
connection: first to a healthy one, then to one that hangs, each for the same time. Printed are the median and the 99th percentile
from acceptance to the committed row of the first connection, by the clock of the database, of each round and of all together. Each round has a
stack of its own, because what hangs would still do so in the next turn.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from bench import history
from bench.functions import ENRICH
from bench.kit.machine import Meter
from bench.kit.stack import KEY, Stack, finish, pump, stack
from bench.whole.path import psql
from tests.support.postgres import PostgresServer

HANGING = {
    "loop": "export default function (event) { for (;;); }",
    "promise": "export default async function (event) { await new Promise(() => {}); }",
}
CASES = (*HANGING, "destination")
PAUSE_SECONDS = 2.0
"""Left out at the beginning of a turn: sandboxes start."""


class Turn(NamedTuple):
    """Latencies in milliseconds, and the share of the machine that others used."""

    median: float
    p99: float
    others: float


def project(case: str, dsn: str, silent: str) -> dict[str, Any]:
    """Returns the project: connection `steady`, and beside it `fit` and `ill`."""
    quick = {"mode": "stream", "layout": "single_table", "destination": "wh"}
    ill: dict[str, Any] = {**quick, "site": "ill", "functions": ["ill"], "table": "ill"}
    if case == "destination":
        ill = {"site": "ill", "destination": "silent", "functions": ["enrich"]}
    return {
        "functions": {"enrich": {"code": ENRICH}, "ill": {"code": HANGING.get(case, ENRICH)}},
        "sites": {name: {"keys": [{"id": f"{KEY}-{name}", "kind": "server"}]} for name in ("steady", "fit", "ill")},
        "destinations": {"wh": {"type": "postgres", "dsn": dsn}, "silent": {"type": "webhook", "url": silent}},
        "connections": {
            "steady": {**quick, "site": "steady", "functions": ["enrich"]},
            "fit": {**quick, "site": "fit", "functions": ["enrich"], "table": "fit"},
            "ill": ill,
        },
    }


def send(running: Stack, site: str, events: int, rate: float, prefix: str) -> Any:
    """Starts a sender of ten events a request."""
    return pump(
        running, key=f"{KEY}-{site}", events=events, rate=rate, per_request=10, connections=4, prefix=prefix, distinct=1000
    )


def turn(running: Stack, server: PostgresServer, beside: str, arguments: argparse.Namespace, number: int) -> Turn:
    """Sends to `steady` and, at a tenth of a percent of its load or more, to `beside`; returns the latencies of `steady`."""
    began = time.time()
    with Meter(running.pids | {"postgres": server.pid}) as meter:
        senders = [
            send(running, "steady", round(arguments.rate * arguments.seconds), arguments.rate, f"s{number:02d}"),
            send(running, beside, round(arguments.ill_rate * arguments.seconds), arguments.ill_rate, f"i{number:02d}"),
        ]
        for sender in senders:
            finish(sender)
    ends_at = time.monotonic() + 60
    of_turn = f"from events where received_at > to_timestamp({began})"
    while int(psql(server, f"select count(*) {of_turn}")) < round(arguments.rate * arguments.seconds):
        if time.monotonic() > ends_at:
            raise RuntimeError(f"rows of the steady connection are missing\n{running.log('functions_runtime')}")
        time.sleep(0.2)
    query = (
        "select percentile_cont(array[0.5, 0.99]) within group (order by extract(epoch from pg_xact_commit_timestamp(xmin) - received_at))"
        f" from events where received_at > to_timestamp({began + PAUSE_SECONDS})"
    )
    median, p99 = (1000 * float(value) for value in psql(server, query).strip("{}").split(","))
    return Turn(median, p99, meter.others_share)


def measure(case: str, arguments: argparse.Namespace) -> tuple[list[Turn], list[Turn]]:
    """Returns the turns beside a healthy neighbour and beside one that hangs."""
    healthy, hanging = [], []
    for number in range(arguments.rounds):
        with (
            tempfile.TemporaryDirectory() as folder,
            PostgresServer(settings={"track_commit_timestamp": "on"}) as server,
            socket.create_server(("127.0.0.1", 0), backlog=256) as silent,
            stack(Path(folder)) as running,
        ):
            address = f"http://127.0.0.1:{silent.getsockname()[1]}/"
            asyncio.run(running.apply(project(case, server.dsn(), address)))
            running.start_all("ingest", "router", "functions_runtime", "loader")
            turn(running, server, "fit", arguments, 90)  # all is warm behind it
            healthy.append(turn(running, server, "fit", arguments, 2 * number))
            hanging.append(turn(running, server, "ill", arguments, 2 * number + 1))
    return healthy, hanging


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, action="append", help="default: all")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0, help="of a turn")
    parser.add_argument("--rate", type=float, default=500.0, help="events a second of the steady connection")
    parser.add_argument("--ill-rate", type=float, default=20.0, help="events a second beside it")
    arguments = parser.parse_args()
    for case in arguments.case or CASES:
        healthy, hanging = measure(case, arguments)
        for name, turns in (("healthy", healthy), ("hanging", hanging)):
            print(
                f"{case}, {name}: "
                + "; ".join(f"p50 {t.median:.0f} ms, p99 {t.p99:.0f} ms, others {t.others:.0%}" for t in turns)
            )
        best = [min(turn.p99 for turn in turns) for turns in (healthy, hanging)]
        middle = [statistics.median(turn.p99 for turn in turns) for turns in (healthy, hanging)]
        print(
            f"{case}: p99 beside a hanging neighbour / beside a healthy one: best {best[1] / best[0]:.2f}, median {middle[1] / middle[0]:.2f} (asked 1.1)"
        )
        history.keep("neighbours", case, {f"p99, healthy beside hanging, {history.CEILING}": best[0] / best[1]})


if __name__ == "__main__":
    main()
