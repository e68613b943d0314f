"""The rows of a load where only its transaction sees them, and the names of their key in tables of ours. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loader.contract.warehouse import TableLoad
from loader.sql.dialect import Dialect

if TYPE_CHECKING:
    from loader.sql.load import Fitted


@dataclass(frozen=True, slots=True)
class Staged:
    """Rows of a load where only its transaction sees them.

    `relation`: quoted. `given`: the expression of each column over `r`, in the type by which the table compares it. `number`: the
    expression of a row's number, from 1 in the order of the load. `sent`: bytes.
    """

    relation: str
    given: Mapping[str, str]
    number: str
    sent: int


@dataclass(frozen=True, slots=True)
class Keys:
    """The key of a load in tables of ours, where it has names without quotes: `k0`, `k1` and so on."""

    dialect: Dialect
    columns: Sequence[str]
    natives: Sequence[str]

    @classmethod
    def of(cls, dialect: Dialect, fitted: Fitted) -> Keys:
        """Returns the key of a load."""
        return cls(dialect, fitted.load.key, [fitted.live[name].plain for name in fitted.load.key])

    @property
    def names(self) -> list[str]:
        """Its columns."""
        return [f"k{place}" for place in range(len(self.columns))]

    @property
    def types(self) -> dict[str, str]:
        """The native types of its columns."""
        return dict(zip(self.names, self.natives, strict=True))

    def list(self, prefix: str = "") -> str:
        """Returns its columns of one of our tables, joined by commas."""
        return ", ".join(prefix + name for name in self.names)

    def stored(self) -> str:
        """Returns its columns of the table, which is called `t`, under our names."""
        return ", ".join(
            f"t.{self.dialect.identifier(name)} AS {ours}" for name, ours in zip(self.columns, self.names, strict=True)
        )

    def given(self, given: Mapping[str, str]) -> str:
        """Returns its columns of staged rows under our names."""
        return ", ".join(f"{given[name]} AS {ours}" for name, ours in zip(self.columns, self.names, strict=True))

    def matches(self, alias: str) -> str:
        """Returns the condition under which a row of the table, `t`, has the key of one of our rows."""
        pairs = zip(self.columns, self.names, strict=True)
        return " AND ".join(f"t.{self.dialect.identifier(name)} = {alias}.{ours}" for name, ours in pairs)

    def alike(self, one: str, other: str) -> str:
        """Returns the condition under which rows of two of our tables have the same key."""
        return " AND ".join(f"{one}.{name} = {other}.{name}" for name in self.names)


def gone(load: TableLoad, given: Mapping[str, str]) -> str:
    """Returns 1 for a staged row that is a deletion, 0 for another."""
    if load.deleted is None or load.deleted not in given:
        return "0"
    return f"CASE WHEN {given[load.deleted]} IS NULL THEN 0 ELSE 1 END"


def nulls_first(expression: str) -> str:
    """Returns what rows are ordered by so that nulls are the oldest, in any warehouse."""
    return f"CASE WHEN {expression} IS NULL THEN 0 ELSE 1 END, {expression}"
