"""The statements that bring rows into their table: plain, merged by key, or one key after the other.

Pure; names arrive raw and leave quoted. The rules of a merge are those of `TableLoad`.

Most merges bring only new keys: clients rarely repeat themselves, and the router drops most repeats. So rows first go straight
into the table. If its unique key refuses one, they are taken back and merged. Then the attempt is lost, so a table with repeats
is left alone for some loads, for longer each time. In Postgres a savepoint takes back the rows of one table; DuckDB has none, so
there a load is tried whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from loader.contract.warehouse import TableLoad
from loader.sql.dialect import Dialect

SHORTEST, LONGEST = 4, 256
"""How many loads of a table make no attempt after a failed one."""


def on_conflict(dialect: Dialect, schema: str, load: TableLoad, given: Mapping[str, str], others: Iterable[str] = ()) -> str:
    """Returns the clause behind the INSERT of a merge.

    Args:
        schema: of the table.
        load: names the table, its columns and how it is written.
        given: the expression of each value in the source.
        others: columns of the table that the rows do not have and that a replaced row must not keep.
    """

    def stored(column: str) -> str:
        return dialect.stored(schema, load.table, column)

    def incoming(column: str) -> str:
        # a null leaves the stored value as it is, whatever the default of a new row
        return given[column] if dialect.sees_source and keeps(load) else dialect.incoming(column)

    if load.write == "insert_only":
        return dialect.upsert(schema, load.table, load.key, changes={}, condition=None)
    kept = () if keeps(load) else others
    changed = [name for name in (*load.rows.column_names, *kept) if name not in load.key]
    # last: a server that sets one column after the other still needs the stored cursor for its comparison
    changed.sort(key=lambda name: name == load.cursor)
    newer = None
    if load.cursor is not None:
        newer = f"{stored(load.cursor)} IS NULL OR {stored(load.cursor)} <= {incoming(load.cursor)}"
    if load.marked is not None:
        changes = {name: f"COALESCE({incoming(name)}, {stored(name)})" for name in changed}
        return dialect.upsert(schema, load.table, load.key, changes=changes, condition=newer)
    if not load.coalesce:
        there = set(load.rows.column_names)
        changes = {name: incoming(name) if name in there else dialect.missing(schema, load.table, name) for name in changed}
        return dialect.upsert(schema, load.table, load.key, changes=changes, condition=newer)
    # an older row fills null columns, so that the order of rows matters less
    filled = "CASE WHEN {2} THEN COALESCE({1}, {0}) ELSE COALESCE({0}, {1}) END"
    changes = {name: filled.format(stored(name), incoming(name), newer or "TRUE") for name in changed}
    return dialect.upsert(schema, load.table, load.key, changes=changes, condition=None)


def keeps(load: TableLoad) -> bool:
    """Whether a null of an incoming row leaves the stored value as it is: in the `users` table, and in rows that mark a deletion."""
    return load.coalesce or load.marked is not None


def insert(
    dialect: Dialect,
    schema: str,
    load: TableLoad,
    source: str,
    given: Mapping[str, str],
    defaults: Mapping[str, str],
    others: Sequence[str] = (),
) -> str:
    """Returns the statement that brings rows from `source` into their table, with the merge's rules if it merges.

    Args:
        schema: of the table.
        load: the table, its columns and its kind of write.
        source: the text after FROM.
        given: the expression of each value in the source.
        defaults: of columns that some rows have no value for.
        others: columns that a replaced row must not keep, though the rows do not have them.
    """
    columns = dialect.identifiers(load.rows.column_names)
    chosen = ", ".join(values(dialect=dialect, schema=schema, load=load, given=given, defaults=defaults))
    statement = f"INSERT INTO {dialect.qualified(schema, load.table)} {dialect.alias} ({columns}) SELECT {chosen} FROM {source}"  # noqa: S608 - quoted
    return (
        statement if load.write == "append" else f"{statement} {on_conflict(dialect, schema, load, given=given, others=others)}"
    )


def values(dialect: Dialect, schema: str, load: TableLoad, given: Mapping[str, str], defaults: Mapping[str, str]) -> list[str]:
    """Returns the inserted expression of every column: the value, or the column's default if the row has none.

    Args:
        given: the expression of each column's value.
        defaults: the expressions of defaults, for columns in which some rows have no value.
    """
    found: list[str] = []
    for name, value in given.items():
        default = defaults.get(name)
        if default is None:
            found.append(value)
            continue
        stored = ""
        if keeps(load) and load.write == "merge" and not dialect.sees_source:
            # a stored value stays: the default is for new rows
            same = " AND ".join(f"s.{dialect.identifier(key)} = {given[key]}" for key in load.key)
            one = dialect.any_value.format(f"s.{dialect.identifier(name)}")
            stored = f"(SELECT {one} FROM {dialect.qualified(schema, load.table)} s WHERE {same}), "  # noqa: S608 - quoted
        found.append(f"coalesce({value}, {stored}{default})")
    return found


def in_turn(rows: str, key: Iterable[str], order: str) -> str:
    """Returns the text after FROM for rows with their `_penstock_turn`: 1 for the first of each key, 2 for the second.

    Args:
        rows: the relation they are in, quoted.
        key: expressions over `r`, of the types that the table compares.
        order: the expression by which rows of a key are ordered.
    """
    return f"(SELECT r.*, row_number() OVER (PARTITION BY {', '.join(key)} ORDER BY {order}) AS _penstock_turn FROM {rows} AS r) AS r"  # noqa: S608


class Straight:
    """Decides for a session's tables whether a merge is tried straight first."""

    def __init__(self) -> None:
        self._rests: dict[str, int] = {}
        self._left: dict[str, int] = {}

    def tries(self, table: str) -> bool:
        """Returns whether the next merge into a table makes the attempt; asked once for a load."""
        left = self._left.get(table, 0)
        if left:
            self._left[table] = left - 1
        return not left

    def passed(self, table: str) -> None:
        """Notes that an attempt worked."""
        self._rests.pop(table, None)
        self._left.pop(table, None)

    def met(self, table: str) -> None:
        """Notes that a key existed already."""
        rest = self._rests.get(table, SHORTEST)
        self._left[table] = rest
        self._rests[table] = min(2 * rest, LONGEST)


def has_key(keys: Iterable[Sequence[str]], wanted: Sequence[str]) -> bool:
    """Whether a unique key of the table would refuse every repeat of the wanted one."""
    return any(set(columns) <= set(wanted) for columns in keys)
