"""Shapes and fits events without a destination: frames from plain dicts, live tables that take patches as a warehouse would."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from loader.contract.warehouse import Capabilities, Column, Kind, TablePatch, TableSchema
from loader.fitting.fit import Finished, FittedBatch, fit_batch
from loader.rows.batch import DeadEvent, ShapedBatch
from loader.rows.rules import Stamp
from loader.rows.shape import Shaper
from shared.events.frame import Frame, Head, RequestContext, pack
from shared.project.model import Connection

Row = dict[str, Any]

RECEIVED = datetime(2026, 9, 1, 12, 0, tzinfo=UTC)
STAMP = Stamp(datetime(2026, 9, 2, tzinfo=UTC), "load-1")
REQUEST = RequestContext(received_at=int(RECEIVED.timestamp()) * 1_000_000, protocol="segment", key="k", kind="server")


def capabilities(
    *,
    name_limit: int = 63,
    name_unit: Any = "bytes",
    merge: Any = "now",
    coalesce: bool = True,
    evolve: bool = True,
    widen: frozenset[tuple[Kind, Kind]] = frozenset(),
    kinds: frozenset[Kind] = frozenset(Kind),
    max_columns: int = 1600,
    case: Any = "keep",
) -> Capabilities:
    return Capabilities(
        name_limit=name_limit,
        name_unit=name_unit,
        transactional=True,
        merge=merge,
        coalesce=coalesce,
        stream=True,
        evolve=evolve,
        widen=widen,
        kinds=kinds,
        max_columns=max_columns,
        case=case,
    )


def frame_of(events: Sequence[Mapping[str, Any] | bytes], trusted: bool = False, first: int = 0) -> Frame:
    """Packs events; a message id that is missing is `m<number>`, a type that is missing `track`."""
    heads: list[Head] = []
    bodies: list[bytes] = []
    for number, event in enumerate(events, first):
        if isinstance(event, bytes):
            heads.append(Head(f"m{number}", "track"))
            bodies.append(event)
        else:
            heads.append(Head(event.get("messageId", f"m{number}"), event.get("type", "track"), event.get("event")))
            bodies.append(json.dumps(event).encode())
    frame = pack("shop", [REQUEST], heads, bodies)
    frame.trusted_hints = trusted
    return frame


def patched(live: TableSchema | None, patch: TablePatch) -> TableSchema:
    """Returns the table after a patch, as a destination that does all it is asked."""
    columns = dict(live.columns) if live else {}
    columns.update({column.name: column for column in (*patch.add, *patch.widen)})
    key = patch.primary_key if patch.primary_key is not None else (live.primary_key if live else ())
    return TableSchema(columns, key)


def table_of(primary_key: Sequence[str] = (), /, **kinds: Kind) -> TableSchema:
    """Returns a live table with columns of these kinds."""
    return TableSchema({name: Column(name, kind) for name, kind in kinds.items()}, tuple(primary_key))


@dataclass
class Desk:
    """A connection and the live tables of its destination."""

    options: dict[str, Any] = field(default_factory=dict)
    capabilities: Capabilities = field(default_factory=capabilities)
    live: dict[str, TableSchema | None] = field(default_factory=dict)
    seq: int = 0
    tables: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        options = {"layout": "passthrough", "deduplicate": False, **self.options}
        self.connection = Connection(site="shop", destination="wh", **options)
        self.shaper = Shaper("shop-wh", self.connection, self.capabilities, "shop", self.tables)

    def shape(self, *events: Mapping[str, Any] | bytes, trusted: bool = False) -> ShapedBatch:
        self.seq += 1
        self.shaper.add(frame_of(events, trusted), self.seq)
        return self.shaper.take()

    def fit(self, batch: ShapedBatch) -> FittedBatch:
        return fit_batch(batch, self.live, self.shaper.rules, STAMP)

    def load(self, *events: Mapping[str, Any] | bytes, trusted: bool = False) -> Loaded:
        return self.load_frame(frame_of(events, trusted))

    def load_frame(self, frame: Frame) -> Loaded:
        self.seq += 1
        self.shaper.add(frame, self.seq)
        batch = self.shaper.take()
        fitted = self.fit(batch)
        for patch in fitted.patches:
            self.live[patch.table] = patched(self.live.get(patch.table), patch)
        return Loaded(batch, fitted, fitted.finish(self.live))


@dataclass
class Loaded:
    """What became of events."""

    batch: ShapedBatch
    fitted: FittedBatch
    finished: Finished

    @property
    def dead(self) -> Sequence[DeadEvent]:
        return [*self.batch.dead, *self.finished.dead]

    @property
    def tables(self) -> dict[str, list[Row]]:
        return {ready.load.table: ready.load.rows.to_pylist() for ready in self.finished.ready}

    def rows(self, table: str = "events") -> list[Row]:
        """Returns rows without their nulls."""
        return [{key: value for key, value in row.items() if value is not None} for row in self.tables.get(table, [])]

    def column(self, name: str, table: str = "events") -> list[Any]:
        return [row[name] for row in self.tables[table]]

    def unmapped(self, table: str = "events") -> list[Any]:
        """Returns `_unmapped_data` per row, decoded."""
        return [json.loads(row["_unmapped_data"]) if row.get("_unmapped_data") else None for row in self.tables[table]]


def kinds_of(schema: TableSchema | None) -> dict[str, Kind]:
    """Returns the kinds of a table's columns."""
    assert schema is not None
    return {name: column.kind for name, column in schema.columns.items()}
