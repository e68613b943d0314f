"""SQL as MySQL and MariaDB write it: backquotes, backslashes, ON DUPLICATE KEY UPDATE.

Text is right only under the `sql_mode` that `connect.py` sets: with NO_BACKSLASH_ESCAPES a backslash would be a character.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

from loader.sql.dialect import Dialect
from loader.types.names import lower
from shared.errors import Permanent

LONGEST_COMMENT = 1024

UNFIT = "[ \t-\r]\\Z|[\U00010000-\U0010ffff]"
"""What the servers take in no name: a blank or the end of a line at its end, and characters beyond the first plane."""

TABLE_LIMIT = 50
"""Characters of a table's name, each of which takes five bytes of the name of its file, which has 255 with its ending:
https://dev.mysql.com/doc/refman/8.4/en/identifier-mapping.html"""


class MySQL(Dialect):
    """Both servers' SQL."""

    name_quote: ClassVar[str] = "`"
    backslash_in_text: ClassVar[bool] = True

    def fold(self, name: str) -> str:
        """Returns a column's name as the servers compare it: without regard to case."""
        return lower(name)

    def identifier(self, name: str) -> str:
        """Returns a name quoted.

        Raises:
            Permanent: the servers take no such name.
        """
        if re.search(UNFIT, name):
            raise Permanent(f"{name!r} cannot be the name of a table or column: it ends in a blank or holds a rare character")
        return super().identifier(name)

    def comment(self, schema: str, table: str, column: str, text: str) -> str:  # noqa: ARG002 - it stands in a definition
        """Returns the clause of a column's definition that stores a comment with it; empty where there is no room for it."""
        return f"COMMENT {self.literal(text)}" if len(text) <= LONGEST_COMMENT else ""


class Into(MySQL):
    """The assignments of a merge into one table, which ON DUPLICATE KEY UPDATE knows by its own name only."""

    def __init__(self, schema: str, table: str, incoming: Mapping[str, str] | None, others: Sequence[str]) -> None:
        self._table = self.qualified(schema, table)
        self._incoming = incoming or {}
        self._others = frozenset(others)

    def stored(self, column: str) -> str:
        """Returns a column of the row that is there."""
        return f"{self._table}.{self.identifier(column)}"

    def incoming(self, column: str) -> str:
        """Returns a column of the row that comes: what would be inserted, or what the caller said instead."""
        if column in self._others:
            return f"DEFAULT({self.stored(column)})"
        return self._incoming.get(column) or f"VALUES({self.identifier(column)})"

    def upsert(self, key: Sequence[str], changes: Mapping[str, str], condition: str | None) -> str:
        """Returns the clause; with a condition each assignment has it, the cursor's, which it asks, last."""
        if not changes:
            column = self.identifier(key[0])
            return f"ON DUPLICATE KEY UPDATE {column} = {self.stored(key[0])}"
        assigned = {
            name: value if condition is None else f"IF({condition}, {value}, {self.stored(name)})"
            for name, value in changes.items()
        }
        return "ON DUPLICATE KEY UPDATE " + ", ".join(f"{self.identifier(name)} = {value}" for name, value in assigned.items())


SQL = MySQL()
