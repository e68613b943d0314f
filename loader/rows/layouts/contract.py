"""The contract of layouts: how one event becomes rows, as data where possible.

A layout splits an event into objects that are flattened. The *shared* object is flattened once even if several rows of the event
carry its columns (the two rows of a track); a row's *own* object belongs to that row alone. The `Root` of an object says how its
keys become columns: which keys are columns of the layout itself (`Fixed`), and which objects are lifted out of their place. All
other keys are the client's, and named by their path.

The loader's core calls `spec` once per table and `place` once per event. `place` owns the event and may take it apart. A key that
is no string marks a column that the layout makes, so no client's key can be taken for it.

One file per layout; `loader/rows/layouts/__init__.py` lists them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from loader.contract.warehouse import Kind

Event = dict[Any, Any]
"""A materialised event, see `shared/events/event.py`, or an object of it."""


class Whole(msgspec.Struct, frozen=True):
    """A value that is kept in one piece, as JSON."""

    value: Any


@dataclass(frozen=True, slots=True)
class Fixed:
    """A column of the layout itself: its name, and its type whatever its values."""

    name: str
    kind: Kind


@dataclass(frozen=True, slots=True, eq=False)
class Root:
    """How the keys of an object become columns. A layout makes each root once: roots are compared by identity.

    `path`: the object's place in the event, which is part of the identity of its columns. `lifted`: keys whose objects are named
    as if they were elsewhere: `{"properties": ()}` names `properties.total` just `total`.
    """

    path: tuple[str, ...] = ()
    fixed: Mapping[Any, Fixed] = field(default_factory=dict)
    lifted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TableSpec:
    """The particular properties of a table.

    `reserved`: names that no client's path may use here. `key`: the column that holds the messageId, the default of
    `primary_key`. `entity`: the table keeps one row per `key` whatever `deduplicate` says, and nulls do not overwrite.
    `received`: the column of the time of receipt, which stands for the order of acceptance across batches. `load_time`: the
    column for the time of loading, if the layout has one. `columns`: the columns that a table has from its beginning, values or not, in
    their order. `documents`: how the names of columns begin that hold whole objects and arrays, as JSON.
    """

    reserved: frozenset[str]
    key: str
    received: str
    shared: bool = False
    entity: bool = False
    load_time: str | None = None
    columns: tuple[Fixed, ...] = ()
    documents: tuple[str, ...] = ()


Rows = Sequence[tuple[str, Root, Event | None]]
"""(table, root of the own object, own object) per row of an event; no table twice."""


class Layout(Protocol):
    """The rules of one layout, for one connection."""

    shared_root: Root
    built_in: frozenset[str]
    """The keys of the layout's own tables; events name all others."""

    def spec(self, table: str) -> TableSpec:
        """Returns the particular properties of a table that `place` has named."""
        ...

    def place(self, event: Event, table: str | None) -> tuple[Event | None, Rows]:
        """Returns the shared object and the rows of an event.

        `table` comes from the connection's template or from a function and replaces the layout's choice.
        """
        ...
