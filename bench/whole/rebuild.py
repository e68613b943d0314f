"""A wiped warehouse is loaded again from the archive, beside the whole path: `python -m bench.whole.rebuild [--events N] [--destination …]`.

The same events first take the whole path, from HTTP to committed rows. Then EVENTS forgets them, the warehouse is wiped, and a rebuild
brings them from the archive. One process of each service, no live events meanwhile; the ratio is what counts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from pathlib import Path

from bench import history
from bench.kit.machine import Meter
from bench.kit.stack import finish, pump, stack
from bench.whole.cluster import wait_committed
from bench.whole.path import destination, duckdb_row, psql, report
from bench.whole.path import project as path_project
from penstock.control.runs import find_run, rebuild
from shared.archive.note import read_note
from shared.jetstream import topology
from shared.jetstream.broker import connect
from shared.jetstream.identity import identify

SERVICES = ("ingest", "router", "loader")
QUERY = "select count(*), count(distinct message_id) from events"


async def forget(url: str) -> int:
    """Removes all events from EVENTS once they are archived; returns the last sequence."""
    async with connect(url, "bench") as broker:
        last = (await identify(broker, topology.EVENTS)).last_seq
        while (note := await read_note(broker, "bench")) is None or max(note.position, note.seen) < last:  # noqa: ASYNC110  # another process writes it
            await asyncio.sleep(0.1)
        await broker.js.purge_stream(topology.EVENTS, seq=last + 1)
        return last


async def load_again(url: str) -> str:
    """Begins a rebuild and waits for its end; returns its state."""
    async with connect(url, "bench") as broker:
        run = await rebuild(broker, "wh")
        while not (run := await find_run(broker, run.id)).is_over:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        return run.state


def run(arguments: argparse.Namespace) -> None:
    """Runs one measurement of each."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as held:
        folder = Path(name)
        document, server = held.enter_context(destination(arguments.destination, folder))
        archive = {"PENSTOCK_ROUTER_ARCHIVE_DIR": str(folder / "archive"), "PENSTOCK_ROUTER_ARCHIVE_PERIOD": "2s"}
        running = held.enter_context(stack(folder, archive))
        options = argparse.Namespace(mode="batch", layout="single_table", merge=False, period=1, functions=False, dedupe="1h")
        asyncio.run(running.apply(path_project(document, options)))
        running.start_all(*SERVICES)
        began = time.monotonic()
        with Meter(dict(running.pids)) as meter:
            finish(pump(running, events=arguments.events, kind="flat", per_request=100, connections=16))
            wait_committed(running, arguments.events)
        path_seconds = time.monotonic() - began
        report(f"{arguments.destination} whole path", arguments.events, path_seconds, meter, {})
        asyncio.run(forget(running.nats.url))
        running.stop("loader")
        if server is not None:
            psql(server, "drop schema public cascade; create schema public")
        else:
            Path(document["path"]).unlink()
        running.start("loader")
        began = time.monotonic()
        with Meter({name: running.pids[name] for name in ("router", "loader")}) as meter:
            state = asyncio.run(load_again(running.nats.url))
        seconds = time.monotonic() - began
        report(f"{arguments.destination} rebuild", arguments.events, seconds, meter, {"run": state})
        running.stop("loader")
        rows, distinct = psql(server, QUERY).split("|") if server else duckdb_row(document["path"], QUERY)
        print(f"  in the table: {int(rows):,} rows, {int(distinct):,} distinct of {arguments.events:,} sent")
        print(f"\na rebuild is {path_seconds / seconds:.2f} × as fast as the whole path")
        history.keep(
            "rebuild",
            f"{arguments.destination}, {arguments.events:,} events",
            {f"rate, {history.CEILING}": path_seconds / seconds},
        )


def main() -> None:
    """Parses the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--destination", choices=["postgres", "duckdb"], default="postgres")
    parser.add_argument("--events", type=int, default=500_000)
    run(parser.parse_args(sys.argv[1:]))


if __name__ == "__main__":
    main()
