"""A connection's rules for fitting rows to a destination, prepared once from the project file and the capabilities. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from loader.contract.warehouse import Capabilities, Column, Kind, TableSchema
from loader.contract.writes import HISTORY, LOAD_ID, LOADED_AT, SEQUENCE
from loader.rows.hints import forced_types
from loader.rows.layouts.contract import TableSpec
from loader.types.names import Namer
from shared.project.model import Connection

UNMAPPED = "_unmapped_data"
OWN_COLUMNS = (UNMAPPED, LOADED_AT, SEQUENCE, LOAD_ID)
"""Names that no client's path may use in any table."""

_MESSAGE_ID = ("message_id", "messageId")


@dataclass(frozen=True, slots=True)
class Stamp:
    """The identity of one load: its time (aware) and its id."""

    loaded_at: datetime
    load_id: str


@dataclass(frozen=True, slots=True)
class Mode:
    """How rows are written that are no events. `write`: None, as the connection says. `deleted`: the column that rows have a value in
    which are deletions. `marked`: the same, where such rows stay and keep their values."""

    write: Literal["insert_only", "history"] | None = None
    deleted: str | None = None
    marked: str | None = None


AS_EVENTS = Mode()


class Rules:
    """The rules of one connection for one destination."""

    def __init__(self, connection: Connection, capabilities: Capabilities, mode: Mode = AS_EVENTS) -> None:
        self.capabilities = capabilities
        self.mode = mode
        self.namer = Namer(capabilities, connection.original_names)
        self.on_conflict = connection.on_conflict
        self.policy = connection.schema_policy
        self.discriminator = connection.discriminator
        self.system_columns = tuple(connection.system_columns)
        self.forced: Mapping[str, tuple[Kind, str]] = {
            self.namer.key(column): forced for column, forced in forced_types(connection.column_types).items()
        }
        # one column stays free for values that fit no other
        self.max_columns = min(connection.max_columns, capabilities.max_columns - 1)
        self.max_new_columns = connection.max_new_columns if capabilities.evolve else capabilities.max_columns
        self.max_tables = connection.max_tables
        self.overflow = self.namer.table(connection.overflow_table)
        self._deduplicate = connection.deduplicate
        self._primary_key = connection.primary_key

    @property
    def compared(self) -> tuple[str, ...]:
        """Returns the names of the columns by which rows are told from each other: the key of the user, and the cursor."""
        return (*(self._primary_key or ()), *((self.discriminator,) if self.discriminator else ()))

    @property
    def own_columns(self) -> tuple[str, ...]:
        """Returns the names that no client's path may use in any table."""
        return (*OWN_COLUMNS, *HISTORY) if self.mode.write == "history" else OWN_COLUMNS

    @property
    def new_tables(self) -> bool:
        """Whether a table may be created."""
        return self.policy == "evolve" or not self.capabilities.evolve

    @property
    def new_columns(self) -> bool:
        """Whether columns may be added to tables that exist."""
        return self.policy in ("evolve", "columns") or not self.capabilities.evolve

    def collapses(self, spec: TableSpec) -> bool:
        """Whether repeats inside a batch become one row."""
        return self._deduplicate or spec.entity

    def merges(self, spec: TableSpec) -> bool:
        """Whether rows are merged into the table rather than appended."""
        return self.collapses(spec) and self.capabilities.merge != "no"

    def key(self, spec: TableSpec) -> list[str]:
        """Returns the names of the columns that identify a row; `message_id` is the layout's column of that meaning."""
        if spec.entity or self._primary_key is None:
            return [spec.key]
        return [spec.key if name in _MESSAGE_ID else name for name in self._primary_key]

    def missing_versions(self, live: TableSchema | None) -> tuple[Column, ...]:
        """Returns the columns that a table lacks to keep versions; none where it is to keep none."""
        if self.mode.write != "history":
            return ()
        there = self.by_key(live)
        kinds = zip(HISTORY, (Kind.TIMESTAMP, Kind.TIMESTAMP, Kind.BOOLEAN), strict=True)
        return tuple(Column(name, kind) for name, kind in kinds if self.namer.key(name) not in there)

    def missing_mark(self, there: Iterable[str]) -> tuple[Column, ...]:
        """Returns the column of marks where it is not among columns by key: people ask for rows that have none."""
        name = self.mode.marked
        return () if name is None or self.namer.key(name) in there else (Column(name, Kind.TIMESTAMP),)

    def by_key(self, live: TableSchema | None) -> dict[str, Column]:
        """Returns the columns of a live table by the form in which the destination compares their names."""
        if live is None:
            return {}
        return {self.namer.key(name): column for name, column in live.columns.items()}

    def supported(self, kind: Kind) -> Kind:
        """Returns the kind, or text if the destination has no column of it."""
        return kind if kind in self.capabilities.kinds else Kind.TEXT
