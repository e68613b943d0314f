"""How a database writes what a read asks: exact texts of values, values from such texts, positions, pages. Pure.

A *position* is a tuple of values, of the cursor and the key behind it, in the order in which the database sorts them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from connector_runner.sql.tables import Column
from shared.driving.spelling import Spelling
from shared.errors import SetupError


class Dialect(Spelling, ABC):
    """The SQL of one kind of database. Holds no state."""

    @abstractmethod
    def text(self, column: Column) -> str:
        """Returns SQL for the value of a column as exact text."""

    @abstractmethod
    def value(self, column: Column, text: str) -> str:
        """Returns SQL for a value of a column from its exact text, such that the database compares it as the column's values."""

    def written(self, column: Column, text: str) -> str:
        """Returns SQL for a value of a column from its exact text.

        Raises:
            SetupError: it holds a NUL, which no statement can hold.
        """
        if "\0" in text:
            raise SetupError(f'column "{column.name}" holds a text with a NUL, so it cannot be a cursor; choose another cursor')
        return self.value(column, text)

    def beyond(self, columns: Sequence[Column], position: Sequence[str], *, same: bool = False) -> str:
        """Returns the condition that a row stands behind a position (or, `same`, at it).

        The first column is also compared alone, because servers find a range in an index by that and not by the rest.
        """
        return self._compared(columns, position, "> >=" if same else "> >")

    def up_to(self, columns: Sequence[Column], position: Sequence[str]) -> str:
        """Returns the condition that a row stands at a position or before it."""
        return self._compared(columns, position, "< <=")

    def _compared(self, columns: Sequence[Column], position: Sequence[str], signs: str) -> str:
        strict, last = signs.split()
        name, value = self.identifier(columns[0].name), self.written(columns[0], position[0])
        if len(columns) == 1:
            return f"{name} {last} {value}"
        rest = self._compared(columns[1:], position[1:], signs)
        return f"({name} {strict}= {value} AND ({name} {strict} {value} OR ({rest})))"

    def rows(self, table: str, columns: Sequence[Column], conditions: Sequence[str]) -> str:
        """Returns the statement that reads rows; `table`: as it stands behind FROM."""
        values = ", ".join(f"{each.select} AS {self.identifier(each.name)}" for each in columns)
        return f"SELECT {values} FROM {table}{_where(conditions)}"  # noqa: S608 - names and values are quoted

    def highest(self, table: str, column: Column) -> str:
        """Returns the question for the highest value of a column; no row if it has none."""
        name = self.identifier(column.name)
        return f"SELECT {self.text(column)} FROM {table} WHERE {name} IS NOT NULL ORDER BY {name} DESC LIMIT 1"  # noqa: S608 - quoted

    def page_end(self, table: str, columns: Sequence[Column], conditions: Sequence[str], rows: int) -> str:
        """Returns the question for the position that so many rows end at; no row if there are fewer."""
        texts = ", ".join(self.text(each) for each in columns)
        order = self.identifiers(each.name for each in columns)
        return f"SELECT {texts} FROM {table}{_where(conditions)} ORDER BY {order} LIMIT 1 OFFSET {rows - 1}"  # noqa: S608 - quoted

    def is_null(self, column: Column) -> str:
        """Returns the condition that a column is null."""
        return f"{self.identifier(column.name)} IS NULL"


def _where(conditions: Sequence[str]) -> str:
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""
