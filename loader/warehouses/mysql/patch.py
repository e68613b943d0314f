"""Changes a table so that a batch fits: creates, adds, widens, keeps the key. Nothing is ever dropped but our own keys.

DDL commits by itself in MySQL, so there is no transaction around a patch. What one patch wants is one statement where it can be,
which the server does whole or not at all. Patches of one table wait for each other by a lock of the server, and read the table again
under it. A loader that is killed between two statements leaves a table that has a part of the columns: the next patch adds the rest.

A change of type that the server's own conversion does not do as we need it takes a second column: with the table locked it is added,
filled and put in the first one's place. Until that last statement the first column is untouched.
"""

# ruff: noqa: S608 - names and values are quoted by the dialect

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from loader.contract.warehouse import Column, Kind, TablePatch, TableSchema
from loader.sql.text import no_key, own_index, require_key
from loader.warehouses.mysql.catalogue import LiveKey, LiveTable, read_table, require_transactions
from loader.warehouses.mysql.connect import lock_name
from loader.warehouses.mysql.dialect import SQL
from loader.warehouses.mysql.errors import DUPLICATE_KEY, ROW_TOO_LARGE, describe, number_of
from loader.warehouses.mysql.types import KEY_CHARACTERS, LiveColumn, Natives, modified, survives, widening
from shared.errors import Permanent, TableBusy

if TYPE_CHECKING:
    from loader.warehouses.mysql.link import Link

TABLE_EXISTS, COLUMN_EXISTS, NO_INDEX = 1050, 1060, 1091
LOST_RACE = frozenset((TABLE_EXISTS, COLUMN_EXISTS, 1061, NO_INDEX))
"""Errors of the server where another program made the same object between our look and our statement."""
_TYPE = re.compile(
    r"\w+(?: (?:precision|varying|varchar|char))?(?: ?\((?:\d+(?:, ?\d+)?|'(?:[^'\\]|'')*'(?:, ?'(?:[^'\\]|'')*')*)\))?"
    r"(?: (?:unsigned|signed|zerofill|(?:character set|charset|collate) \w+))*",
    re.IGNORECASE | re.ASCII,
)
"""A type and nothing behind it: no default, no key, no other column."""
WIDE = "_penstock_widened"
_TRIAL = "_penstock_trial"

_FOR_ALL = frozenset(
    (1044, 1045, 1142, 1143, 1205, 1213, 1227, 1290, 1792, 1836, 1021, 1114, 1146, 3750, 1028, 1030, 1026, 1317, 1969, 3024)
)
"""Errors that no choice of columns gets around."""


@dataclass(frozen=True, slots=True)
class Patching:
    """Patches tables of one database over one link."""

    link: Link
    schema: str
    natives: Natives
    lock_seconds: float

    async def create(self, patches: Sequence[TablePatch]) -> dict[str, TableSchema]:
        """Creates new tables; leaves out those whose name is taken. Each is tried as a temporary table before the first is made.

        Raises:
            Permanent: one of them cannot be created so.
            the driver's errors; translated by the caller.
        """
        async with self._locked([patch.table for patch in patches]):
            wanted = [patch for patch in patches if await read_table(self.link, self.schema, patch.table) is None]
            statements = {patch.table: await self._create_table(patch) for patch in wanted}
            for statement in statements.values():
                await self._try(statement)
            made: dict[str, TableSchema] = {}
            for patch in wanted:
                try:
                    await self.link.run(f"CREATE TABLE {SQL.qualified(self.schema, patch.table)} {statements[patch.table]}")
                except Exception as error:
                    if number_of(error) == TABLE_EXISTS:
                        continue
                    raise
                live = await read_table(self.link, self.schema, patch.table)
                if live is not None:
                    made[patch.table] = live.as_schema(patch.primary_key)
            return made

    async def apply(self, patch: TablePatch) -> TableSchema:
        """Makes a table fit.

        Raises:
            Permanent: the table cannot be changed so; says what to do.
            the driver's errors; translated by the caller.
        """
        async with self._locked([patch.table]):
            live = await read_table(self.link, self.schema, patch.table)
            if live is None:
                refused = await self._create(patch)
            elif live.kind == "VIEW":
                raise Permanent(
                    f'"{patch.table}" is a view, to which neither columns nor a key can be added; choose another name for the table'
                )
            elif not live.is_table:
                raise Permanent(
                    f'"{patch.table}" is the name of a {live.kind.lower()}; rename it, or choose another name for the table'
                )
            else:
                require_transactions(patch.table, live)
                refused = await self._alter(patch, live)
            after = await read_table(self.link, self.schema, patch.table)
            if after is None:
                raise Permanent(f'table "{patch.table}" was made and is not there')
            return replace(after.as_schema(patch.primary_key), refused=refused)

    @asynccontextmanager
    async def _locked(self, tables: Sequence[str]) -> AsyncIterator[None]:
        names = sorted(SQL.literal(lock_name(self.schema, "table", SQL.fold(table))) for table in set(tables))
        wait = max(1, round(self.lock_seconds))
        taken = [(await self.link.run(f"SELECT GET_LOCK({name}, {wait})")).rows[0][0] for name in names]
        try:
            if taken != ["1"] * len(names):
                raise TableBusy(
                    f'table "{tables[0]}": another loader changes it for longer than {wait} s; its rows wait until that ends'
                )
            yield
        finally:
            if not self.link.closed:
                await self.link.run("SELECT " + ", ".join(f"RELEASE_LOCK({name})" for name in names))

    async def _create_table(self, patch: TablePatch) -> str:
        """Returns what stands behind the name in a CREATE TABLE."""
        key = patch.primary_key or ()
        columns = {SQL.fold(column.name): column for column in (*patch.add, *patch.widen)}
        require_key(patch.table, key, columns, SQL.fold)
        in_key = {SQL.fold(name) for name in key}
        parts = [await self._definition(column, key=name in in_key) for name, column in columns.items()]
        if key:
            parts.append(f"UNIQUE KEY {SQL.identifier(own_index(self.schema, patch.table))} ({SQL.identifiers(key)})")
        return f"({', '.join(parts)}) ENGINE = InnoDB, DEFAULT CHARACTER SET utf8mb4, COLLATE {self.natives.collation}"

    async def _create(self, patch: TablePatch) -> frozenset[str]:
        table = SQL.qualified(self.schema, patch.table)
        try:
            await self.link.run(f"CREATE TABLE {table} {await self._create_table(patch)}")
            return frozenset()
        except Exception as error:
            if not _of_columns(error):
                raise
        # a column is refused: first those of the key, or one that is taken, then the others one by one
        key = {SQL.fold(name) for name in patch.primary_key or ()}
        refused: list[str] = []
        rest = list(patch.add)
        first = [column for column in rest if SQL.fold(column.name) in key]
        while not first and rest:
            if await self._takes(rest[0]):
                first = [rest[0]]
            else:
                refused.append(rest.pop(0).name)
        await self.link.run(f"CREATE TABLE {table} {await self._create_table(replace(patch, add=tuple(first), widen=()))}")
        others = {
            column.name: f"ADD COLUMN {self.natives.definition(column)}"
            for column in rest
            if column not in first and _can_be(column)
        }
        refused += [column.name for column in rest if not _can_be(column)]
        return frozenset(refused) | await self._change(patch.table, others)

    async def _alter(self, patch: TablePatch, live: LiveTable) -> frozenset[str]:
        key = None if patch.primary_key is None else {SQL.fold(name) for name in patch.primary_key}
        changes: dict[str, str] = {}
        computed: list[tuple[LiveColumn, Column]] = []
        refused: set[str] = set()
        if WIDE in live.columns:  # of a loader that was killed
            await self._end_leftover(patch.table)
        for column in (*patch.add, *patch.widen):
            now = live.columns.get(SQL.fold(column.name))
            if now is None:
                if _can_be(column):
                    changes[column.name] = (
                        f"ADD COLUMN {await self._definition(column, key=SQL.fold(column.name) in (key or ()))}"
                    )
                else:
                    refused.add(column.name)
            elif column in patch.widen and (now.kind is not column.kind or now.as_column().limits is not None):
                way = await self._way(patch.table, live, now, column)
                if way == "no":
                    refused.add(now.name)
                elif way == "modify":
                    changes[now.name] = self._modify(now, column)
                else:
                    computed.append((now, column))
        if patch.primary_key is not None:
            refused |= await self._with_key(patch.table, patch.primary_key, live, changes)
        else:
            refused |= await self._change(patch.table, changes)
        for now, column in computed:
            if not await self._compute(patch.table, now, column):
                refused.add(now.name)
        return frozenset(refused)

    async def _way(self, table: str, live: LiveTable, now: LiveColumn, column: Column) -> Literal["modify", "compute", "no"]:
        """Returns how a column is widened: `modify`, `compute`, or `no` where its type, a stored value or an index is in the way."""
        if widening(now, column.kind) is None:
            return "no"
        indexed = any(SQL.fold(name) == SQL.fold(now.name) for key in live.keys for name in key.columns)
        text = column.kind in (Kind.TEXT, Kind.JSON)
        if indexed and (text or not modified(now.kind, column.kind)):
            return "no"
        condition = survives(now, column.kind)
        if condition is not None:
            name = SQL.identifier(now.name)
            query = (
                f"SELECT count(*) FROM {SQL.qualified(self.schema, table)} WHERE {name} IS NOT NULL AND NOT ({condition}) LIMIT 1"
            )
            if (await self.link.run(query)).rows[0][0] != "0":
                return "no"
        return "modify" if modified(now.kind, column.kind) else "compute"

    def _modify(self, now: LiveColumn, column: Column) -> str:
        wider = Column(now.name, column.kind, column.native, owner=now.owner)
        return f"MODIFY COLUMN {self.natives.definition(wider, not_null=not now.nullable, default=now.default)}"

    async def _compute(self, table: str, now: LiveColumn, column: Column) -> bool:
        """Puts a column of the wider type in the place of one; returns whether it could be."""
        name, place = SQL.identifier(now.name), SQL.qualified(self.schema, table)
        wider = Column(now.name, column.kind, column.native, owner=now.owner)
        definition = self.natives.definition(wider, not_null=not now.nullable, default=now.default)
        plain = self.natives.of(wider)
        condition = survives(now, column.kind)
        await self.link.run(f"LOCK TABLES {place} WRITE")
        try:
            if condition is not None:
                query = f"SELECT count(*) FROM {place} WHERE {name} IS NOT NULL AND NOT ({condition})"
                if (await self.link.run(query)).rows[0][0] != "0":
                    return False
            await self.link.run(f"ALTER TABLE {place} ADD COLUMN {SQL.identifier(WIDE)} {plain} NULL AFTER {name}")
            await self.link.run(
                f"UPDATE {place} SET {SQL.identifier(WIDE)} = {widening(now, column.kind)} WHERE {name} IS NOT NULL"
            )
            try:
                await self.link.run(f"ALTER TABLE {place} DROP COLUMN {name}, CHANGE COLUMN {SQL.identifier(WIDE)} {definition}")
            except Exception as error:
                if not _of_columns(error):
                    raise
                await self.link.run(f"ALTER TABLE {place} DROP COLUMN {SQL.identifier(WIDE)}")
                return False
        except Exception as error:
            if not _of_columns(error):
                raise
            return False
        finally:
            if not self.link.closed:
                await self.link.run("UNLOCK TABLES")
        return True

    async def _end_leftover(self, table: str) -> None:
        place = SQL.qualified(self.schema, table)
        await self.link.run(f"ALTER TABLE {place} DROP COLUMN {SQL.identifier(WIDE)}")

    async def _with_key(self, table: str, key: tuple[str, ...], live: LiveTable, changes: dict[str, str]) -> frozenset[str]:
        """Makes the changes and the key in one statement, so that rows that cannot have the key leave the table as it is."""
        require_key(table, key, {*live.columns, *(SQL.fold(name) for name in changes)}, SQL.fold)
        keyed = self._key_changes(table, key, live)
        if not keyed:
            return await self._change(table, changes)
        for name in key:
            now = live.columns.get(SQL.fold(name))
            if (
                now is not None
                and now.bare in ("longtext", "mediumtext", "text")
                and not now.json
                and SQL.fold(name) not in map(SQL.fold, changes)
            ):
                short = Column(now.name, Kind.TEXT, owner=now.owner)
                definition = self.natives.definition(short, key=True, not_null=not now.nullable, default=now.default)
                changes[now.name] = f"MODIFY COLUMN {definition}"
        alter = f"ALTER TABLE {SQL.qualified(self.schema, table)} "
        try:
            await self.link.run(alter + ", ".join((*changes.values(), *keyed)))
            return frozenset()
        except Exception as error:
            _refuse_key(error, table, key)
            if not _of_columns(error):
                raise
        in_key = {SQL.fold(name) for name in key}
        first = {name: change for name, change in changes.items() if SQL.fold(name) in in_key}
        try:
            await self.link.run(alter + ", ".join((*first.values(), *keyed)))
        except Exception as error:
            _refuse_key(error, table, key)
            raise
        return await self._change(table, {name: change for name, change in changes.items() if name not in first})

    def _key_changes(self, table: str, key: tuple[str, ...], live: LiveTable) -> list[str]:
        stale = [each for each in live.keys if each.own and not _over(each, key)]
        changes = [f"DROP KEY {SQL.identifier(each.name)}" for each in stale]
        if key and not live.has_key(key):
            taken = [each.name for each in live.keys]
            changes.append(f"ADD UNIQUE KEY {SQL.identifier(own_index(self.schema, table, taken))} ({SQL.identifiers(key)})")
        return changes

    async def _change(self, table: str, changes: Mapping[str, str]) -> frozenset[str]:
        """Alters a table, all at once or, where that is refused, column by column; returns the columns that were refused."""
        alter = f"ALTER TABLE {SQL.qualified(self.schema, table)} "
        if not changes or await self._tried(alter + ", ".join(changes.values())):
            return frozenset()
        return frozenset([name for name, change in changes.items() if not await self._tried(alter + change)])

    async def _tried(self, statement: str) -> bool:
        """Runs a statement; returns whether the server took it, False where it refuses it for a column's sake."""
        try:
            await self.link.run(statement)
        except Exception as error:
            if not _of_columns(error):
                raise
            return False
        return True

    async def _definition(self, column: Column, *, key: bool = False) -> str:
        if column.native is not None:
            await self._require_type(column)
        return self.natives.definition(column, key=key)

    async def _require_type(self, column: Column) -> None:
        """Checks that what a person or a function forced is a type, and nothing but one.

        Raises:
            Permanent: it is none.
        """
        native = self.natives.of(column)
        if not _TYPE.fullmatch(native):
            raise Permanent(f'column "{column.name}": {native!r} is not a type this server knows')
        if not await self._takes(column):
            raise Permanent(f'column "{column.name}": {native!r} is not a type this server knows')

    async def _takes(self, column: Column) -> bool:
        if not _can_be(column):
            return False
        try:
            await self._try(f"({self.natives.definition(column)})")
        except Exception as error:
            if number_of(error) is None or number_of(error) in _FOR_ALL:
                raise
            return False
        return True

    async def _try(self, statement: str) -> None:
        """Makes and drops a temporary table so."""
        await self.link.run(f"CREATE TEMPORARY TABLE {SQL.identifier(_TRIAL)} {statement}")
        await self.link.run(f"DROP TEMPORARY TABLE {SQL.identifier(_TRIAL)}")


def _can_be(column: Column) -> bool:
    """Whether the server can have a column of this name."""
    try:
        SQL.identifier(column.name)
    except Permanent:
        return False
    return True


def _over(key: LiveKey, wanted: Sequence[str]) -> bool:
    return {SQL.fold(name) for name in key.columns} == {SQL.fold(name) for name in wanted}


def _of_columns(error: BaseException) -> bool:
    """Whether the server may take the statement with other columns."""
    number = number_of(error)
    return (
        number is not None
        and number not in _FOR_ALL
        and number not in LOST_RACE
        and (1000 <= number < 2000 or 3000 <= number < 5000)
    ) or number == ROW_TOO_LARGE


def _refuse_key(error: Exception, table: str, key: Sequence[str]) -> None:
    number = number_of(error)
    if number == DUPLICATE_KEY:
        raise no_key(table, key, f"several rows share one value of it ({describe(error)})") from error
    if number == 1406:
        raise no_key(table, key, f"some values in it are longer than {KEY_CHARACTERS} characters ({describe(error)})") from error
    if number in (1048, 1138, 1265):
        raise no_key(table, key, f"some rows have no value in it ({describe(error)})") from error
