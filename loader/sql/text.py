"""Shared by all SQL warehouses: names of our own objects, owners of columns, forced types, keys, columns of ids. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Container, Iterable, Sequence
from graphlib import CycleError, TopologicalSorter

from loader.contract.warehouse import Column, TableLoad
from shared.errors import Permanent

LEDGER = "_penstock_loads"
"""The ledger: how far each lane is loaded into each table; one more row per connection, with empty table and lane, holds the epoch."""

_TYPE = r"[\w\" .]+(?:\(\d+(?:, ?\d+)?\))?(?:\[\])*"
_CONSTANT = re.compile(
    rf"(?:CAST\()?(?:'(?:[^']|'')*'|[+-]?[\d.]+|true|false|null)(?:::{_TYPE})*(?: AS {_TYPE}\))?", re.IGNORECASE
)

_ID_COLUMNS = ("message_id", "id", "messageId")

OWNER = "penstock source: "
"""The beginning of comments on columns that we made; the path follows."""

OWN_INDEX = "penstock_pk_"
"""The prefix of keys that we made; we replace only these."""

OWN_GUARD = "penstock_current_"
"""The prefix of indexes that allow one current version a key."""


def named(tables: Sequence[str]) -> str:
    """Returns the names of tables for a message."""
    others = f" and {len(tables) - 1} more" if len(tables) > 1 else ""
    return f'table "{tables[0]}"{others}' if tables else "no table"


def owner_of(comment: str | None) -> str | None:
    """Returns the path that a column was made for; None if its comment is not ours."""
    return comment.removeprefix(OWNER) if comment is not None and comment.startswith(OWNER) else None


def own_index(schema: str, table: str, taken: Iterable[str] = ()) -> str:
    """Returns a name for our key of a table, not among `taken`: a renamed table keeps its index under the old name."""
    return free_name(OWN_INDEX + hashlib.sha256(f"{schema}.{table}".encode()).hexdigest()[:8], taken)


def free_name(base: str, taken: Iterable[str]) -> str:
    """Returns `base`, with a number where it is among `taken`."""
    used = set(taken)
    number = 1
    name = base
    while name in used:
        number += 1
        name = f"{base}_{number}"
    return name


def forced_native(column: Column) -> str | None:
    """Returns the SQL type that a person or a function forced on a new column, None if there is none.

    It goes into DDL unchanged; `patch.py` first lets the server parse it as a type.

    Raises:
        Permanent: it is not the name of a type.
    """
    if column.native is None:
        return None
    if not column.native.strip() or any(part in column.native for part in (";", "--", "/*", "\0", "\n")):
        raise Permanent(f'column "{column.name}": {column.native!r} is not the name of a type')
    return column.native.strip()


def own_guard(schema: str, table: str, key: Sequence[str]) -> str:
    """Returns how the name of the guard of a table's key begins."""
    return OWN_GUARD + hashlib.sha256("\0".join((schema, table, *key)).encode()).hexdigest()[:8]


def require_key(table: str, key: Sequence[str], columns: Container[str], fold: Callable[[str], str] = str) -> None:
    """Checks that a table has the columns of its key; `fold` is how the warehouse compares names.

    Raises:
        Permanent: it lacks one.
    """
    missing = [name for name in key if fold(name) not in columns]
    if missing:
        raise Permanent(
            f'table "{table}": the key ({", ".join(key)}) needs the column {", ".join(missing)}, which the rows do not have'
        )


def no_key(table: str, key: Sequence[str], trouble: str) -> Permanent:
    """Returns the error for existing rows that cannot have this key."""
    return Permanent(
        f'table "{table}": ({", ".join(key)}) cannot become the key because {trouble}; '
        "remove those rows, choose another primary_key, or set deduplicate: false"
    )


def is_constant(default: str | None) -> bool:
    """Whether a column's default is one value for all rows (or null), not a value made for each."""
    return default is None or _CONSTANT.fullmatch(default.strip()) is not None


def by_dependency(loads: Sequence[TableLoad], references: Iterable[tuple[str, str]]) -> Sequence[TableLoad]:
    """Orders loads so that every table follows the tables that it refers to, by pairs (table, target); keeps the order within a
    circle."""
    sorter: TopologicalSorter[str] = TopologicalSorter({load.table: () for load in loads})
    for table, other in references:
        sorter.add(table, other)
    try:
        order = {table: place for place, table in enumerate(sorter.static_order())}
    except CycleError:
        return loads
    return sorted(loads, key=lambda load: order[load.table])


def id_columns_of(key: str) -> tuple[str, ...]:
    """Returns the columns that may hold message ids, best first: the connection's own, then columns of other layouts (older tables)."""
    return (key, *(column for column in _ID_COLUMNS if column != key))
