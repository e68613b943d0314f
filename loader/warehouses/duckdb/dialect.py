"""How DuckDB writes SQL, and what its catalogue says of tables. Names are compared without regard to case.

The key is a unique index and not a PRIMARY KEY, because a constraint can never be dropped here, and then a changed key would need
a copied table. DuckDB refuses to change a column's type while any index exists on its table, so ours are dropped and made again
in the same transaction; indexes of others stay, and the change is refused with DuckDB's words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from loader.sql.dialect import Dialect
from loader.sql.live import LiveColumn, LiveKey, LiveTable
from loader.sql.steps import Ask, Run, Steps
from loader.sql.text import OWN_GUARD, OWN_INDEX, owner_of
from loader.types.names import lower_ascii
from loader.warehouses.duckdb import catalogue, errors
from loader.warehouses.duckdb.types import TYPES, kind_of, limits_of
from shared.driving.duckdb import describe

_OWN = (OWN_INDEX, OWN_GUARD)


class DuckDB(Dialect):
    """DuckDB's."""

    any_value = "any_value({})"
    lock_rows = ""  # no other process can write while a transaction of ours is open
    undo = "transaction"
    product = "DuckDB"
    types = TYPES
    trouble = staticmethod(errors.trouble)
    describe = staticmethod(describe)

    def fold(self, name: str) -> str:
        """Returns a name as DuckDB compares names: without regard to case, of ASCII letters only."""
        return lower_ascii(name)

    def alter(self, schema: str, table: str, changes: Iterable[str]) -> str:
        return "; ".join(super(DuckDB, self).alter(schema, table, [change]) for change in changes)

    def read_columns(self, schema: str, tables: Sequence[str]) -> Steps[dict[str, LiveTable]]:
        found: dict[str, LiveTable] = {}
        rows = yield Ask(catalogue.COLUMNS, (schema, list(tables)))
        for table, name, native, nullable, default, generated, comment in rows:
            column = LiveColumn(
                name=self.fold(name),
                native=native,
                kind=kind_of(native),
                limits=limits_of(native),
                default=default,
                writable=not generated,
                nullable=nullable,
                owner=owner_of(comment),
            )
            found.setdefault(table, LiveTable()).columns[column.name] = column
        return found

    def read_keys(self, schema: str, tables: Sequence[str]) -> Steps[dict[str, list[LiveKey]]]:
        keys: dict[str, list[LiveKey]] = {}
        for table, name, columns, plain, primary in (yield Ask(catalogue.KEYS, (schema, list(tables)))):
            names = tuple(self.fold(column if plain else _unquoted(column)) for column in columns)
            keys.setdefault(table, []).append(LiveKey(name or "", names, primary))
        return keys

    def fixed_columns(self, schema: str, tables: Sequence[str]) -> Steps[dict[str, set[str]]]:
        fixed: dict[str, set[str]] = {}
        for table, text in (yield Ask(catalogue.INDEXED, (schema, list(tables)))):
            fixed.setdefault(table, set()).add(self.fold(text).strip('"'))
        return fixed

    def other_things(self, schema: str, tables: Sequence[str]) -> Steps[dict[str, str]]:
        return {name: "a view" for (name,) in (yield Ask(catalogue.VIEWS, (schema, list(tables))))}

    def own_keys(self, schema: str) -> Steps[list[str]]:
        return [name for (name,) in (yield Ask(catalogue.OWN_KEYS, (schema, OWN_INDEX)))]

    def aside(self, name: str) -> str:
        return f"temp.main.{self.identifier(name)}"

    def keep(self, name: str, query: str, key: Mapping[str, str]) -> Steps[None]:  # noqa: ARG002
        yield Run(f"CREATE OR REPLACE TEMPORARY TABLE {self.aside(name)} AS {query}")

    def forget(self, name: str) -> Steps[None]:
        yield Run(f"DROP TABLE {self.aside(name)}")

    def guards(self, schema: str) -> Steps[list[tuple[str, str]]]:
        return [(table, name) for table, name in (yield Ask(catalogue.GUARDS, (schema, OWN_GUARD)))]

    def guard(self, schema: str, table: str, name: str, key: Sequence[str], current: str) -> str:
        # an index has no condition here, but nulls are never alike
        only = f"(CASE WHEN {self.identifier(current)} THEN TRUE END)"
        return f"CREATE UNIQUE INDEX {self.identifier(name)} ON {self.qualified(schema, table)} ({self.identifiers(key)}, {only})"

    def references(self, schema: str, tables: Sequence[str]) -> Steps[list[tuple[str, str]]]:
        pairs = yield Ask(catalogue.REFERENCES, (schema,))
        return [pair for pair in pairs if set(tables).issuperset(pair)]

    def in_the_way(self, schema: str, table: str) -> Steps[tuple[list[str], list[str]]]:
        own = [(name, sql) for name, sql in (yield Ask(catalogue.INDEXES, (schema, table))) if name.startswith(_OWN)]
        return [f"DROP INDEX {self.qualified(schema, name)}" for name, _ in own], [sql for _, sql in own]


def _unquoted(expression: str) -> str:
    """Returns the name in an index's expression; DuckDB quotes the names that need it."""
    if len(expression) > 1 and expression[0] == expression[-1] == '"':
        return expression[1:-1].replace('""', '"')
    return expression


DIALECT = DuckDB()
