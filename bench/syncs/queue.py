"""The loader's way of syncs alone: a queue filled with row frames, drained into Postgres or DuckDB: `python -m bench.syncs.queue`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from bench.kit.machine import Meter
from bench.kit.stack import stack
from bench.whole.path import destination, psql, report
from shared.jetstream import topology
from shared.jetstream.broker import connect
from shared.jetstream.kv import Bucket
from shared.syncs.frames import BatchEnd, RowFrame, RowStream, encode_rows, pack_columns, pack_lines
from shared.syncs.progress import read_progress

SYNC, ROWS_IN_FRAME, FRAMES_IN_BATCH = "bench", 5_000, 10
STARTED = 1_767_225_600


def row(number: int) -> dict[str, Any]:
    """Returns a narrow row, about 200 bytes as JSON."""
    return {
        "id": number,
        "user_id": f"user-{number % 9973:08d}",
        "status": ("paid", "open", "returned")[number % 3],
        "amount": round(number * 0.37 % 500, 2),
        "currency": "EUR",
        "quantity": number % 7,
        "created_at": f"2026-01-01T{number // 3600 % 24:02d}:{number // 60 % 60:02d}:{number % 60:02d}Z",
        "email": f"person{number % 9973}@shop.example.com",
    }


def columns(rows: list[dict[str, Any]]) -> pa.Table:
    """Returns rows as a source with columns gives them."""
    table = pa.Table.from_pylist(rows)
    times = (
        pa.array([STARTED + each["id"] for each in rows], pa.timestamp("s"))
        .cast(pa.timestamp("us"))
        .cast(pa.timestamp("us", "UTC"))
    )
    return table.set_column(table.column_names.index("created_at"), "created_at", times)


async def fill(url: str, rows: int, form: str, stream: RowStream) -> int:
    """Puts rows into the queue of the sync as its runner would; returns how many batches."""
    async with connect(url, "bench", patience_seconds=10) as broker:
        await topology.ensure(broker, topology.TopologySettings())
        subject, frames = topology.deliver_subject(topology.sync_queue(SYNC)), rows // ROWS_IN_FRAME
        for number in range(frames):
            own = [row(number * ROWS_IN_FRAME + index) for index in range(ROWS_IN_FRAME)]
            block = (
                pack_columns(0, columns(own)) if form == "arrow" else pack_lines(0, [msgspec.json.encode(each) for each in own])
            )
            ends = (number + 1) % FRAMES_IN_BATCH == 0 or number + 1 == frames
            frame = RowFrame(
                version=1,
                sync=SYNC,
                destination="wh",
                run=1,
                batch=number // FRAMES_IN_BATCH + 1,
                streams=(stream,),
                blocks=(block,),
                end=BatchEnd(number % FRAMES_IN_BATCH + 1, last=number + 1 == frames) if ends else None,
            )
            await broker.publisher.publish(subject, encode_rows(frame), msg_id=str(number))
        return -(-frames // FRAMES_IN_BATCH)


async def loaded(url: str, rows: int) -> None:
    """Waits until the last batch is noted."""
    async with connect(url, "bench-wait", patience_seconds=10) as broker:
        bucket = Bucket(broker, topology.STATE_BUCKET)
        while not (progress := (await read_progress(bucket, SYNC))[0]).last:  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.05)
        if progress.streams["orders"].loaded != rows:
            raise RuntimeError(f"not all of {rows} rows are loaded: {progress}")


def main() -> None:
    """Parses the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--destination", choices=["postgres", "duckdb"], default="postgres")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--form", choices=["arrow", "lines"], default="arrow")
    parser.add_argument("--write", choices=["append", "merge", "replace"], default="append")
    arguments = parser.parse_args(sys.argv[1:])
    stream = RowStream("orders", "orders", arguments.write, (("id",),) if arguments.write == "merge" else ())
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as held:
        folder = Path(name)
        document, server = held.enter_context(destination(arguments.destination, folder))
        running = held.enter_context(stack(folder, {}, sync="2m"))
        project = {
            "destinations": {"wh": document},
            "connectors": {"source": {"type": "postgres", "dsn": "postgresql://u:p@127.0.0.1:1/none"}},
            "syncs": {SYNC: {"connector": "source", "destination": "wh"}},
        }
        asyncio.run(running.apply(project))
        asyncio.run(fill(running.nats.url, arguments.rows, arguments.form, stream))
        began = time.monotonic()
        running.start("loader")  # its start counts too: it loads as soon as it can
        with Meter({"loader": running.pids["loader"], **({"postgres": server.pid} if server else {})}) as meter:
            asyncio.run(loaded(running.nats.url, arguments.rows))
        title = f"syncs, {arguments.destination} {arguments.write} {arguments.form}"
        took = time.monotonic() - began
        found = {"rows in the table": psql(server, "SELECT count(*) FROM public.orders").strip()} if server else {}
        report(title, arguments.rows, took, meter, found)


if __name__ == "__main__":
    main()
