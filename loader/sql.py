"""SQL text that all SQL warehouses write alike: quoted names, quoted text, the ledger's name, the names of our own indexes.

Pure. Names and values come from events, so nothing reaches a statement except through `identifier` and `literal`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from shared.errors import Permanent

LEDGER = "_penstock_loads"
"""Which part of each lane is loaded into which table; one more row per connection, with empty table and lane, holds the epoch."""

OWN_INDEX = "penstock_pk_"
"""Prefix of keys we made; only those are ever replaced."""


def identifier(name: str) -> str:
    """Returns a name quoted for SQL.

    Raises:
        Permanent: the name is empty or holds a NUL, which no warehouse takes.
    """
    if not name or "\0" in name:
        raise Permanent(f"{name!r} cannot be the name of a table or column")
    return '"' + name.replace('"', '""') + '"'


def identifiers(names: Iterable[str], prefix: str = "") -> str:
    """Returns names quoted and joined by commas, each with `prefix` (such as `t.`) before it."""
    return ", ".join(prefix + identifier(name) for name in names)


def qualified(schema: str, table: str) -> str:
    """Returns `"schema"."table"`."""
    return f"{identifier(schema)}.{identifier(table)}"


def literal(text: str) -> str:
    """Returns text quoted as an SQL string (standard_conforming_strings, which every supported server has on)."""
    return "'" + text.replace("\0", "").replace("'", "''") + "'"


def own_index(schema: str, table: str, taken: Iterable[str] = ()) -> str:
    """Returns a name for our key of a table, not among `taken`: a renamed table keeps its index and the name with it."""
    base = OWN_INDEX + hashlib.sha256(f"{schema}.{table}".encode()).hexdigest()[:8]
    used = set(taken)
    number = 1
    name = base
    while name in used:
        number += 1
        name = f"{base}_{number}"
    return name
