"""Brings Arrow tables into MySQL: LOAD DATA LOCAL of text, straight into the table or by way of a temporary one.

LOAD DATA *LOCAL* turns what is wrong with a row into a warning: it cuts the value, or skips the row. So rows go straight into their
table behind a savepoint, and stay only if the server took each without a warning. Else they are taken back and go through a temporary
table, whose columns hold all that the rows have, and an INSERT, which in strict mode refuses what it cannot store as it is.

A merge is INSERT … ON DUPLICATE KEY UPDATE. That also replaces a row which shares the value of any *other* unique key, so where a
table has such keys the merge is an UPDATE of the rows that are there and an INSERT of the others, which refuses those that clash.
"""

# ruff: noqa: S608 - names are quoted by the dialect

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loader.contract.warehouse import Kind, TableLoad
from loader.sql.merge import Straight, on_conflict
from loader.sql.text import is_constant
from loader.warehouses.mysql.catalogue import LiveKey, LiveTable
from loader.warehouses.mysql.dialect import SQL, Into
from loader.warehouses.mysql.encode import FORMAT, encode
from loader.warehouses.mysql.errors import translate
from loader.warehouses.mysql.types import LiveColumn, Natives
from shared.driving.watch import Watch
from shared.errors import RowsRejected, TableChanged

if TYPE_CHECKING:
    from loader.warehouses.mysql.link import Answer, Link

_AT_ROW = re.compile(r"\bat row (\d+)")
_COUNTER = "_penstock_n"
_STAGED = {
    Kind.BOOLEAN: "tinyint(1)",
    Kind.BIGINT: "bigint",
    Kind.DOUBLE: "double",
    Kind.DECIMAL: "decimal(38,0)",
    Kind.TIMESTAMP: "datetime(6)",
    Kind.DATE: "date",
}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A load whose columns the live table has. `columns`: the live ones, in the order of the rows' columns."""

    load: TableLoad
    live: LiveTable
    columns: Sequence[LiveColumn]

    @property
    def names(self) -> list[str]:
        """The columns as the rows call them."""
        names: list[str] = self.load.rows.column_names
        return names


def prepare(load: TableLoad, live: LiveTable) -> Prepared:
    """Finds the columns that a load writes.

    Raises:
        TableChanged: one is missing or has another kind than the rows were shaped for.
    """
    from loader.types.lattice import ARROW

    columns: list[LiveColumn] = []
    for field in load.rows.schema:
        column = live.columns.get(SQL.fold(field.name))
        if column is None:
            raise TableChanged(f'table "{load.table}": column "{field.name}" is gone')
        if field.type != ARROW[column.kind]:
            raise TableChanged(f'table "{load.table}": column "{field.name}" is {column.native} now, the rows have {field.type}')
        if not column.writable:
            raise TableChanged(f'table "{load.table}": column "{field.name}" is computed by the server now')
        columns.append(column)
    return Prepared(load, live, columns)


async def send(link: Link, schema: str, prepared: Prepared, natives: Natives, watch: Watch, straight: Straight | None) -> int:
    """Brings the rows into the table within the open transaction; returns the bytes sent.

    Args:
        link: with a transaction open.
        schema: of the table.
        prepared: the rows.
        natives: types of the server.
        watch: hears of everything that moves.
        straight: which tables a merge may try to load its rows into; None: it does not.

    Raises:
        RowsRejected: rows that the server does not take, named where it says which.
        the driver's errors; translated by the caller.
    """
    load = prepared.load
    sending = _Sending(link=link, schema=schema, prepared=prepared, natives=natives, watch=watch)
    if load.write == "append":
        if await sending.straight():
            return sending.bytes
    elif straight is not None and not load.coalesce and straight.tries(load.table):
        if await sending.straight():
            straight.passed(load.table)
            return sending.bytes
        straight.met(load.table)
    await sending.staged()
    return sending.bytes


class _Sending:
    """The rows of one load on their way."""

    def __init__(self, link: Link, schema: str, prepared: Prepared, natives: Natives, watch: Watch) -> None:
        self._link = link
        self._schema = schema
        self._prepared = prepared
        self._load = prepared.load
        self._natives = natives
        self._watch = watch
        self._table = SQL.qualified(schema, prepared.load.table)
        self._stage = SQL.identifier("_penstock_stage")
        self.bytes = 0

    async def straight(self) -> bool:
        """Loads rows into their table; returns False, and leaves nothing behind, where the server does not take each as it is."""
        fields, sets = [], []
        for number, (name, column) in enumerate(zip(self._prepared.names, self._prepared.columns, strict=True)):
            value = f"@penstock_{number}"
            expression = self._expression(name, column, value)
            fields.append(SQL.identifier(name) if expression == value else value)
            if expression != value:
                sets.append(f"{SQL.identifier(name)} = {expression}")
        tail = f"({', '.join(fields)})" + (f" SET {', '.join(sets)}" if sets else "")
        await self._link.run("SAVEPOINT penstock_straight")
        try:
            answer = await self._bring(self._table, tail)
        except Exception as error:
            if not isinstance(translate(error, "", self._load.table), RowsRejected):
                raise
            await self._link.run("ROLLBACK TO SAVEPOINT penstock_straight")
            return False
        rows = self._load.rows.num_rows
        if answer.changed == rows and not answer.warnings:
            return True
        # once a row is skipped the others are counted wrong
        named = await self._warned() if answer.changed == rows else {}
        await self._link.run("ROLLBACK TO SAVEPOINT penstock_straight")
        if named:
            raise RowsRejected(self._load.table, next(iter(named.values())), named)
        return False

    async def staged(self) -> None:
        """Loads rows into a temporary table, and from there into their own."""
        load = self._load
        columns = {
            f"_penstock_{number}": self._staged(name, column)
            for number, (name, column) in enumerate(zip(self._prepared.names, self._prepared.columns, strict=True))
        }
        inside = ", ".join(f"{SQL.identifier(name)} {native}" for name, native in columns.items())
        await self._link.run(
            f"CREATE TEMPORARY TABLE {self._stage} ({_COUNTER} bigint unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY, {inside}) ENGINE = InnoDB"
        )
        try:
            try:
                answer = await self._bring(self._stage, f"({SQL.identifiers(columns)})")
                if answer.changed != load.rows.num_rows or answer.warnings:
                    warnings = await self._warned() if answer.changed == load.rows.num_rows else {}
                    raise RowsRejected(load.table, "the server does not take the rows as they are", warnings)
                self._watch.server_works()
                for statement in self._statements():
                    await self._link.run(statement)
            except RowsRejected:
                raise
            except Exception as error:
                raise await self._refusal(error) or error from error
            self._watch.moved()
        finally:
            if not self._link.closed:
                await self._link.run(f"DROP TEMPORARY TABLE IF EXISTS {self._stage}")

    async def _bring(self, table: str, tail: str) -> Answer:
        def counted(chunk: memoryview) -> memoryview:
            self.bytes += len(chunk)
            return chunk

        statement = f"LOAD DATA LOCAL INFILE {{name}} INTO TABLE {table} {FORMAT} {tail}"
        chunks = (counted(chunk) for chunk in encode(self._load.rows))
        return await self._link.load_local(statement, chunks, self._watch.moved, self._watch.server_works)

    async def _warned(self) -> dict[int, str]:
        """Returns the rows that the last statement has warnings of."""
        rows: dict[int, str] = {}
        for _, _, message in (await self._link.run("SHOW WARNINGS")).rows:
            match = _AT_ROW.search(message)
            if match and 0 < int(match[1]) <= self._load.rows.num_rows:
                rows.setdefault(int(match[1]) - 1, message)
        return rows

    async def _refusal(self, error: Exception) -> RowsRejected | None:
        """Returns which rows a data error of the server means."""
        refused = translate(error, "", self._load.table)
        if not isinstance(refused, RowsRejected):
            return None
        match = _AT_ROW.search(refused.message)
        rows = {int(match[1]) - 1: refused.message} if match and 0 < int(match[1]) <= self._load.rows.num_rows else {}
        for number, (name, column) in enumerate(zip(self._prepared.names, self._prepared.columns, strict=True)):
            if column.kind is Kind.JSON:
                value = SQL.identifier(f"_penstock_{number}")
                # the numbers need not be one after the other (auto_increment_increment)
                counted = f"SELECT row_number() OVER (ORDER BY {_COUNTER}) AS place, {value} AS v FROM {self._stage}"
                found = (
                    await self._link.run(f"SELECT place FROM ({counted}) AS r WHERE v IS NOT NULL AND NOT json_valid(v)")
                ).rows
                rows |= {int(place) - 1: f'what column "{name}" would have is no JSON' for (place,) in found}
        return RowsRejected(self._load.table, refused.message, rows, needs_others=refused.needs_others)

    def _staged(self, name: str, column: LiveColumn) -> str:
        if column.kind in _STAGED:
            return _STAGED[column.kind]
        native = column.native if name in self._load.key and column.bare in ("varchar", "char") else "longtext"
        # as it is compared there
        return f"{native} CHARACTER SET {column.charset or 'utf8mb4'} COLLATE {column.collation or self._natives.collation}"

    def _expression(self, name: str, column: LiveColumn, value: str) -> str:
        """Returns what is stored for a value: the value, or the column's default where a row has none."""
        given = f"cast({value} as unsigned)" if column.bare == "bit" else value
        if column.default is not None and self._load.rows.column(name).null_count:
            return f"ifnull({given}, {column.default})"
        return given

    def _statements(self) -> list[str]:
        """Returns what brings rows from the temporary table into their own."""
        load, prepared = self._load, self._prepared
        given = {name: f"r.{SQL.identifier(f'_penstock_{number}')}" for number, name in enumerate(prepared.names)}
        values = [
            self._expression(name, column, given[name]) for name, column in zip(prepared.names, prepared.columns, strict=True)
        ]
        insert = (
            f"INSERT INTO {self._table} ({SQL.identifiers(prepared.names)}) SELECT {', '.join(values)} FROM {self._stage} AS r"
        )
        order = f"ORDER BY r.{_COUNTER}"
        if load.write == "append":
            return [f"{insert} {order}"]
        others = self._others()
        if all(self._same_rows(key) for key in prepared.live.keys if key.unique):
            # a null of the incoming row is to leave the stored value as it is, whatever the default of a new row
            into = Into(self._schema, load.table, given if load.coalesce else None, others)
            return [f"{insert} {order} {on_conflict(into, load, others)}"]
        return [
            self._update(given, dict(zip(prepared.names, values, strict=True)), others),
            f"{insert} WHERE {self._is_new(given)} {order}",
        ]

    def _same_rows(self, key: LiveKey) -> bool:
        """Whether rows that share a unique key share the merge's key too, or never share it."""
        columns = {SQL.fold(name) for name in key.columns}
        there = {SQL.fold(name) for name in self._prepared.names}
        numbered = any(
            self._prepared.live.columns[name].numbered for name in columns - there if name in self._prepared.live.columns
        )
        return numbered or (key.whole and columns >= {SQL.fold(name) for name in self._load.key})

    def _others(self) -> list[str]:
        """Returns the columns that a replaced row must not keep: all others, but not what is made for each row, as a number is."""
        there = {SQL.fold(name) for name in self._prepared.names}
        return [
            column.name
            for key, column in self._prepared.live.columns.items()
            if key not in there and column.writable and not column.numbered and is_constant(column.default)
            and (column.nullable or column.default is not None)
        ]  # fmt: skip

    def _is_new(self, given: dict[str, str]) -> str:
        same = " AND ".join(f"s.{SQL.identifier(name)} = {given[name]}" for name in self._load.key)
        return f"NOT EXISTS (SELECT 1 FROM {self._table} AS s WHERE {same})"

    def _update(self, given: dict[str, str], values: dict[str, str], others: Sequence[str]) -> str:
        """Returns the statement that changes the rows which are there, by the merge's rules."""
        load = self._load
        same = " AND ".join(f"t.{SQL.identifier(name)} = {given[name]}" for name in load.key)
        newer = "TRUE"
        if load.cursor is not None:
            cursor = SQL.identifier(load.cursor)
            newer = f"(t.{cursor} IS NULL OR t.{cursor} <= {given[load.cursor]})"
        sets: list[str] = []
        for name in sorted((name for name in values if name not in load.key), key=lambda name: name == load.cursor):
            stored = f"t.{SQL.identifier(name)}"
            value = (
                f"IF({newer}, COALESCE({given[name]}, {stored}), COALESCE({stored}, {given[name]}))"
                if load.coalesce
                else values[name]
            )
            sets.append(f"{stored} = {value}")
        if not load.coalesce:
            sets += [f"t.{SQL.identifier(name)} = DEFAULT(t.{SQL.identifier(name)})" for name in others]
        if not sets:
            return "DO 0"
        where = "" if load.coalesce else f" WHERE {newer}"
        return f"UPDATE {self._table} AS t JOIN {self._stage} AS r ON {same} SET {', '.join(sets)}{where}"
