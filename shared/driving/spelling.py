"""How SQL quotes names and texts, of every server. Pure.

Names and values come from outside, so they get into a statement only through `identifier` and `literal`, or as a parameter.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from shared.errors import Permanent


class Spelling:
    """How names and texts are quoted. Holds no state."""

    name_quote: ClassVar[str] = '"'
    """The quote around a name; inside a name it is written twice."""
    backslash_in_text: ClassVar[bool] = False
    """Whether a backslash begins an escape in a text, so that it is written twice."""
    backslash_in_names: ClassVar[bool] = False
    """The same in a quoted name."""

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
