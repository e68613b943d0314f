"""Changes a DuckDB table so that a batch fits: creates, adds, widens, keeps the key. Blocking; `file.py` calls it.

The key is a unique index and not a PRIMARY KEY, because a constraint can never be dropped here, and then a changed key would need
a copied table. DuckDB refuses to change a column's type while any index exists on its table, so ours are dropped and made again in
the same transaction; somebody else's stay, and the change is refused with DuckDB's words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from loader.contract.warehouse import Column, TablePatch, TableSchema
from loader.sql.text import OWN_INDEX, no_key, own_index, owner_of, ownership, require_key
from loader.warehouses.duckdb import statements
from loader.warehouses.duckdb.dialect import DIALECT
from loader.warehouses.duckdb.errors import describe
from loader.warehouses.duckdb.types import kind_of, limits_of, native_of, survives, widening
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


def describe_tables(
    connection: duckdb.DuckDBPyConnection, _: Stop, schema: str, tables: Mapping[str, Sequence[str]]
) -> dict[str, TableSchema | None]:
    """Returns tables as they are, names in lower case as DuckDB compares them; None for those that are not there.

    `tables`: for each the key that rows are merged on; it is given back as it is where the table has it.
    """
    columns: dict[str, dict[str, Column]] = {}
    for table, name, native, _, _, generated, comment in connection.execute(
        statements.COLUMNS, [schema, list(tables)]
    ).fetchall():
        column = Column(DIALECT.fold(name), kind_of(native), native, limits_of(native), not generated, owner_of(comment))
        columns.setdefault(table, {})[DIALECT.fold(name)] = column
    keys = read_keys(connection, schema, list(columns)) if columns else {}
    found: dict[str, TableSchema | None] = {}
    for table, wanted in tables.items():
        usable = sorted(keys.get(table, ()), key=lambda key: (not key.own, not key.primary, key.name))
        key = tuple(DIALECT.fold(name) for name in usable[0].columns) if usable else ()
        if wanted and any(_same(each.columns, wanted) for each in usable):
            key = tuple(wanted)
        there = columns.get(table)
        found[table] = None if there is None else TableSchema(there, key, any(each.own for each in usable))
    return found


def create(
    connection: duckdb.DuckDBPyConnection, stop: Stop, schema: str, patches: Sequence[TablePatch]
) -> dict[str, TableSchema]:
    """Creates new tables in one transaction; leaves out those whose name is taken.

    Raises:
        Permanent: one of them cannot be created so.
        the driver's errors; translated by the caller.
    """
    keys = {patch.table: patch.primary_key or () for patch in patches}
    connection.execute("BEGIN")
    there = {name for name, live in describe_tables(connection, stop, schema, keys).items() if live is not None}
    there |= {name for (name,) in connection.execute(statements.VIEWS, [schema, list(keys)]).fetchall()}
    wanted = [patch for patch in patches if patch.table not in there]
    taken = _taken(connection, schema)
    for patch in wanted:
        stop.check()
        _create(connection, schema, patch)
        if patch.primary_key:
            require_key(patch.table, patch.primary_key, {DIALECT.fold(column.name) for column in patch.add}, DIALECT.fold)
            taken.append(_make_key(connection, schema, patch.table, patch.primary_key, taken))
    made = describe_tables(connection, stop, schema, {patch.table: keys[patch.table] for patch in wanted})
    stop.check()
    connection.execute("COMMIT")
    return {name: live for name, live in made.items() if live is not None}


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
    if connection.execute(statements.VIEWS, [schema, [patch.table]]).fetchone():
        raise Permanent(f'"{patch.table}" is a view, and DuckDB\'s views take no rows; choose another name for the table')
    live = describe_tables(connection, stop, schema, {patch.table: ()})[patch.table]
    if live is None:
        _create(connection, schema, patch)
    else:
        lossy = _alter(connection, schema, patch, live)
        owners = ownership(
            DIALECT, schema, patch.table, [column for column in patch.add if DIALECT.fold(column.name) not in live.columns]
        )
        if owners:
            connection.execute(owners)
    if patch.primary_key is not None:
        _keep_key(connection, schema, patch.table, patch.primary_key)
    after = describe_tables(connection, stop, schema, {patch.table: patch.primary_key or ()})[patch.table]
    if after is None:
        raise Permanent(f'table "{patch.table}" was made and is not there')
    stop.check()
    connection.execute("COMMIT")
    return replace(after, refused=refused | lossy)


def _create(connection: duckdb.DuckDBPyConnection, schema: str, patch: TablePatch) -> None:
    columns = {column.name: column for column in (*patch.add, *patch.widen)}
    definitions = ", ".join(_definition(connection, column) for column in columns.values())
    owners = ownership(DIALECT, schema, patch.table, patch.add)
    connection.execute(f"CREATE TABLE {DIALECT.qualified(schema, patch.table)} ({definitions}); {owners}")


def _alter(connection: duckdb.DuckDBPyConnection, schema: str, patch: TablePatch, live: TableSchema) -> frozenset[str]:
    """Adds and widens columns; returns those that stay as they are because a stored value would not."""
    table = DIALECT.qualified(schema, patch.table)
    for column in (*patch.add, *patch.widen):
        if DIALECT.fold(column.name) not in live.columns:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {_definition(connection, column)}")
    changes: list[str] = []
    lossy: set[str] = set()
    for column in patch.widen:
        now = live.columns.get(DIALECT.fold(column.name))
        if now is None or (now.kind is column.kind and now.limits is None):
            continue
        name = DIALECT.identifier(column.name)
        expression = widening(name, now.kind, column.kind)
        if expression is None:
            continue
        if not _survive(connection, table, survives(name, now.kind, column.kind, now.native or "")):
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
        connection.execute(f"DROP INDEX {DIALECT.qualified(schema, name)}")
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
    names = {DIALECT.fold(name) for _, name, *_ in connection.execute(statements.COLUMNS, [schema, [table]]).fetchall()}
    require_key(table, key, names, DIALECT.fold)
    keys = read_keys(connection, schema, [table]).get(table, [])
    for stale in keys:
        if stale.own and not _same(stale.columns, key):
            connection.execute(f"DROP INDEX {DIALECT.qualified(schema, stale.name)}")
    if not key or any(_same(usable.columns, key) for usable in keys):
        return
    _make_key(connection, schema, table, key, _taken(connection, schema))


def _taken(connection: duckdb.DuckDBPyConnection, schema: str) -> list[str]:
    return [name for (name,) in connection.execute(statements.OWN_INDEXES, [schema, OWN_INDEX]).fetchall()]


def _make_key(connection: duckdb.DuckDBPyConnection, schema: str, table: str, key: Sequence[str], taken: Sequence[str]) -> str:
    """Returns the name of the index that it made."""
    name = own_index(schema, table, taken)
    try:
        connection.execute(
            f"CREATE UNIQUE INDEX {DIALECT.identifier(name)} ON {DIALECT.qualified(schema, table)} ({DIALECT.identifiers(key)})"
        )
    except Exception as error:
        if type(error).__name__ != "ConstraintException":
            raise
        raise no_key(table, key, f"several rows share one value of it ({describe(error)})") from error
    return name


def read_keys(connection: duckdb.DuckDBPyConnection, schema: str, tables: Sequence[str]) -> dict[str, list[LiveKey]]:
    """Returns the unique indexes and constraints of tables."""
    keys: dict[str, list[LiveKey]] = {}
    for table, name, columns, plain, primary in connection.execute(statements.KEYS, [schema, list(tables)]).fetchall():
        names = tuple(column if plain else _unquoted(column) for column in columns)
        keys.setdefault(table, []).append(LiveKey(name or "", names, primary))
    return keys


def _unquoted(expression: str) -> str:
    """Returns the name in an index's expression; DuckDB quotes those that need it."""
    if len(expression) > 1 and expression[0] == expression[-1] == '"':
        return expression[1:-1].replace('""', '"')
    return expression


def _same(one: Sequence[str], other: Sequence[str]) -> bool:
    return {DIALECT.fold(name) for name in one} == {DIALECT.fold(name) for name in other}


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
    return f"{DIALECT.identifier(column.name)} {native}"
