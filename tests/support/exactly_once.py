"""Exactly once, by sets of ids: what arrived, and whether it is what the client's books promise.

`rows_in_postgres`, `rows_in_mysql`, `rows_in_duckdb` and `dead_letters` read everything with drivers and decoders of their own; `problems` is the one
judge of all fault tests: every acknowledged event is once in each of its tables, or once in the dead letters with the right reason;
one of which nothing is known, at most once; and nothing else is anywhere.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import nats.errors
from nats.js.errors import APIError

from penstock.control.status.audit import audit
from penstock.control.status.balance import read_balances
from router.shards.summed import read_site_state
from shared.errors import PenstockError
from shared.events.dead import decode_dead
from shared.jetstream import topology
from shared.jetstream.broker import Broker, connect
from shared.jetstream.reader import StreamReader
from shared.project.shards import connection_of_shard
from shared.project.snapshot import current_snapshot
from shared.streams.removed import read_all_removed
from shared.streams.waiting import look_ahead
from tests.support.duckdb_file import opened
from tests.support.sender import Books, Fate
from tests.support.stack import Stack

Rows = Mapping[str, Counter[str]]
"""How often which message id stands in which table."""

OWN = "_penstock"
SHOWN = 8
ID_COLUMNS = ("message_id", "id")


@dataclass(frozen=True, slots=True)
class Dead:
    """A dead letter, as far as it is compared."""

    id: str
    stage: str
    connection: str | None
    reason: str
    detail: str


async def rows_in_postgres(dsn: str, schema: str) -> Rows:
    """Reads the message ids of every table of a schema but our own."""
    import asyncpg

    link = await asyncpg.connect(dsn)
    try:
        columns = await link.fetch(
            "SELECT table_name, array_agg(column_name::text) AS names FROM information_schema.columns"
            " WHERE table_schema = $1 GROUP BY 1",
            schema,
        )
        found: dict[str, Counter[str]] = {}
        for table, names in columns:
            if not table.startswith(OWN):
                column = _id_column(table, names)
                rows = await link.fetch(f'SELECT "{column}" AS id, count(*) AS times FROM "{schema}"."{table}" GROUP BY 1')
                found[table] = Counter({str(row["id"]): row["times"] for row in rows})
        return found
    finally:
        await link.close()


async def rows_in_mysql(dsn: str) -> Rows:
    """Reads the message ids of every table of a database but our own."""
    import aiomysql

    parts = urlsplit(dsn)
    database = parts.path[1:]
    link = await aiomysql.connect(host=parts.hostname, port=parts.port, user=parts.username, password=parts.password, db=database)
    try:
        async with link.cursor() as cursor:
            await cursor.execute(
                "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = %s", [database]
            )
            columns: dict[str, list[str]] = defaultdict(list)
            for table, name in await cursor.fetchall():
                columns[table].append(name)
            found: dict[str, Counter[str]] = {}
            for table, names in columns.items():
                if not table.startswith(OWN):
                    await cursor.execute(f"SELECT `{_id_column(table, names)}`, count(*) FROM `{table}` GROUP BY 1")
                    found[table] = Counter(dict(await cursor.fetchall()))
            return found
    finally:
        await link.ensure_closed()


async def rows_in_duckdb(path: Path, schema: str = "main", seconds: float = 60.0) -> Rows:
    """Reads the message ids of every table of a schema but our own; waits for a loader that has it open."""
    ends_at = asyncio.get_running_loop().time() + seconds
    while True:
        try:
            return await asyncio.to_thread(_read_duckdb, path, schema)
        except Exception as exc:
            if "Could not set lock" not in str(exc) or asyncio.get_running_loop().time() > ends_at:
                raise
            await asyncio.sleep(0.1)


def _read_duckdb(path: Path, schema: str) -> Rows:
    if not path.exists():
        return {}
    with opened(path, read_only=True) as link:
        columns: dict[str, list[str]] = defaultdict(list)
        for table, name in link.execute(
            "SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal AND schema_name = ?", [schema]
        ).fetchall():
            columns[table].append(name)
        return {
            table: Counter(
                dict(
                    link.execute(f'SELECT "{_id_column(table, names)}", count(*) FROM "{schema}"."{table}" GROUP BY 1').fetchall()
                )
            )
            for table, names in columns.items()
            if not table.startswith(OWN)
        }


def _id_column(table: str, names: Iterable[str]) -> str:
    for column in ID_COLUMNS:
        if column in names:
            return column
    raise AssertionError(f"table {table} has no column of message ids: {sorted(names)}")


async def dead_letters(url: str) -> list[Dead]:
    """Reads all of the stream DEAD."""
    found: list[Dead] = []
    async with connect(url, "test-dead", patience_seconds=60) as broker:
        count = (await broker.js.stream_info(topology.DEAD)).state.messages
        async with StreamReader(broker, topology.DEAD) as reader:
            for _ in range(count):
                message = await reader.next(60)
                assert message is not None, "the stream of dead letters cannot be read"
                for letter in decode_dead(message.payload):
                    id_ = letter.message_id or _id_in(letter.body)
                    name = connection_of_shard(letter.connection) if letter.connection else None
                    found.append(Dead(id_, letter.stage, name, letter.reason, letter.detail))
    return found


def _id_in(body: bytes) -> str:
    # of a large event only the beginning is kept, so it need not be JSON
    found = re.search(rb'"messageId":"([^"]+)"', body)
    return found[1].decode() if found else repr(body[:80])


def problems(
    books: Books,
    rows: Rows,
    dead: Iterable[Dead],
    *,
    connection: str | None = None,
    fate: Mapping[str, Fate] | None = None,
) -> list[str]:
    """Compares what was promised with what is there; returns what is wrong, in words, nothing when all is right.

    Args:
        connection: leave out the dead letters of other connections; those of the edge always count.
        fate: what becomes of events on this connection, where it is not what the books say.
    """
    letters: dict[str, list[Dead]] = defaultdict(list)
    for letter in dead:
        if connection is None or letter.connection in (None, connection):
            letters[letter.id].append(letter)
    fates = dict(books.fates) if fate is None else dict(fate)
    wrong: dict[str, list[str]] = defaultdict(list)
    for id_, promised in fates.items():
        times = {table: found[id_] for table, found in rows.items() if id_ in found}
        known = id_ in books.acknowledged
        buried = letters.get(id_, [])
        for table in times.keys() - set(promised.tables):
            wrong[f"in table {table}, where it does not belong"].append(id_)
        for table, count in times.items():
            if count > 1:
                wrong[f"doubled in table {table}"].append(id_)
        for table in promised.tables:
            if known and table not in times and not buried:
                wrong[f"acknowledged and lost: not in table {table}, not in the dead letters"].append(id_)
        if times and len(times) < len(promised.tables) and not known:
            wrong["in some of its tables only"].append(id_)
        if times and buried:
            wrong["in a table and in the dead letters"].append(id_)
        if len(buried) > 1:
            wrong["doubled in the dead letters"].append(f"{id_} ({', '.join(f'{each.stage}:{each.reason}' for each in buried)})")
        for each in buried:
            if each.reason not in promised.reasons:
                wrong[f"dead for the reason {each.reason}, expected {promised.reasons or 'none'}"].append(
                    f"{id_} ({each.detail})"
                )
        if promised.reasons and known and not buried:
            wrong["acknowledged and lost: not in the dead letters"].append(id_)
    for table, found in rows.items():
        for id_ in found.keys() - fates.keys():
            wrong[f"in table {table} and never sent"].append(id_)
    for id_ in letters.keys() - fates.keys():
        wrong["in the dead letters and never sent"].append(f"{id_} ({letters[id_][0].detail})")
    return [f"{what}: {len(ids)} events, such as {', '.join(sorted(ids)[:SHOWN])}" for what, ids in sorted(wrong.items())]


async def unbalanced(running: Stack) -> list[str]:
    """Returns what the accounts of sites and connections do not add up to, in words; nothing when all is right."""
    async with connect(running.url, "test-accounts", patience_seconds=60) as broker:
        sites, connections = await read_balances(broker, await current_snapshot(broker))
        removed = await read_all_removed(broker)
        held = await look_ahead(broker, "*", 0)
    wrong = [f"accounts of {each.connection}: {problem}" for each in connections for problem in each.problems]
    wrong += [f"accounts of {each.connection}, which is gone: {problem}" for each in removed for problem in each.problems]
    accepted = sum(each.accepted + each.unrouted for each in sites)
    if held.exact and held.events > accepted:  # what every reader passed may be shed
        wrong.append(f"accounts: EVENTS holds {held.events} events, the sites accepted {accepted}")
    return wrong


async def audited(running: Stack) -> list[str]:
    """Returns what `penstock status --check` finds and what it cannot look at, in words; nothing when all is right."""
    async with connect(running.url, "test-audit", patience_seconds=60) as broker:
        found = await audit(broker, await current_snapshot(broker))
    if not found.ids:
        return ["the check read no ids"]
    notes = [note for note in found.notes if "cannot be asked for ids" not in note]  # files balance, that is all there is
    return [*notes, *(f"check of {each.name}: {each.what} {each.ids}" for each in found.findings)]


async def settled(running: Stack, seconds: float = 60.0, *, but: Iterable[str] = ()) -> None:
    """Waits until everything that was accepted is at its end: routed, loaded, nothing put aside.

    Args:
        but: connections that need not be.

    Raises:
        AssertionError: it did not get there in time; says what is left.
    """
    ends_at = asyncio.get_running_loop().time() + seconds
    ignored = frozenset(but)
    async with connect(running.url, "test-settled", patience_seconds=60) as broker:
        while left := await _left(broker, ignored):
            if asyncio.get_running_loop().time() > ends_at:
                raise AssertionError(f"not settled within {seconds:g} s: {', '.join(left)}")
            await asyncio.sleep(0.1)


async def _left(broker: Broker, ignored: frozenset[str]) -> list[str]:
    left: list[str] = []
    try:
        events = (await broker.js.stream_info(topology.EVENTS, subjects_filter="events.>")).state.subjects or {}
        for site in {subject.split(".")[1] for subject in events}:
            last = await broker.js.get_last_msg(topology.EVENTS, topology.events_filter(site))
            state = await read_site_state(broker, site)
            position = state.position if state else 0
            if position < (last.seq or 0):
                left.append(f"site {site} is routed to {position} of {last.seq}")
            left += [f"connection {name} is behind" for name in (state.behind if state else {}) if name not in ignored]
        for stream in (topology.FUNCTIONS, topology.DELIVER, topology.RETRY):
            waiting = (await broker.js.stream_info(stream, subjects_filter=">")).state.subjects or {}
            left += [
                f"{count} frames wait in {subject}"
                for subject, count in waiting.items()
                if not ignored.intersection(subject.split("."))
            ]
    except (APIError, nats.errors.Error, OSError, TimeoutError, PenstockError) as exc:
        left.append(f"the broker does not answer: {exc or type(exc).__name__}")
    return left
