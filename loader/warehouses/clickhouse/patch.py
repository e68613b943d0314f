"""Changes tables so that a batch fits: creates, adds, widens; says what cannot be changed.

ClickHouse has no transaction for DDL and no lock that a client can take. So each statement may meet another writer's: it says
IF NOT EXISTS, and the table is read again behind it. The engine and the key of a table are what it was created with. A table that
appends cannot become one that merges, nor the other way round, nor can its key change; the error says what to do.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from loader.contract.warehouse import Column, Kind, TablePatch, TableSchema
from loader.sql.text import require_key
from loader.warehouses.clickhouse import statements
from loader.warehouses.clickhouse.connect import Link, Options
from loader.warehouses.clickhouse.live import VERSION, VIEW_COMMENT, LiveTable, read_tables
from loader.warehouses.clickhouse.statements import identifier, identifiers, literal, qualified
from loader.warehouses.clickhouse.types import ARRAYS, WIDEN, Era, comment_of, native_of, version_of
from shared.driving.clickhouse import code_of
from shared.errors import PenstockError, Permanent, TableChanged

TIMES = ("received_at", "timestamp")
"""Columns that a table which appends is sorted and partitioned by, best first."""
IDS = ("message_id", "id")
NAME_BYTES = 63
_TAKEN = 57
_NEVER_NULLABLE = ("Array(", "Map(", "Tuple(", "Nested(", "LowCardinality(", "Nullable(", "AggregateFunction(")
_LOW_CARDINALITY = re.compile(r"LowCardinality\((?!Nullable\()(.*)\)", re.DOTALL)
_PARTITIONS = {"month": "toYYYYMM", "day": "toYYYYMMDD"}


class Patcher:
    """Changes tables of one database."""

    def __init__(self, link: Link, options: Options, era: Era) -> None:
        self._link = link
        self._options = options
        self._database = options.database
        self._cluster = statements.on_cluster(options.cluster)
        self._era = era

    async def create(self, patches: Sequence[TablePatch]) -> dict[str, TableSchema]:
        """Creates new tables; leaves out those whose name is taken. After an error none of them is there.

        Raises:
            as `Session.create`.
        """
        taken = await self._read([patch.table for patch in patches])
        wanted = [patch for patch in patches if self._is_free(taken.get(patch.table))]
        definitions = {patch.table: await self._definition(patch) for patch in wanted}
        made: list[TablePatch] = []
        try:
            for patch in wanted:
                await self._drop_own_view(taken.get(patch.table))
                if await self._run(patch.table, f"CREATE TABLE {definitions[patch.table]}", allowed=_TAKEN):
                    made.append(patch)
        except BaseException:
            for patch in made:  # it is empty: nothing is loaded before `create` returns
                await self._run(patch.table, f"DROP TABLE IF EXISTS {qualified(self._database, patch.table)}{self._cluster}")
            raise
        live = await self._read([patch.table for patch in made])
        for patch in made:
            await self._show_final(live.get(patch.table))
        return {patch.table: live[patch.table].schema(patch.primary_key or ()) for patch in made if patch.table in live}

    async def apply(self, patch: TablePatch) -> TableSchema:
        """Makes a table fit.

        Raises:
            as `Session.patch`.
        """
        live = (await self._read([patch.table])).get(patch.table)
        if self._is_free(live):
            definition = await self._definition(patch)
            await self._drop_own_view(live)
            await self._run(patch.table, f"CREATE TABLE IF NOT EXISTS {definition}")
            live = (await self._read([patch.table])).get(patch.table)
        if live is None:
            raise TableChanged(f'table "{patch.table}" was made and is gone')
        self._check(live, patch)
        refused = await self._alter(live, patch)
        after = (await self._read([patch.table])).get(patch.table)
        if after is None:
            raise TableChanged(f'table "{patch.table}" was dropped meanwhile')
        if patch.add or live.version != after.version or not live.columns:
            await self._show_final(after)
        return replace(after.schema(patch.primary_key or ()), refused=refused)

    async def _read(self, tables: Sequence[str]) -> dict[str, LiveTable]:
        return await read_tables(self._link, self._database, tables, self._era)

    @staticmethod
    def _is_free(live: LiveTable | None) -> bool:
        """Whether a table can be made: nothing has its name, or a view of ours has, which gives way."""
        return live is None or live.gives_way

    async def _drop_own_view(self, live: LiveTable | None) -> None:
        if live is not None:
            await self._run(live.name, f"DROP VIEW IF EXISTS {qualified(self._database, live.name)}{self._cluster}")

    async def _run(self, table: str, statement: str, allowed: int | None = None) -> bool:
        """Runs DDL; returns whether it was done, False where the server refused it with the code that is allowed."""
        try:
            await self._link.run(f'changing table "{table}" of', statement, table)
        except PenstockError as error:
            if allowed is None or code_of(str(error.__cause__)) != allowed:
                raise
            return False
        return True

    def _check(self, live: LiveTable, patch: TablePatch) -> None:
        """Checks what cannot be altered.

        Raises:
            Permanent: the table is of a kind that takes no loads, or has another key.
        """
        what = f'table "{live.name}"'
        if live.is_view:
            raise Permanent(f"{what} is a view; choose another name for the table")
        if not live.takes_tokens:
            raise Permanent(
                f"{what} has the engine {live.engine}, which does not know a repeated insert, or changes rows; "
                "create it as MergeTree or ReplacingMergeTree, replicated or not"
            )
        key = patch.primary_key
        if key is None:
            return
        if not key and live.replaces and live.version is not None:
            raise Permanent(
                f"{what} was made to merge rows by ({', '.join(live.key)}), and ClickHouse cannot change that; "
                "rename it, so that a new one is made, or set deduplicate: true"
            )
        if key and (not live.replaces or set(key) != set(live.key)):
            now = (
                f"merges rows by ({', '.join(live.key)})" if live.replaces else f"has the engine {live.engine}, which merges none"
            )
            raise Permanent(
                f"{what} {now}: ({', '.join(key)}) cannot become the key because ClickHouse changes neither engine nor key of a table; "
                "rename it, so that a new one is made, choose another primary_key, or set deduplicate: false"
            )

    async def _definition(self, patch: TablePatch) -> str:
        """Returns what stands behind CREATE TABLE."""
        options = self._options
        columns = {column.name: column for column in (*patch.add, *patch.widen)}
        key = patch.primary_key or ()
        require_key(patch.table, key, columns)
        definitions = [await self._column(column, required=name in key) for name, column in columns.items()]
        settings = [
            "allow_nullable_key = 1",
            f"non_replicated_deduplication_window = {options.deduplication_window}",
        ]
        if options.engine == "ReplicatedMergeTree":
            settings.append(f"replicated_deduplication_window = {options.deduplication_window}")
            settings.append("replicated_deduplication_window_seconds = 604800")
        if options.syncs:
            settings += ["fsync_after_insert = 1", "fsync_part_directory = 1"]
        engine, partition, order = str(options.engine), "", "tuple()"
        if key:
            engine = engine.replace("MergeTree", "ReplacingMergeTree") + f"({identifier(VERSION)})"
            definitions.append(f"{identifier(VERSION)} UInt64 MATERIALIZED {self._version(patch, columns)}")
            order = f"({identifiers(key)})"
        else:
            time = next((each for each in TIMES if each in columns and columns[each].kind is Kind.TIMESTAMP), None)
            sorted_by = [each for each in (time, next((each for each in IDS if each in columns), None)) if each]
            if any(columns[each].native is not None for each in sorted_by):
                sorted_by, time = [], None  # of a forced type, which a key may not be of
            order = f"({identifiers(sorted_by)})" if sorted_by else order
            if time and options.partition_by != "none":
                partition = f" PARTITION BY {_PARTITIONS[options.partition_by]}({identifier(time)})"
        return (
            f"{qualified(self._database, patch.table)}{self._cluster} ({', '.join(definitions)})"
            f" ENGINE = {engine}{partition} ORDER BY {order} SETTINGS {', '.join(settings)}"
        )

    def _version(self, patch: TablePatch, columns: Mapping[str, Column]) -> str:
        """Returns the expression of the version column.

        Raises:
            Permanent: the cursor is of a type that has no number.
        """
        cursor = columns.get(patch.cursor) if patch.cursor else None
        expression = version_of(cursor, identifier(cursor.name) if cursor else "")
        if expression is None or (cursor is not None and cursor.native is not None and cursor.kind is Kind.OTHER):
            raise Permanent(
                f'table "{patch.table}": column "{patch.cursor}" cannot tell which of two rows is newer: ClickHouse compares whole '
                "numbers and times only; choose another discriminator"
            )
        return expression

    async def _alter(self, live: LiveTable, patch: TablePatch) -> frozenset[str]:
        """Adds and widens columns; returns the columns that stay out or as they are."""
        table, refused = f"ALTER TABLE {qualified(self._database, live.name)}{self._cluster}", set[str]()
        added = [column for column in (*patch.add, *patch.widen) if column.name not in live.columns]
        definitions = [await self._column(column) for column in added]
        if definitions:
            parts = [f"ADD COLUMN IF NOT EXISTS {definition}" for definition in definitions]
            try:
                await self._run(live.name, f"{table} {', '.join(parts)}")
            except Permanent:
                for column, part in zip(added, parts, strict=True):
                    refused |= await self._tries(live.name, f"{table} {part}", column)
        for column in patch.widen:
            now = live.columns.get(column.name)
            if now is None or (now.kind is column.kind and now.limits is None) or (now.kind, column.kind) not in WIDEN:
                continue
            # its comment tells of JSON and of the column's source, so it is written again
            comment = literal(comment_of(replace(column, owner=now.owner)))
            change = f"{table} MODIFY COLUMN {identifier(column.name)} {await self._type(column)} COMMENT {comment}"
            refused |= await self._tries(live.name, change, column)
        await self._take_up_cursor(live, patch, table)
        return frozenset(refused)

    async def _take_up_cursor(self, live: LiveTable, patch: TablePatch, table: str) -> None:
        """Gives a table that was made without a cursor the one it gets now; what it holds counts as oldest."""
        if live.version is None or not patch.cursor or live.version != version_of(None, ""):
            return
        columns = {**live.columns, **{column.name: column for column in patch.add}}
        if patch.cursor in columns:
            version = self._version(patch, columns)
            await self._run(live.name, f"{table} MODIFY COLUMN {identifier(VERSION)} UInt64 MATERIALIZED {version}")

    async def _tries(self, table: str, statement: str, column: Column) -> set[str]:
        try:
            await self._run(table, statement)
        except Permanent:
            return {column.name}
        return set()

    async def _column(self, column: Column, *, required: bool = False) -> str:
        comment = comment_of(column)
        said = f" COMMENT {literal(comment)}" if comment else ""
        return f"{identifier(column.name)} {await self._type(column, required=required)}{said}"

    async def _type(self, column: Column, *, required: bool = False) -> str:
        """Returns the type as it stands in DDL.

        Raises:
            Permanent: a person or a function forced one that the server does not know.
        """
        native = native_of(column)
        if column.native is None:
            return native if required else f"Nullable({native})"
        nullable = required or native.startswith(_NEVER_NULLABLE) or native in ARRAYS
        asked = native if nullable else f"Nullable({native})"
        if low := _LOW_CARDINALITY.fullmatch(native if not required else ""):
            asked = f"LowCardinality(Nullable({low[1]}))"
        try:
            ((row),) = await self._link.fetch("reading a type of", statements.TYPE, type=asked)
        except Permanent as error:
            raise Permanent(f'column "{column.name}": {native!r} is not a type ClickHouse knows ({error})') from error
        return str(row["type"])

    async def _show_final(self, live: LiveTable | None) -> None:
        """Makes or renews the view of a merging table's final rows, unless its name is taken."""
        if live is None or not live.replaces or not self._options.final_view:
            return
        view = view_name(self._options.final_view, live.name)
        there = (await self._read([view])).get(view)
        if self._is_free(there):
            comment = f"{VIEW_COMMENT} of {live.name}"
            statement = statements.make_view(
                database=self._database, view=view, table=live.name, cluster=self._options.cluster, comment=comment
            )
            await self._run(live.name, statement, allowed=_TAKEN)


def view_name(template: str, table: str) -> str:
    """Returns the name of a table's view, cut as names are."""
    name = template.replace("{table}", table)
    encoded = name.encode()
    if len(encoded) <= NAME_BYTES:
        return name
    return encoded[: NAME_BYTES - 9].decode(errors="ignore") + "_" + hashlib.sha256(encoded).hexdigest()[:8]
