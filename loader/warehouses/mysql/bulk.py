"""Sends Arrow tables to MySQL: LOAD DATA LOCAL of text, straight into the table or by way of a temporary one.

LOAD DATA *LOCAL* turns an error of a row into a warning: it cuts the value, or skips the row. So rows go straight into their
table behind a savepoint, and stay only if the server took each without a warning. Else they are taken back and go through a temporary
table, whose columns hold all that the rows have, and an INSERT, which in strict mode refuses what it cannot store as it is.

A merge is INSERT … ON DUPLICATE KEY UPDATE. That also replaces a row which shares the value of any *other* unique key, so where a
table has such keys the merge is an UPDATE of the rows that are there and an INSERT of the others, which refuses rows that clash.
"""

# ruff: noqa: S608 - names are quoted by the dialect
from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loader.contract.warehouse import Kind
from loader.sql import merge
from loader.sql.load import Fitted, Way, behind_savepoint
from loader.sql.steps import Ask, Hold, Run, Step, Steps
from loader.sql.writes.staged import Staged
from loader.warehouses.mysql.catalogue import NUMBERED
from loader.warehouses.mysql.dialect import MySQL
from loader.warehouses.mysql.encode import FORMAT
from loader.warehouses.mysql.errors import AT_ROW, ERRORS
from loader.warehouses.mysql.types import LONG_TEXT, NUMBERS_AND_TIMES, bare
from shared.errors import RowsRejected

if TYPE_CHECKING:
    import pyarrow as pa

_COUNTER = "_penstock_n"


@dataclass(frozen=True, slots=True)
class Send(Step):
    """Rows by a `LOAD DATA LOCAL INFILE {name} INTO TABLE …`; comes back as a pair: the server's `Answer`, and the bytes sent."""

    rows: pa.Table
    statement: str


class LoadBulk:
    """Rows into one schema."""

    short_rows = 0
    straight_casts = True

    def __init__(self, dialect: MySQL, schema: str) -> None:
        self._dialect = dialect
        self._schema = schema

    def straight(self, fitted: Fitted) -> Steps[int | None]:
        """Loads rows into the table itself."""
        quoted, plain = self._dialect.identifier, {name: f"@penstock_{place}" for place, name in enumerate(fitted.live)}
        values = self._values(fitted, _read(fitted, plain))
        fields = [quoted(name) if value == plain[name] else plain[name] for name, value in values.items()]
        sets = [f"{quoted(name)} = {value}" for name, value in values.items() if value != plain[name]]
        tail = f"({', '.join(fields)})" + (f" SET {', '.join(sets)}" if sets else "")
        try:
            answer, sent = yield self._load(fitted, self._dialect.qualified(self._schema, fitted.load.table), tail)
        except Exception as error:
            if not isinstance(ERRORS.translate(error, "", fitted.load.table), RowsRejected):
                raise
            return None
        rows = fitted.rows.num_rows
        if answer.changed == rows and not answer.warnings:
            return int(sent)
        # once a row is skipped the others are counted wrong
        named = (yield from _warned(rows)) if answer.changed == rows else {}
        if named:
            raise RowsRejected(fitted.load.table, next(iter(named.values())), named)
        return None

    def send(self, fitted: Fitted, number: int, way: Way) -> Steps[int]:  # noqa: ARG002
        """Brings rows into their table by the shortest way that it can take."""
        if fitted.load.write == "append":
            sent = yield from behind_savepoint(self._dialect, self.straight(fitted))
            if sent is not None:
                return sent
        staged = yield from self.stage(fitted, number)
        for statement in self.statements(fitted, f"{staged.relation} AS r", staged.given):
            yield Run(statement)
        return staged.sent

    def stage(self, fitted: Fitted, number: int) -> Steps[Staged]:
        """Brings rows into a temporary table, where the server numbers them."""
        table, stage = fitted.load.table, _stage(number)
        columns = {_staged(place): self._staged_type(fitted, name) for place, name in enumerate(fitted.live)}
        inside = ", ".join(f"{self._dialect.identifier(name)} {native}" for name, native in columns.items())
        counter = f"{_COUNTER} bigint unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY"
        made = f"CREATE TEMPORARY TABLE {stage} ({counter}, {inside}) ENGINE = InnoDB"
        yield Hold(made, f"DROP TEMPORARY TABLE IF EXISTS {stage}")
        answer, bytes_ = yield self._load(fitted, stage, f"({self._dialect.identifiers(columns)})")
        if answer.changed != fitted.rows.num_rows or answer.warnings:
            named = (yield from _warned(fitted.rows.num_rows)) if answer.changed == fitted.rows.num_rows else {}
            raise RowsRejected(table, "the server does not take the rows as they are", named)
        given = _read(fitted, {name: f"r.{_staged(place)}" for place, name in enumerate(fitted.live)})
        return Staged(stage, given, f"r.{_COUNTER}", int(bytes_))

    def refused(self, error: Exception, sending: Sequence[Fitted]) -> Steps[RowsRejected | None]:
        """Returns the row that the server names, and the rows whose value is no JSON."""
        fitted, table = sending[-1], sending[-1].load.table
        refused = ERRORS.translate(error, "", table)
        if not isinstance(refused, RowsRejected):
            return None
        rows = {index: words for index, words in refused.rows.items() if 0 <= index < fitted.rows.num_rows}
        for place, (name, column) in enumerate(fitted.live.items()):
            if column.kind is Kind.JSON:
                value = self._dialect.identifier(_staged(place))
                # the numbers need not be one after the other (auto_increment_increment)
                counted = f"SELECT row_number() OVER (ORDER BY {_COUNTER}) AS place, {value} AS v FROM {_stage(len(sending) - 1)}"
                query = f"SELECT place FROM ({counted}) AS r WHERE v IS NOT NULL AND NOT json_valid(v)"
                rows |= {row - 1: f'what column "{name}" would have is no JSON' for (row,) in (yield Ask(query, long=True))}
        return RowsRejected(table, refused.message, rows, needs_others=refused.needs_others)

    def _load(self, fitted: Fitted, table: str, tail: str) -> Send:
        return Send(fitted.rows, f"LOAD DATA LOCAL INFILE {{name}} INTO TABLE {table} {FORMAT} {tail}")

    def _staged_type(self, fitted: Fitted, name: str) -> str:
        column = fitted.live[name]
        if column.kind in NUMBERS_AND_TIMES:
            return NUMBERS_AND_TIMES[column.kind]
        if not column.base:
            return f"{LONG_TEXT} CHARACTER SET utf8mb4 COLLATE {self._dialect.collation}"
        # as it is compared there
        in_key = name in fitted.load.key and bare(column.native) in ("varchar", "char")
        return column.base if in_key else LONG_TEXT + column.base.removeprefix(column.native)

    def _values(self, fitted: Fitted, given: Mapping[str, str]) -> dict[str, str]:
        """Returns the values that the table stores for given ones: defaults where a row has none."""
        values = merge.values(dialect=self._dialect, schema=self._schema, load=fitted.load, given=given, defaults=fitted.defaults)
        return dict(zip(fitted.live, values, strict=True))

    def statements(self, fitted: Fitted, source: str, given: Mapping[str, str]) -> list[str]:
        """Returns what brings rows of the temporary table into their own."""
        order = f"ORDER BY r.{_COUNTER}"
        if fitted.load.write == "append" or not self._clashes(fitted):
            return [fitted.statement(self._dialect, self._schema, f"{source} {order}", given)]
        new = f"{source} WHERE {self._is_new(fitted, given)} {order}"
        inserted = fitted.statement(self._dialect, self._schema, new, given, write="append")
        return [inserted] if fitted.load.write == "insert_only" else [self._updated(fitted, source, given), inserted]

    def _clashes(self, fitted: Fitted) -> bool:
        """Whether rows of different merge keys may share another unique key."""
        fold, columns = self._dialect.fold, fitted.table.columns
        there, key = {fold(name) for name in fitted.live}, {fold(name) for name in fitted.load.key}

        def is_harmless(other: set[str]) -> bool:
            numbered = any(columns[name].default == NUMBERED for name in other - there if name in columns)
            return numbered or other >= key

        return fitted.table.odd_keys or not all(is_harmless(set(each.columns)) for each in fitted.table.keys)

    def _is_new(self, fitted: Fitted, given: Mapping[str, str]) -> str:
        same = " AND ".join(f"s.{self._dialect.identifier(name)} = {given[name]}" for name in fitted.load.key)
        return f"NOT EXISTS (SELECT 1 FROM {self._dialect.qualified(self._schema, fitted.load.table)} AS s WHERE {same})"

    def _updated(self, fitted: Fitted, source: str, given: Mapping[str, str]) -> str:
        """Returns the statement that changes the rows which are there, by the merge's rules."""
        load, quoted = fitted.load, self._dialect.identifier
        same = " AND ".join(f"t.{quoted(name)} = {given[name]}" for name in load.key)
        newer = "TRUE"
        if load.cursor is not None:
            cursor = f"t.{quoted(load.cursor)}"
            newer = f"({cursor} IS NULL OR {cursor} <= {given[load.cursor]})"
        values = self._values(fitted, given)
        sets: list[str] = []
        for name in sorted((name for name in values if name not in load.key), key=lambda name: name == load.cursor):
            stored = f"t.{quoted(name)}"
            filled = f"IF({newer}, COALESCE({given[name]}, {stored}), COALESCE({stored}, {given[name]}))"
            if load.marked is not None:
                filled = f"COALESCE({given[name]}, {stored})"
            sets.append(f"{stored} = {filled if merge.keeps(load) else values[name]}")
        if not merge.keeps(load):
            sets += [f"t.{quoted(name)} = DEFAULT(t.{quoted(name)})" for name in fitted.others]
        if not sets:
            return "DO 0"
        where = "" if load.coalesce else f" WHERE {newer}"
        table = self._dialect.qualified(self._schema, load.table)
        return f"UPDATE {table} AS t JOIN {source} ON {same} SET {', '.join(sets)}{where}"


def _read(fitted: Fitted, given: Mapping[str, str]) -> dict[str, str]:
    """Returns given values as their columns take them: bits are not what their text is."""
    return {
        name: f"cast({value} as unsigned)" if bare(fitted.live[name].native) == "bit" else value for name, value in given.items()
    }


def _stage(number: int) -> str:
    return f"`_penstock_stage_{number}`"


def _staged(place: int) -> str:
    return f"_penstock_{place}"


def _warned(count: int) -> Steps[dict[int, str]]:
    """Returns the rows, of so many, that the last statement has warnings of."""
    rows: dict[int, str] = {}
    for _, _, message in (yield Ask("SHOW WARNINGS")):
        match = re.search(AT_ROW, message)
        if match and 0 < int(match[1]) <= count:
            rows.setdefault(int(match[1]) - 1, message)
    return rows
