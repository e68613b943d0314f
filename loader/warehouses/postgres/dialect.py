"""How Postgres writes SQL, and what its catalogue says of tables. `standard_conforming_strings` is on: `connect.py` sets it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loader.sql.dialect import Dialect
from loader.sql.live import LiveColumn, LiveKey, LiveTable
from loader.sql.steps import Ask, Run, Steps
from loader.sql.text import OWN_GUARD, OWN_INDEX, owner_of
from loader.warehouses.postgres import catalogue
from loader.warehouses.postgres.errors import ERRORS
from loader.warehouses.postgres.types import TYPES, kind_of, limits_of


class Postgres(Dialect):
    """Postgres's."""

    check_now = "SET CONSTRAINTS ALL IMMEDIATE"
    ledger_storage = " WITH (fillfactor = 50)"  # a stream updates its rows many times a second: room for updates in place
    narrower = {"integer": "int32", "smallint": "int16", "real": "float32"}  # noqa: RUF012
    types = TYPES
    trouble = staticmethod(ERRORS.trouble)
    describe = staticmethod(ERRORS.describe)

    def is_type(self, native: str) -> str:
        return f"SELECT {self.literal(native)}::regtype"

    def add_key(self, schema: str, table: str, name: str, key: Sequence[str], *, has_primary: bool) -> str:
        if has_primary:
            return super().add_key(schema, table, name, key, has_primary=True)
        constraint = f"CONSTRAINT {self.identifier(name)} PRIMARY KEY ({self.identifiers(key)})"
        return f"ALTER TABLE {self.qualified(schema, table)} ADD {constraint}"

    def drop_key(self, schema: str, table: str, stale: LiveKey, key: Sequence[str]) -> str:
        if not stale.constraint:
            return super().drop_key(schema, table, stale, key)
        changes = [f"DROP CONSTRAINT {self.identifier(stale.name)}"]
        if stale.primary:
            # a primary key leaves NOT NULL behind, and rows without the old key would be refused for ever
            changes += [f"ALTER COLUMN {self.identifier(name)} DROP NOT NULL" for name in stale.columns if name not in key]
        return self.alter(schema, table, changes)

    def hold_writers(self, schema: str, table: str) -> Steps[None]:
        yield Run(f"LOCK TABLE {self.qualified(schema, table)} IN SHARE ROW EXCLUSIVE MODE")

    def make_schema(self, schema: str) -> Steps[None]:
        # asked first, because IF NOT EXISTS wants the permission even where it exists
        if not (yield Ask("SELECT FROM pg_namespace WHERE nspname = $1", (schema,))):
            yield from super().make_schema(schema)

    def lock(self, schema: str, tables: Sequence[str]) -> Steps[None]:
        yield Ask(catalogue.ADVISORY_LOCKS, ([f"{schema}.{table}" for table in tables],), long=True)

    def begin_load(self, schema: str, tables: Sequence[str], alone: Sequence[str] = ()) -> Steps[None]:
        """Begins it: eight bytes meant for a bigint would be taken for a double without a word by a column altered meanwhile."""
        names = ", ".join(self.qualified(schema, table) for table in sorted(set(tables)))
        locked = f"LOCK TABLE {names} IN ROW EXCLUSIVE MODE"
        if alone:
            # as patches do, these before the tables: else each could wait for the other
            yield Run("BEGIN")
            yield from self.lock(schema, alone)
            yield Run(locked)
        else:
            yield Run(f"BEGIN; {locked}")

    def read_columns(self, schema: str, tables: Sequence[str]) -> Steps[dict[str, LiveTable]]:
        """Returns them; COPY can write neither into a view, nor under row-level security, nor where one column's type has no
        binary form, be it a column without values."""
        found: dict[str, LiveTable] = {}
        for row in (yield Ask(catalogue.COLUMNS, (schema, list(tables)))):
            view = row["relkind"] == "v"
            table = found.setdefault(row["name"], LiveTable(view=view, deferred=row["deferred"]))
            table.bulk = table.bulk and not view and not row["guarded"] and row["received"] is not False
            if row["column"] is not None:
                table.columns[row["column"]] = self._column(row)
        return found

    def read_keys(self, schema: str, tables: Sequence[str]) -> Steps[dict[str, list[LiveKey]]]:
        found: dict[str, list[LiveKey]] = {}
        for row in (yield Ask(catalogue.KEYS, (schema, list(tables)))):
            keys = found.setdefault(row["table"], [])
            keys.append(LiveKey(row["name"], tuple(row["columns"]), row["primary"], row["constraint"]))
        return found

    def other_things(self, schema: str, tables: Sequence[str]) -> Steps[dict[str, str]]:
        return dict((yield Ask(catalogue.NOT_TABLES, (schema, list(tables)))))

    def own_keys(self, schema: str) -> Steps[list[str]]:
        return [name for (name,) in (yield Ask(catalogue.OWN_KEYS, (schema, OWN_INDEX)))]

    def guards(self, schema: str) -> Steps[list[tuple[str, str]]]:
        return [(table, name) for table, name in (yield Ask(catalogue.GUARDS, (schema, OWN_GUARD)))]

    def guard(self, schema: str, table: str, name: str, key: Sequence[str], current: str) -> str:
        where = f"{self.qualified(schema, table)} ({self.identifiers(key)}) WHERE {self.identifier(current)}"
        return f"CREATE UNIQUE INDEX {self.identifier(name)} ON {where}"

    def references(self, schema: str, tables: Sequence[str]) -> Steps[list[tuple[str, str]]]:
        return [(child, parent) for child, parent in (yield Ask(catalogue.REFERENCES, (schema, list(tables))))]

    def _column(self, row: Mapping[str, Any]) -> LiveColumn:
        plain, sequence = row["base"] or row["native"], row["sequence"]
        return LiveColumn(
            name=row["column"],
            native=row["native"],
            kind=kind_of(plain),
            limits=limits_of(plain, row["labels"] or (), row["inside"]),
            default=row["default"] if sequence is None else f"nextval({self.literal(sequence)}::regclass)",
            writable=row["writable"],
            nullable=not row["required"],
            owner=owner_of(row["comment"]),
            base=row["base"] or "",
        )


DIALECT = Postgres()
