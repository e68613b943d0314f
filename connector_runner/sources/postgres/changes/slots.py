"""Publications and replication slots: made, looked at, dropped.

https://www.postgresql.org/docs/current/logicaldecoding-explanation.html, https://www.postgresql.org/docs/current/sql-createpublication.html
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from connector_runner.sources.postgres.catalogue import Table
from connector_runner.sources.postgres.changes.state import Server, shown
from connector_runner.sources.postgres.links import literal, quoted
from shared.errors import SetupError, Transient

if TYPE_CHECKING:
    import asyncpg

_LOOK_SECONDS = 0.05
RELEASE_SECONDS = 10.0
_SERVER = """
SELECT current_setting('wal_level') AS level, pg_is_in_recovery() AS standby, current_setting('server_version_num')::int AS version,
       (SELECT system_identifier::text FROM pg_control_system()) AS system,
       CASE WHEN pg_is_in_recovery() THEN '' ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END AS timeline,
       (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user) AS may
"""
_SLOT = """
SELECT s.*, pg_wal_lsn_diff(pg_current_wal_lsn(), s.confirmed_flush_lsn)::bigint AS behind,
       pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn)::bigint AS kept, d.datname = current_database() AS here
FROM pg_replication_slots s LEFT JOIN pg_database d ON d.oid = s.datoid WHERE s.slot_name = $1
"""
_PUBLISHED = """
SELECT t.relid::bigint AS oid, coalesce(r.oid, p.oid)::bigint AS number, p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate AS whole,
       to_jsonb(r) ->> 'prqual' IS NOT NULL OR to_jsonb(r) ->> 'prattrs' IS NOT NULL AS partly
FROM pg_publication p CROSS JOIN LATERAL pg_get_publication_tables(p.pubname::text) t
LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = t.relid WHERE p.pubname = $1
"""


class Lag(NamedTuple):
    """How far a slot is behind. `bytes`: of the log that is not confirmed; `kept`: of the log that the server keeps for it; `room`: how
    much more it keeps; None: any."""

    bytes: int
    kept: int
    room: int | None


class Slot(NamedTuple):
    """A slot. `confirmed`: the server has no changes before it any more. `lost`: why it cannot be read; empty if it can. `follows`: a standby
    that is promoted has it too."""

    name: str
    confirmed: int
    lost: str
    lag: Lag
    follows: bool


def name_of(connector: str) -> str:
    """Returns the name of a connector's slot and publication: small letters, digits and `_`, up to 63."""
    plain = re.sub(r"[^a-z0-9_]", "_", connector.lower())[:40]
    tag = "" if plain == connector else "_" + hashlib.sha256(connector.encode()).hexdigest()[:8]
    return f"penstock_{plain}{tag}"


async def server_of(driver: asyncpg.Connection, what: str) -> Server:
    """Returns what a server is, if changes can be read from it.

    Raises:
        SetupError: they cannot; says what to do.
    """
    server = await driver.fetchrow(_SERVER)
    assert server is not None  # noqa: S101 - one row
    if server["standby"]:
        raise SetupError(f"{what}: this server is a standby; changes are read from the primary: point the connector there")
    if server["level"] != "logical":
        raise SetupError(f"{what}: wal_level is {server['level']}; set wal_level = logical on the server and restart it")
    if server["version"] < 130000:
        raise SetupError(f"{what}: change data capture needs PostgreSQL 13 or later; use `method: cursor`")
    if not server["may"]:
        raise SetupError(f"{what}: the user may not read the log; ALTER ROLE … REPLICATION")
    return Server(system=server["system"], timeline=int(server["timeline"], 16))


async def look(driver: asyncpg.Connection, name: str) -> Slot | None:
    """Returns a slot, if it is there."""
    row = await driver.fetchrow(_SLOT, name)
    if row is None:
        return None
    lost = ""
    if row["plugin"] != "pgoutput" or not row["here"]:
        lost = f"it is one of the plug-in {row['plugin']}, or of another database"
    elif row.get("invalidation_reason"):
        lost = f"the server has invalidated it: {row['invalidation_reason']}"
    elif row.get("conflicting"):
        lost = "the server has invalidated it"
    elif row.get("wal_status") == "lost":
        lost = "the server has removed the log that it needs (max_slot_wal_keep_size)"
    confirmed = row["confirmed_flush_lsn"] or 0
    lag = Lag(row["behind"] or 0, row["kept"] or 0, row.get("safe_wal_size"))
    return Slot(name, confirmed, lost, lag, follows=bool(row.get("failover")))


async def create(driver: asyncpg.Connection, name: str, what: str) -> int:
    """Makes a slot; waits for transactions that are open. Returns where its changes begin.

    Raises:
        Transient: one stays open for longer than a statement may take; names its session.
    """
    try:
        return int(await driver.fetchval("SELECT lsn FROM pg_create_logical_replication_slot($1, 'pgoutput')", name))
    except Exception as exc:
        if getattr(exc, "sqlstate", None) != "57014":
            raise
        raise await _open_for_long(driver, what, "a slot is made") from exc


async def publish(
    driver: asyncpg.Connection, publication: str, tables: Sequence[Table], what: str, *, own: bool
) -> Mapping[int, int]:
    """Makes a publication be of some tables.

    Args:
        own: whether we make and change it; else a person does.

    Returns:
        for each table a number that is another one if it was taken out of the publication meanwhile.

    Raises:
        SetupError: it is a person's, and does not tell all changes of them.
    """
    there = await driver.fetchval("SELECT true FROM pg_publication WHERE pubname = $1", publication)
    held = await driver.fetch(_PUBLISHED, publication)
    wanted = {each.oid: each.quoted for each in tables}
    named = ", ".join(wanted.values())
    if not own:
        _require(what, publication, wanted, held)
    elif not there or {row["oid"] for row in held} != set(wanted):
        statement = (
            f"ALTER PUBLICATION {quoted(publication)} SET TABLE {named}"
            if there
            else f"CREATE PUBLICATION {quoted(publication)} FOR TABLE {named} WITH (publish_via_partition_root = true)"
        )
        try:
            await _write(driver, statement)
        except Exception as exc:
            if getattr(exc, "sqlstate", None) != "42501":
                raise
            raise SetupError(
                f"{what}: the user may not publish the tables ({exc}); let their owner run: CREATE PUBLICATION {quoted(publication)} "
                f"FOR TABLE {named} WITH (publish_via_partition_root = true), and write `publication: {publication}`"
            ) from exc
        held = await driver.fetch(_PUBLISHED, publication)
    return {row["oid"]: row["number"] for row in held if row["oid"] in wanted}


def _require(what: str, publication: str, wanted: Mapping[int, str], held: Sequence[asyncpg.Record]) -> None:
    """Raises if a person's publication does not tell all changes of some tables."""
    there = {row["oid"] for row in held}
    if lacking := ", ".join(name for oid, name in wanted.items() if oid not in there):
        raise SetupError(
            f"{what}: the publication {quoted(publication)} does not have {lacking}; add them (partitioned tables need "
            "`publish_via_partition_root = true`), or leave out `publication`"
        )
    if not all(row["whole"] for row in held):
        raise SetupError(
            f"{what}: the publication {quoted(publication)} does not tell all kinds of changes; ALTER PUBLICATION {quoted(publication)} "
            "SET (publish = 'insert, update, delete, truncate')"
        )
    if partly := ", ".join(wanted[row["oid"]] for row in held if row["partly"] and row["oid"] in wanted):
        raise SetupError(
            f"{what}: the publication {quoted(publication)} tells only some rows or columns of {partly}; publish them whole, and choose "
            "columns in the sync"
        )


async def released(driver: asyncpg.Connection, slot: str) -> None:
    """Waits until nobody reads a slot, a few seconds at most: a session that was ended holds it until its server process sees that."""
    end = time.monotonic() + RELEASE_SECONDS
    while await driver.fetchval("SELECT active FROM pg_replication_slots WHERE slot_name = $1", slot):
        if time.monotonic() >= end:
            return  # the server says who reads it
        await asyncio.sleep(_LOOK_SECONDS)


async def drop(driver: asyncpg.Connection, slot: str, publication: str | None) -> list[str]:
    """Drops a slot and, if named, a publication; returns what was dropped."""
    dropped = []
    await released(driver, slot)
    if (
        await driver.fetchval(
            "SELECT pg_drop_replication_slot(slot_name) IS NULL FROM pg_replication_slots WHERE slot_name = $1", slot
        )
        is not None
    ):
        dropped.append(f"slot {slot}")
    if publication is not None and await driver.fetchval("SELECT true FROM pg_publication WHERE pubname = $1", publication):
        await _write(driver, f"DROP PUBLICATION {quoted(publication)}")
        dropped.append(f"publication {publication}")
    return dropped


async def written(driver: asyncpg.Connection) -> int:
    """Returns how far the server's log is safe on its disk."""
    return int(await driver.fetchval("SELECT pg_current_wal_flush_lsn()"))


async def settle(driver: asyncpg.Connection, what: str, seconds: float) -> None:
    """Waits until all transactions that are open now have ended, so that a copy sees them.

    Their changes may stand in the log before what is read of it, or before the table was published.

    Raises:
        Transient: one stays open; names its session.
    """
    horizon = await driver.fetchval("SELECT txid_snapshot_xmax(txid_current_snapshot())")
    end = time.monotonic() + seconds
    while not await driver.fetchval("SELECT txid_snapshot_xmin(txid_current_snapshot()) >= $1", horizon):
        if time.monotonic() > end:
            pid = await driver.fetchval(
                "SELECT pid FROM pg_stat_activity WHERE backend_xid IS NOT NULL ORDER BY xact_start LIMIT 1"
            )
            raise Transient(f"{what}: a transaction has been open for {seconds:g} s (pid {pid}); a copy begins when it ends")
        await asyncio.sleep(_LOOK_SECONDS)


def gap(slot: Slot | None, name: str, lsn: int) -> str:
    """Returns why changes behind a position are lost; empty if none are."""
    if slot is None:
        return f"the slot {name} is gone: it was dropped, or the server failed over to one without it"
    if slot.lost:
        return f"the slot {name} cannot be read: {slot.lost}"
    if slot.confirmed > lsn:
        return f"the slot {name} was moved to {shown(slot.confirmed)} by another reader or made again, and we are at {shown(lsn)}"
    return ""


async def _open_for_long(driver: asyncpg.Connection, what: str, next_step: str) -> Transient:
    oldest = await driver.fetchrow(
        "SELECT pid, usename, extract(epoch FROM now() - xact_start)::int AS seconds FROM pg_stat_activity "
        "WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() ORDER BY xact_start LIMIT 1"
    )
    who = "" if oldest is None else f" (pid {oldest['pid']} of {oldest['usename']}, for {oldest['seconds']} s)"
    return Transient(f"{what}: a transaction has been open for long{who}; {next_step} when it ends")


async def _write(driver: asyncpg.Connection, statement: str) -> None:
    async with driver.transaction():
        await driver.execute("SET TRANSACTION READ WRITE")
        await driver.execute(statement)


def key_list(names: Sequence[str], rows: Sequence[Sequence[bytes | None]]) -> str:
    """Returns the condition that a row has one of some keys."""
    left = ", ".join(quoted(name) for name in names)
    right = ", ".join("(" + ", ".join(literal((value or b"").decode()) for value in row) + ")" for row in rows)
    return f"({left}) IN ({right})"
