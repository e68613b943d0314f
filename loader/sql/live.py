"""Tables of a warehouse's catalogue, and their form in the core. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from loader.contract.warehouse import Column, Kind, Limits, TableSchema
from loader.sql.text import OWN_INDEX, is_constant


@dataclass(frozen=True, slots=True)
class LiveColumn:
    """A column of a live table; `native` is the warehouse's own type as the catalogue writes it."""

    name: str
    native: str
    kind: Kind
    limits: Limits | None = None
    default: str | None = None
    """Its expression."""
    writable: bool = True
    nullable: bool = True
    owner: str | None = None
    indexed: bool = False
    """Whether it is in an index, where that keeps its type."""
    base: str = ""
    """The type that values have, where `native` is a domain, or does not say all of it."""

    @property
    def plain(self) -> str:
        """The type that values have."""
        return self.base or self.native

    def as_column(self) -> Column:
        """Returns it in the core's form."""
        return Column(
            name=self.name, kind=self.kind, native=self.native, limits=self.limits, writable=self.writable, owner=self.owner
        )


@dataclass(frozen=True, slots=True)
class LiveKey:
    """A unique index or constraint that a merge can use; `constraint` if an index belongs to one. Names are folded."""

    name: str
    columns: tuple[str, ...]
    primary: bool = False
    constraint: bool = False

    @property
    def own(self) -> bool:
        """Whether we made it; only then may we replace it."""
        return self.name.startswith(OWN_INDEX)


@dataclass(slots=True)
class LiveTable:
    """A live table, with its keys if they were asked for."""

    columns: dict[str, LiveColumn] = field(default_factory=dict)
    """By folded name."""
    keys: Sequence[LiveKey] = ()
    odd_keys: bool = False
    """Whether it also has unique keys that no merge can use, over expressions or parts of values."""
    view: bool = False
    unfit: str = ""
    """Why it takes no rows of ours, and what to do."""
    bulk: bool = True
    """Whether the bulk path can write into the table itself."""
    deferred: bool = False
    """Whether it may have constraints that are checked at COMMIT."""

    def as_schema(self, wanted: Sequence[str] | None = None, fold: Callable[[str], str] = str) -> TableSchema:
        """Returns it in the core's form; the key is `wanted` if rows can be merged on it, else ours, else any."""
        keys = [key.columns for key in sorted(self.keys, key=lambda key: (not key.own, not key.primary, key.name))]
        key = keys[0] if keys else ()
        if wanted and any(set(columns) == {fold(name) for name in wanted} for columns in keys):
            key = tuple(wanted)
        spelled = tuple(self.columns[name].name if name in self.columns else name for name in key)
        own = any(each.own for each in self.keys)
        return TableSchema({column.name: column.as_column() for column in self.columns.values()}, spelled, own)

    def stale_keys(self, wanted: Iterable[str]) -> list[LiveKey]:
        """Returns the keys that we made over other columns than `wanted`, which are folded."""
        columns = set(wanted)
        return [key for key in self.keys if key.own and set(key.columns) != columns]


def other_columns(table: LiveTable, there: Iterable[str], fixed: Iterable[str] = ()) -> list[str]:
    """Returns the columns that a replaced row must not keep: all columns not in `there`, except columns made for each row, such
    as a serial number, and columns that a merge cannot change (`fixed`)."""
    left = {*there, *fixed}
    return [
        column.name
        for name, column in table.columns.items()
        if name not in left
        and column.writable
        and is_constant(column.default)
        and (column.nullable or column.default is not None)
    ]
