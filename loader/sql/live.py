"""Tables of a warehouse's catalogue, and their form in the core. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from loader.contract.warehouse import Column, Kind, Limits, TableSchema
from loader.sql.text import OWN_INDEX, is_constant


@dataclass(frozen=True, slots=True)
class LiveColumn:
    """A column of a live table; `name` is folded, `native` the warehouse's own type as the catalogue writes it."""

    name: str
    native: str
    kind: Kind
    limits: Limits | None = None
    default: str | None = None
    """Its expression."""
    writable: bool = True
    nullable: bool = True
    owner: str | None = None
    base: str = ""
    """The type below a domain, if it is one."""

    @property
    def plain(self) -> str:
        """The type of the values: the type below a domain, or the column's own."""
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
    keys: Sequence[LiveKey] = ()
    view: bool = False
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
        own = any(each.own for each in self.keys)
        return TableSchema({name: column.as_column() for name, column in self.columns.items()}, key, own)


def other_columns(table: LiveTable, there: Iterable[str], fixed: Iterable[str] = ()) -> list[str]:
    """Returns the columns that a replaced row must not keep: all columns not in `there`, except columns made for each row, such
    as a serial number, and columns that a merge cannot change (`fixed`)."""
    left = {*there, *fixed}
    return [
        name for name, column in table.columns.items() if name not in left and column.writable and is_constant(column.default)
    ]
