"""Whole syncs through the real services, beside what stands alone: `python -m bench.syncs.whole CASE …`.

flood: a connector that only prints rows, into Postgres or DuckDB; beside its bare emission, a bare decode of its lines, and its rows through the
connector's contract without a queue.
faker: the published `airbyte-source-faker`, in the same way. `--pyairbyte FOLDER`: an environment with `airbyte` and `airbyte-source-faker`,
by which the same streams are read into DuckDB in the same run.
postgres: a table of narrow rows into another database, in turns with a bare `COPY … TO STDOUT | COPY … FROM STDIN` of the same rows. `--dlt FOLDER`: an
environment with `dlt[postgres,sql_database]`, which copies the same table in the same run.
tiny: one row; what a run costs that has nothing to do.
memory: rows of 2,000 columns, values of 1 MB, records of 50 MB, a catalogue of 10,000 streams; how much runner and loader hold at most.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from bench.kit import flood
from bench.kit.sync_runs import costs, meter, one_run, postgres, project, services
from bench.syncs.postgres_source import FILL, TABLE
from bench.whole.path import psql
from connector_runner.contract import JsonRows, Row, Rows, Selected
from connector_runner.opened import opened
from tests.support.postgres import PostgresServer

KIT = Path(flood.__file__).parent
FAKER = {"type": "airbyte", "package": "airbyte-source-faker", "version": "7.2.1"}


def emitted(command: list[str]) -> float:
    """Returns the seconds in which a program prints all into a pipe whose reader forgets it."""
    began = time.monotonic()
    subprocess.run(f"{' '.join(command)} | cat > /dev/null", shell=True, check=True)
    return time.monotonic() - began


def decoded(command: list[str]) -> float:
    """Returns the seconds in which the lines of a program are decoded, each to plain objects, and forgotten."""
    began, decode = time.monotonic(), msgspec.json.Decoder().decode
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            decode(line)
    return time.monotonic() - began


async def through(connector: Mapping[str, Any], cache: Path, streams: set[str]) -> tuple[int, float]:
    """Returns the rows of a connector through its contract, and the seconds: without a queue, without a destination."""
    rows = 0
    async with opened("source", dict(connector), cache, lambda _: None) as source:
        selected = [
            Selected(each, "full_refresh", each.cursor, each.primary_key)
            for each in await source.discover()
            if not streams or each.name in streams
        ]
        began = time.monotonic()
        async with aclosing(source.read(selected, {})) as messages:
            async for message in messages:
                if isinstance(message, Row):
                    rows += 1
                elif isinstance(message, (JsonRows, Rows)):
                    rows += len(message.rows)
        return rows, time.monotonic() - began


@contextlib.contextmanager
def warehouse(name: str, folder: Path) -> Iterator[tuple[dict[str, Any], PostgresServer | None]]:
    """Yields a destination's part of the project file."""
    if name == "postgres":
        with postgres() as server:
            yield {"type": "postgres", "dsn": server.dsn()}, server
    else:
        yield {"type": "duckdb", "path": str(folder / "warehouse.duckdb")}, None


def counted(document: Mapping[str, Any], server: PostgresServer | None, table: str) -> int:
    """Returns the rows of a table."""
    if server is not None:
        return int(psql(server, f'SELECT count(*) FROM public."{table}"'))
    with duckdb.connect(document["path"], read_only=True) as database:
        return int(database.sql(f'SELECT count(*) FROM "{table}"').fetchall()[0][0])


def say(what: str, rows: int, seconds: float, more: str = "") -> None:
    """Prints one measurement."""
    print(f"  {what}: {rows / seconds:,.0f} rows/s, {seconds:.2f} s{'; ' + more if more else ''}", flush=True)


def synced(
    folder: Path, cache: Path, connector: Mapping[str, Any], arguments: argparse.Namespace, streams: Mapping[str, Any], what: str
) -> None:
    """Runs a sync as often as wanted; all runs of one stack."""
    with contextlib.ExitStack() as held:
        document, server = held.enter_context(warehouse(arguments.destination, folder))
        running = held.enter_context(services(folder, cache))
        asyncio.run(running.apply(project(connector, document, streams=dict(streams))))
        for number in range(1, arguments.rounds + 1):
            with meter(running, server) as found:
                record, seconds = asyncio.run(one_run(running, number))
            say(f"{what}, run {number}", record.rows, seconds, costs(found, max(1, record.rows)))
        running.stop("loader")  # so that the file of DuckDB is free
        for of in record.streams.values():
            there = counted(document, server, of.table)
            if there < of.loaded or of.loaded != of.rows:
                raise RuntimeError(f"{of.rows} rows read, {of.loaded} loaded, {there} in table {of.table}")


def run_flood(folder: Path, arguments: argparse.Namespace) -> None:
    """Measures the printing connector."""
    cache = folder / "cache"
    program = flood.install(cache)
    config = {"rows": arguments.rows}
    (folder / "config.json").write_text(json.dumps(config))
    command = [str(program), "read", "--config", str(folder / "config.json")]
    connector = flood.document(**config)
    say("its bare emission", arguments.rows, emitted(command))
    say("a bare decode", arguments.rows, decoded(command))
    say("through the contract", *asyncio.run(through(connector, cache, set())))
    how = {"mode": "full_refresh", "write": arguments.write}
    synced(folder, cache, connector, arguments, {"orders": how}, f"into {arguments.destination}, {arguments.write}")


def run_faker(folder: Path, arguments: argparse.Namespace) -> None:
    """Measures the published connector; PyAirbyte beside it."""
    cache = Path(arguments.cache)
    connector = {**FAKER, "config": {"count": arguments.rows, "parallelism": 1}}
    streams = {"users", "purchases"}
    say("through the contract", *asyncio.run(through(connector, cache, streams)))
    how = {name: {"mode": "full_refresh", "write": arguments.write} for name in sorted(streams)}
    synced(folder, cache, connector, arguments, how, f"into {arguments.destination}, {arguments.write}")
    reference("PyAirbyte into DuckDB", arguments.pyairbyte, "pyairbyte.py", [arguments.rows, folder / "pyairbyte.duckdb"])


def reference(what: str, environment: str, script: str, given: list[Any]) -> None:
    """Runs a script of the kit in an environment of its own; it prints rows and seconds."""
    python = Path(environment) / "bin" / "python"
    if not environment or not python.exists():
        print(
            f"  {what}: left out, because there is no environment {environment or '(none was named)'}; see the head of this file"
        )
        return
    found = subprocess.run(
        [python, KIT / "references" / script, *map(str, given)],
        capture_output=True, text=True, cwd=given[-1] if Path(str(given[-1])).is_dir() else Path(str(given[-1])).parent,
        env={**os.environ, "DO_NOT_TRACK": "1", "AIRBYTE_OFFLINE_MODE": "1", "RUNTIME__DLTHUB_TELEMETRY": "false", "PATH": f"{environment}/bin:{os.environ['PATH']}"},
    )  # fmt: skip
    if found.returncode:
        print(f"  {what}: failed\n{found.stderr[-2000:]}")
        return
    rows, seconds, memory = found.stdout.split()[-3:]
    say(what, int(rows), float(seconds), f"{memory} MB")


def pipe(server: PostgresServer) -> float:
    """Returns the seconds of a bare COPY into another table of another database."""
    psql_into = f"psql -q {server.dsn('target')}"
    subprocess.run(f'{psql_into} -c "DROP TABLE IF EXISTS piped" -c "{TABLE.format("piped")}"', shell=True, check=True)
    began = time.monotonic()
    subprocess.run(
        f'psql -q {server.dsn()} -c "COPY narrow TO STDOUT" | {psql_into} -c "COPY piped FROM STDIN"',
        shell=True,
        check=True,
    )
    return time.monotonic() - began


def run_postgres(folder: Path, arguments: argparse.Namespace) -> None:
    """Measures a table from one database into another."""
    with contextlib.ExitStack() as held:
        server = held.enter_context(postgres())
        for query in (
            "CREATE DATABASE target",
            TABLE.format("narrow"),
            FILL.format("narrow", 1, arguments.rows),
            "VACUUM ANALYZE narrow",
        ):
            psql(server, query)
        running = held.enter_context(services(folder, folder / "cache"))
        connector = {"type": "postgres", "dsn": server.dsn(), "tables": ["narrow"]}
        how = {"public.narrow": {"mode": "full_refresh", "write": arguments.write}}
        asyncio.run(running.apply(project(connector, {"type": "postgres", "dsn": server.dsn("target")}, streams=how)))
        for number in range(1, arguments.rounds + 1):
            say("a bare pipe of COPY", arguments.rows, pipe(server))
            with meter(running, server) as found:
                record, seconds = asyncio.run(one_run(running, number))
            say(f"postgres to postgres, {arguments.write}", record.rows, seconds, costs(found, record.rows))
        for backend in ("pyarrow", "sqlalchemy") if arguments.dlt else ("pyarrow",):
            given = [server.dsn(), server.dsn("target"), backend, folder]
            reference(f"dlt postgres to postgres, {backend}", arguments.dlt, "dlt_copy.py", given)


def run_tiny(folder: Path, arguments: argparse.Namespace) -> None:
    """Measures runs with next to nothing to do: of a program and of a native source."""
    cache = folder / "cache"
    flood.install(cache)
    arguments.rounds = 3
    synced(folder, cache, flood.document(rows=1), arguments, {"orders": {"mode": "full_refresh"}}, "one row of a program")
    with postgres() as server, tempfile.TemporaryDirectory() as name:
        psql(server, TABLE.format("narrow"))
        psql(server, FILL.format("narrow", 1, 1))
        connector = {"type": "postgres", "dsn": server.dsn(), "tables": ["narrow"]}
        synced(Path(name), cache, connector, arguments, {"public.narrow": {"mode": "full_refresh"}}, "one row of postgres")


def run_memory(folder: Path, arguments: argparse.Namespace) -> None:
    """Measures what runner and loader hold at most."""
    cache = folder / "cache"
    flood.install(cache)
    arguments.rounds = 1
    shapes: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "rows of 2,000 columns": ({"rows": 5000, "columns": 1992}, {}),
        "200 values of 1 MB": ({"rows": 200, "bytes": 1_000_000}, {}),
        "5 records of 50 MB": ({"rows": 5, "bytes": 50_000_000}, {"max_line": "64MiB"}),
        "streams": ({"rows": 1, "streams": arguments.streams}, {}),
    }
    for number, (what, (config, more)) in enumerate(shapes.items()):
        if arguments.shape and arguments.shape not in what:
            continue
        own = folder / str(number)
        own.mkdir()
        try:
            synced(own, cache, {**flood.document(**config), **more}, arguments, {}, what)
        except RuntimeError as exc:
            print(f"  {what}: {str(exc)[:1000]}")


def main() -> None:
    """Parses the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=["flood", "faker", "postgres", "tiny", "memory"])
    parser.add_argument("--destination", choices=["postgres", "duckdb"], default="postgres")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--write", choices=["append", "replace"], default="append")
    parser.add_argument(
        "--cache", default=str(Path.home() / ".cache" / "penstock" / "connectors"), help="folder of installed connectors"
    )
    parser.add_argument("--pyairbyte", default="", help="an environment with `airbyte` and `airbyte-source-faker`")
    parser.add_argument("--dlt", default="", help="an environment with `dlt[postgres,sql_database]` and `pyarrow`")
    parser.add_argument("--streams", type=int, default=10_000, help="of the catalogue, for `memory`")
    parser.add_argument("--shape", default="", help="the one whose name has this, for `memory`")
    arguments = parser.parse_args(sys.argv[1:])
    cases = {"flood": run_flood, "faker": run_faker, "postgres": run_postgres, "tiny": run_tiny, "memory": run_memory}
    with tempfile.TemporaryDirectory() as name:
        print(f"\n{' '.join(sys.argv[1:])}")
        cases[arguments.case](Path(name), arguments)


if __name__ == "__main__":
    main()
