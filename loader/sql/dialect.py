"""How a warehouse writes SQL: what quotes a name and a text, which names are one, what a merge looks like.

Pure. `Dialect` is standard SQL with Postgres's ON CONFLICT, which DuckDB and SQLite speak too; a warehouse that writes something
otherwise overrides that method and no other. Names and values come from events, so nothing reaches a statement except through
`identifier` and `literal`, or as a parameter. A dialect whose server can be told to read quotes otherwise (MySQL's `sql_mode`) is
right only on connections that set that themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from shared.errors import Permanent


class Dialect:
    """Standard SQL. Holds no state; a warehouse has one."""

    name_quote: ClassVar[str] = '"'
    """Stands around a name; one inside a name is written twice."""
    backslash_in_text: ClassVar[bool] = False
    """Whether a backslash begins an escape in a text, so that one is written twice."""
    backslash_in_names: ClassVar[bool] = False
    """The same in a quoted name."""
    any_value: ClassVar[str] = "{}"
    """Makes a subquery's expression one value where the warehouse does not know that only one row can match."""

    def fold(self, name: str) -> str:
        """Returns a name as the warehouse compares names: two that fold alike are one column."""
        return name

    def identifier(self, name: str) -> str:
        """Returns a name quoted.

        Raises:
            Permanent: the name is empty or holds a NUL, which no warehouse takes.
        """
        if not name or "\0" in name:
            raise Permanent(f"{name!r} cannot be the name of a table or column")
        if self.backslash_in_names:
            name = name.replace("\\", "\\\\")
        return self.name_quote + name.replace(self.name_quote, 2 * self.name_quote) + self.name_quote

    def identifiers(self, names: Iterable[str], prefix: str = "") -> str:
        """Returns names quoted and joined by commas, each with `prefix` (such as `t.`) before it."""
        return ", ".join(prefix + self.identifier(name) for name in names)

    def qualified(self, schema: str, table: str) -> str:
        """Returns `"schema"."table"`."""
        return f"{self.identifier(schema)}.{self.identifier(table)}"

    def literal(self, text: str) -> str:
        """Returns text quoted as an SQL string; without NULs, which no text of a database holds."""
        text = text.replace("\0", "")
        if self.backslash_in_text:
            text = text.replace("\\", "\\\\")
        return "'" + text.replace("'", "''") + "'"

    def stored(self, column: str) -> str:
        """Returns a column of the row that is there, in the assignments of a merge into a table that is called `t`."""
        return f"t.{self.identifier(column)}"

    def incoming(self, column: str) -> str:
        """Returns a column of the row that comes, in the assignments of a merge."""
        return f"EXCLUDED.{self.identifier(column)}"

    def upsert(self, key: Sequence[str], changes: Mapping[str, str], condition: str | None) -> str:
        """Returns what stands behind an INSERT so that rows whose key is there change the stored ones.

        Args:
            key: the columns of a unique key.
            changes: what each column becomes, by name, the cursor's last; none: the stored row stays.
            condition: over `stored` and `incoming`; where it does not hold the stored row stays. None: it always holds.
        """
        target = f"ON CONFLICT ({self.identifiers(key)})"
        if not changes:
            return f"{target} DO NOTHING"
        sets = ", ".join(f"{self.identifier(name)} = {value}" for name, value in changes.items())
        return f"{target} DO UPDATE SET {sets}" + (f" WHERE {condition}" if condition else "")

    def comment(self, schema: str, table: str, column: str, text: str) -> str:
        """Returns the statement that stores a comment with a column."""
        return f"COMMENT ON COLUMN {self.qualified(schema, table)}.{self.identifier(column)} IS {self.literal(text)}"
