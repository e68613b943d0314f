"""Changes a Postgres table so that a batch fits: creates, adds, widens, keeps the key. Nothing is ever dropped but our own keys.

Everything happens in one transaction under an advisory lock on the table's name, after reading the catalogue again; only a
program other than Penstock can still get in between, and then the whole patch is tried again on the new state.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from loader.contract.warehouse import Column, TablePatch, TableSchema
from loader.sql.text import OWN_INDEX, no_key, own_index, ownership, require_key
from loader.warehouses.postgres import statements
from loader.warehouses.postgres.dialect import DIALECT
from loader.warehouses.postgres.errors import describe
from loader.warehouses.postgres.types import LiveColumn, live_column, native_of, survives, widening
from shared.errors import Permanent

if TYPE_CHECKING:
    import asyncpg

LOST_RACE = frozenset({"42P07", "42701", "42710", "42P06", "23505", "40001", "40P01", "XX000"})
"""Errors of the server where another session made the same object between our look and our statement."""

REFUSED = frozenset({"0A", "22", "2B", "42", "54"})
"""Classes of errors by which the server refuses to add or widen one column; the others of the patch may be possible."""

NOT_FOR_A_COLUMN = frozenset({"42501", "42P01", "42809"})


@dataclass(frozen=True, slots=True)
class LiveKey:
    """A unique index ON CONFLICT can use; `constraint` when it belongs to one."""

    name: str
    columns: tuple[str, ...]
    primary: bool
    constraint: bool

    @property
    def own(self) -> bool:
        """Whether we made it, so that we may replace it."""
        return self.name.startswith(OWN_INDEX)


@dataclass(frozen=True, slots=True)
class LiveTable:
    """A table as the catalogue has it."""

    columns: dict[str, LiveColumn]
    keys: tuple[LiveKey, ...]
    view: bool = False

    def as_schema(self, wanted: Sequence[str] | None = None) -> TableSchema:
        """Returns it as the core knows tables; the key is `wanted` where rows can be merged on it, else ours, else any."""
        keys = [key.columns for key in sorted(self.keys, key=lambda key: (not key.own, not key.primary, key.name))]
        key = keys[0] if keys else ()
        if wanted and any(set(columns) == set(wanted) for columns in keys):
            key = tuple(wanted)
        own = any(each.own for each in self.keys)
        return TableSchema({name: column.as_column() for name, column in self.columns.items()}, key, own)


async def read_tables(connection: asyncpg.Connection, schema: str, tables: Sequence[str]) -> dict[str, LiveTable]:
    """Returns those of the tables that the catalogue has."""
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in await connection.fetch(statements.COLUMNS, schema, list(tables)):
        found[row["name"]].append(row)
    if not found:
        return {}
    keys: dict[int, list[LiveKey]] = defaultdict(list)
    for key in await connection.fetch(statements.KEYS, [rows[0]["oid"] for rows in found.values()]):
        keys[key["oid"]].append(LiveKey(key["name"], tuple(key["columns"]), key["primary"], key["constraint"]))
    return {
        name: LiveTable(
            {row["column"]: live_column(row) for row in rows if row["column"] is not None},
            tuple(keys[rows[0]["oid"]]),
            view=rows[0]["relkind"] == "v",
        )
        for name, rows in found.items()
    }


async def read_table(connection: asyncpg.Connection, schema: str, table: str) -> LiveTable | None:
    """Returns a table from the catalogue, or None."""
    return (await read_tables(connection, schema, [table])).get(table)


async def create(connection: asyncpg.Connection, schema: str, patches: Sequence[TablePatch]) -> dict[str, TableSchema]:
    """Creates new tables, in the transaction that is open; leaves out those whose name is taken.

    Raises:
        Permanent: one of them cannot be created so.
        the driver's errors; translated by the caller.
    """
    names = [patch.table for patch in patches]
    await _lock(connection, schema, names)
    await make_schema(connection, schema)
    there = {*await read_tables(connection, schema, names), *await _other_things(connection, schema, names)}
    wanted = {patch.table: patch for patch in patches if patch.table not in there}
    if not wanted:
        return {}
    taken = await _taken(connection, schema)
    making: list[str] = []
    for patch in wanted.values():
        parts = await _definitions(connection, patch)
        taken.append(own_index(schema, patch.table, taken))
        making += [_create_table(schema, patch, parts.values(), taken[-1]), ownership(DIALECT, schema, patch.table, patch.add)]
    await connection.execute("; ".join(filter(None, making)))
    made = await read_tables(connection, schema, list(wanted))
    return {name: live.as_schema(wanted[name].primary_key) for name, live in made.items()}


async def apply(connection: asyncpg.Connection, schema: str, patch: TablePatch) -> TableSchema:
    """Makes a table fit, in the transaction that is open.

    Raises:
        Permanent: the table cannot be changed so; says what to do.
        the driver's errors; translated by the caller.
    """
    await _lock(connection, schema, [patch.table])
    live = await read_table(connection, schema, patch.table)
    if live is None:
        await make_schema(connection, schema)
        await _refuse_other_things(connection, schema, patch.table)
        refused = await _create(connection, schema, patch)
    else:
        if live.view:
            raise Permanent(
                f'"{patch.table}" is a view, to which neither columns nor a key can be added; choose schema_policy: freeze and '
                "deduplicate: false, or another name for the table"
            )
        refused = await _alter(connection, schema, patch, live)
        if patch.primary_key is not None:
            await _keep_key(connection, schema, patch.table, patch.primary_key, live)
    there = {*refused, *(live.columns if live else ())}
    owners = ownership(DIALECT, schema, patch.table, [column for column in patch.add if column.name not in there])
    if owners:
        await connection.execute(owners)
    after = await read_table(connection, schema, patch.table)
    if after is None:
        raise Permanent(f'table "{patch.table}" was made and is not there; is "{schema}" the schema that was meant?')
    return replace(after.as_schema(patch.primary_key), refused=refused)


async def make_schema(connection: asyncpg.Connection, schema: str) -> None:
    """Creates the schema if it is missing; asking first, because IF NOT EXISTS wants the permission even when it exists."""
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", schema):
        await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {DIALECT.identifier(schema)}")


async def _lock(connection: asyncpg.Connection, schema: str, tables: Sequence[str]) -> None:
    await connection.fetch(statements.ADVISORY_LOCKS, [f"{schema}.{table}" for table in tables])


async def _create(connection: asyncpg.Connection, schema: str, patch: TablePatch) -> frozenset[str]:
    parts = await _definitions(connection, patch)
    key = patch.primary_key or ()
    name = own_index(schema, patch.table, await _taken(connection, schema))
    if await _tried(connection, _create_table(schema, patch, parts.values(), name)):
        return frozenset()
    await connection.execute(_create_table(schema, patch, [parts[column] for column in key], name))
    others = {name: f"ADD COLUMN {part}" for name, part in parts.items() if name not in key}
    return await _change(connection, schema, patch.table, others)


async def _definitions(connection: asyncpg.Connection, patch: TablePatch) -> dict[str, str]:
    """Returns the definitions of a new table's columns by name."""
    key = patch.primary_key or ()
    columns = {column.name: column for column in (*patch.add, *patch.widen)}
    require_key(patch.table, key, columns)
    return {column.name: await _definition(connection, column, not_null=column.name in key) for column in columns.values()}


def _create_table(schema: str, patch: TablePatch, parts: Iterable[str], key_name: str) -> str:
    key = (
        [f"CONSTRAINT {DIALECT.identifier(key_name)} PRIMARY KEY ({DIALECT.identifiers(patch.primary_key)})"]
        if patch.primary_key
        else []
    )
    return f"CREATE TABLE {DIALECT.qualified(schema, patch.table)} ({', '.join([*parts, *key])})"


async def _other_things(connection: asyncpg.Connection, schema: str, tables: Sequence[str]) -> dict[str, str]:
    """Returns what has the names of tables and is none."""
    return {row["name"]: row["thing"] for row in await connection.fetch(statements.NOT_TABLES, schema, list(tables))}


async def _refuse_other_things(connection: asyncpg.Connection, schema: str, table: str) -> None:
    thing = (await _other_things(connection, schema, [table])).get(table)
    if thing is not None:
        raise Permanent(
            f'"{table}" is the name of a {thing} in schema "{schema}"; rename it, or choose another name for the table'
        )


async def _alter(connection: asyncpg.Connection, schema: str, patch: TablePatch, live: LiveTable) -> frozenset[str]:
    conditions: dict[str, str | None] = {}
    changes = {
        column.name: f"ADD COLUMN IF NOT EXISTS {await _definition(connection, column)}"
        for column in patch.add
        if column.name not in live.columns
    }
    for column in patch.widen:
        now = live.columns.get(column.name)
        if now is None:
            changes[column.name] = f"ADD COLUMN IF NOT EXISTS {await _definition(connection, column)}"
        elif now.kind is not column.kind or now.as_column().limits is not None:
            name = DIALECT.identifier(column.name)
            native = now.base or now.native
            expression = widening(name, now.kind, column.kind, native)
            if expression is not None:
                changes[column.name] = f"ALTER COLUMN {name} TYPE {native_of(column)} USING {expression}"
                conditions[column.name] = survives(name, now.kind, column.kind, native)
    lossy = await _lossy(connection, schema, patch.table, conditions)
    kept = {name: change for name, change in changes.items() if name not in lossy}
    return lossy | await _change(connection, schema, patch.table, kept)


async def _lossy(connection: asyncpg.Connection, schema: str, table: str, conditions: Mapping[str, str | None]) -> frozenset[str]:
    """Returns the columns with a stored value for which its condition does not hold; nobody writes to the table from here on."""
    asked = {name: condition for name, condition in conditions.items() if condition is not None}
    if not asked:
        return frozenset()
    await connection.execute(f"LOCK TABLE {DIALECT.qualified(schema, table)} IN SHARE ROW EXCLUSIVE MODE")
    tests = ", ".join(f"coalesce(bool_and({condition}), true)" for condition in asked.values())
    found = await connection.fetchrow(f"SELECT {tests} FROM {DIALECT.qualified(schema, table)}")  # noqa: S608 - names are quoted
    return frozenset(name for name, holds in zip(asked, found, strict=True) if not holds)


async def _change(connection: asyncpg.Connection, schema: str, table: str, changes: Mapping[str, str]) -> frozenset[str]:
    """Alters a table, all at once or, where that is refused, column by column; returns the columns that were refused."""
    alter = f"ALTER TABLE {DIALECT.qualified(schema, table)} "
    if not changes or await _tried(connection, alter + ", ".join(changes.values())):
        return frozenset()
    return frozenset([name for name, change in changes.items() if not await _tried(connection, alter + change)])


async def _tried(connection: asyncpg.Connection, statement: str) -> bool:
    """Runs a statement; returns whether the server took it, False where it refuses it for a column's sake."""
    await connection.execute("SAVEPOINT trial")
    try:
        await connection.execute(statement)
    except Exception as error:
        state = getattr(error, "sqlstate", None) or ""
        if state[:2] not in REFUSED or state in LOST_RACE or state in NOT_FOR_A_COLUMN:
            raise
        await connection.execute("ROLLBACK TO SAVEPOINT trial")
        return False
    return True


async def _keep_key(connection: asyncpg.Connection, schema: str, table: str, key: tuple[str, ...], live: LiveTable) -> None:
    after = await read_table(connection, schema, table)
    require_key(table, key, after.columns if after else ())
    for stale in live.keys:
        if stale.own and set(stale.columns) != set(key):
            await _drop_key(connection=connection, schema=schema, table=table, stale=stale, key=key)
    if not key or any(set(usable.columns) == set(key) for usable in live.keys):
        return
    name = DIALECT.identifier(own_index(schema, table, await _taken(connection, schema)))
    has_primary = any(usable.primary and not usable.own for usable in live.keys)
    try:
        if has_primary:
            await connection.execute(
                f"CREATE UNIQUE INDEX {name} ON {DIALECT.qualified(schema, table)} ({DIALECT.identifiers(key)})"
            )
        else:
            await connection.execute(
                f"ALTER TABLE {DIALECT.qualified(schema, table)} ADD CONSTRAINT {name} PRIMARY KEY ({DIALECT.identifiers(key)})"
            )
    except Exception as error:
        state = getattr(error, "sqlstate", None)
        if state not in ("23505", "23502"):
            raise
        trouble = "several rows share one value of it" if state == "23505" else "some rows have no value in it"
        raise no_key(table, key, f"{trouble} ({describe(error)})") from error


async def _drop_key(connection: asyncpg.Connection, schema: str, table: str, stale: LiveKey, key: Sequence[str]) -> None:
    if not stale.constraint:
        await connection.execute(f"DROP INDEX IF EXISTS {DIALECT.qualified(schema, stale.name)}")
        return
    changes = [f"DROP CONSTRAINT {DIALECT.identifier(stale.name)}"]
    if stale.primary:
        # a primary key leaves NOT NULL behind, and rows without the old key would be refused for ever
        changes += [f"ALTER COLUMN {DIALECT.identifier(name)} DROP NOT NULL" for name in stale.columns if name not in key]
    await connection.execute(f"ALTER TABLE {DIALECT.qualified(schema, table)} {', '.join(changes)}")


async def _definition(connection: asyncpg.Connection, column: Column, *, not_null: bool = False) -> str:
    native = native_of(column)
    if column.native is not None:
        try:
            # the type came from a person or a function: only what the server reads as a type goes into DDL
            await connection.fetchval(f"SELECT {DIALECT.literal(native)}::regtype")
        except Exception as error:
            if getattr(error, "sqlstate", None) not in ("42704", "42601", "22P02", "42602", "3F000", "0A000"):
                raise
            raise Permanent(f'column "{column.name}": {native!r} is not a type this server knows ({describe(error)})') from error
    return f"{DIALECT.identifier(column.name)} {native}{' NOT NULL' if not_null else ''}"


async def _taken(connection: asyncpg.Connection, schema: str) -> list[str]:
    rows = await connection.fetch(
        "SELECT relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = $1 AND starts_with(relname::text, $2)",
        schema,
        OWN_INDEX,
    )
    return [row["relname"] for row in rows]
