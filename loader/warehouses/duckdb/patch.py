"""Changes a DuckDB table so that a batch fits: creates, adds, widens, keeps the key. Blocking; `file.py` calls it.

The key is a unique index and not a PRIMARY KEY, because a constraint can never be dropped here, and then a changed key would need
a copied table. DuckDB refuses to change a column's type while any index exists on its table, so ours are dropped and made again in
the same transaction; somebody else's stay, and the change is refused with DuckDB's words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from loader.contract.warehouse import Column, TablePatch, TableSchema
from loader.sql.text import OWN_INDEX, identifier, identifiers, no_key, own_index, owner_of, ownership, qualified, require_key
from loader.warehouses.duckdb import statements
from loader.warehouses.duckdb.errors import describe
from loader.warehouses.duckdb.types import fold, kind_of, limits_of, native_of, survives, widening
from shared.errors import Permanent
from shared.threads import Stop

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True, slots=True)
class LiveKey:
    """A unique index or constraint."""

    name: str
    columns: tuple[str, ...]
    primary: bool

    @property
    def own(self) -> bool:
        """Whether we made it, so that we may replace it."""
        return self.name.startswith(OWN_INDEX)


def describe_table(
    connection: duckdb.DuckDBPyConnection, _: Stop, schema: str, table: str, wanted: Sequence[str] = ()
) -> TableSchema | None:
    """Returns a table as it is, names in lower case as DuckDB compares them; the key is `wanted` where there is one such."""
    rows = connection.execute(statements.COLUMNS, [schema, table]).fetchall()
    if not rows:
        return None
    columns = {
        fold(name): Column(fold(name), kind_of(native), native, limits_of(native), not generated, owner_of(comment))
        for name, native, _, _, generated, comment in rows
    }
    keys = sorted(_keys(connection, schema, table), key=lambda key: (not key.own, not key.primary, key.name))
    key = tuple(fold(name) for name in keys[0].columns) if keys else ()
    if wanted and any(_same(found.columns, wanted) for found in keys):
        key = tuple(wanted)
    return TableSchema(columns, key, any(found.own for found in keys))


def apply(connection: duckdb.DuckDBPyConnection, stop: Stop, schema: str, patch: TablePatch) -> TableSchema:
    """Makes a table fit, in one transaction; a type that DuckDB refuses to widen stays, and is named.

    Raises:
        Permanent: the table cannot be changed so; says what to do.
        the driver's errors; translated by the caller.
    """
    refused: frozenset[str] = frozenset()
    try:
        return _apply(connection, stop, schema, patch, refused)
    except Exception as error:
        if not patch.widen or type(error).__name__ not in ("CatalogException", "DependencyException", "BinderException"):
            raise
        # DuckDB has no savepoints, and says of none of them what is in its way
        connection.execute("ROLLBACK")
        refused = frozenset(column.name for column in patch.widen)
        return _apply(connection, stop, schema, replace(patch, widen=()), refused)


def _apply(
    connection: duckdb.DuckDBPyConnection, stop: Stop, schema: str, patch: TablePatch, refused: frozenset[str]
) -> TableSchema:
    connection.execute("BEGIN")
    lossy: frozenset[str] = frozenset()
    if connection.execute(statements.VIEWS, [schema, patch.table]).fetchone():
        raise Permanent(f'"{patch.table}" is a view, and DuckDB\'s views take no rows; choose another name for the table')
    live = describe_table(connection, stop, schema, patch.table)
    if live is None:
        columns = {column.name: column for column in (*patch.add, *patch.widen)}
        definitions = ", ".join(_definition(connection, column) for column in columns.values())
        connection.execute(f"CREATE TABLE {qualified(schema, patch.table)} ({definitions})")
    else:
        lossy = _alter(connection, schema, patch, live)
    there = live.columns if live else {}
    owners = ownership(schema, patch.table, [column for column in patch.add if fold(column.name) not in there])
    if owners:
        connection.execute(owners)
    if patch.primary_key is not None:
        _keep_key(connection, schema, patch.table, patch.primary_key)
    after = describe_table(connection, stop, schema, patch.table, patch.primary_key or ())
    if after is None:
        raise Permanent(f'table "{patch.table}" was made and is not there')
    stop.check()
    connection.execute("COMMIT")
    return replace(after, refused=refused | lossy)


def _alter(connection: duckdb.DuckDBPyConnection, schema: str, patch: TablePatch, live: TableSchema) -> frozenset[str]:
    """Adds and widens columns; returns those that stay as they are because a stored value would not."""
    table = qualified(schema, patch.table)
    for column in (*patch.add, *patch.widen):
        if fold(column.name) not in live.columns:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {_definition(connection, column)}")
    changes: list[str] = []
    lossy: set[str] = set()
    for column in patch.widen:
        now = live.columns.get(fold(column.name))
        if now is None or (now.kind is column.kind and now.limits is None):
            continue
        name = identifier(column.name)
        expression = widening(name, now.kind, column.kind)
        if expression is None:
            continue
        if not _survive(connection, table, survives(name, now.kind, column.kind)):
            lossy.add(column.name)
        else:
            changes.append(f"ALTER TABLE {table} ALTER COLUMN {name} TYPE {native_of(column)} USING {expression}")
    if not changes:
        return frozenset(lossy)
    own = [
        (name, sql)
        for name, sql in connection.execute(statements.INDEXES, [schema, patch.table]).fetchall()
        if name.startswith(OWN_INDEX)
    ]
    for name, _ in own:
        connection.execute(f"DROP INDEX {qualified(schema, name)}")
    for change in changes:
        connection.execute(change)
    for _, sql in own:
        connection.execute(sql)
    return frozenset(lossy)


def _survive(connection: duckdb.DuckDBPyConnection, table: str, condition: str | None) -> bool:
    """Whether the condition holds for every stored value; nobody writes to the file meanwhile."""
    if condition is None:
        return True
    query = f"SELECT count(*) FROM {table} WHERE NOT ({condition})"  # noqa: S608 - names are quoted
    return connection.execute(query).fetchall() == [(0,)]


def _keep_key(connection: duckdb.DuckDBPyConnection, schema: str, table: str, key: tuple[str, ...]) -> None:
    names = {fold(name) for name, *_ in connection.execute(statements.COLUMNS, [schema, table]).fetchall()}
    require_key(table, key, names, fold)
    keys = _keys(connection, schema, table)
    for stale in keys:
        if stale.own and not _same(stale.columns, key):
            connection.execute(f"DROP INDEX {qualified(schema, stale.name)}")
    if not key or any(_same(usable.columns, key) for usable in keys):
        return
    taken = [name for (name,) in connection.execute(statements.OWN_INDEXES, [schema, OWN_INDEX]).fetchall()]
    name = identifier(own_index(schema, table, taken))
    try:
        connection.execute(f"CREATE UNIQUE INDEX {name} ON {qualified(schema, table)} ({identifiers(key)})")
    except Exception as error:
        if type(error).__name__ != "ConstraintException":
            raise
        raise no_key(table, key, f"several rows share one value of it ({describe(error)})") from error


def _keys(connection: duckdb.DuckDBPyConnection, schema: str, table: str) -> list[LiveKey]:
    rows = connection.execute(statements.KEYS, [schema, table]).fetchall()
    return [
        LiveKey(name or "", tuple(column if plain else _unquoted(column) for column in columns), primary)
        for name, columns, plain, primary in rows
    ]


def _unquoted(expression: str) -> str:
    """Returns the name in an index's expression; DuckDB quotes those that need it."""
    if len(expression) > 1 and expression[0] == expression[-1] == '"':
        return expression[1:-1].replace('""', '"')
    return expression


def _same(one: Sequence[str], other: Sequence[str]) -> bool:
    return {fold(name) for name in one} == {fold(name) for name in other}


def _definition(connection: duckdb.DuckDBPyConnection, column: Column) -> str:
    native = native_of(column)
    if column.native is not None:
        try:
            # the type came from a person or a function: only what DuckDB reads as a type goes into DDL
            connection.execute(f"SELECT CAST(NULL AS {native})")
        except Exception as error:
            if type(error).__name__ not in ("ParserException", "CatalogException", "BinderException", "InvalidInputException"):
                raise
            raise Permanent(f'column "{column.name}": {native!r} is not a type DuckDB knows ({describe(error)})') from error
    return f"{identifier(column.name)} {native}"
