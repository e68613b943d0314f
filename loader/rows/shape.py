"""From frames to shaped batches: the entry point of the loader's pure half.

    shaper = Shaper("shop-wh", connection, destination.CAPABILITIES, "shop")      # once per connection, long-lived
    shaper.add(frame, seq, loaded)                                               # per frame, in order
    if shaper.full or ...: batch = shaper.take()                                 # ends the batch
    fitted = fit_batch(batch, live, shaper.rules, stamp)                         # loader/fitting/fit.py

An event is decoded, completed with the server's facts (`shared/events/event.py`), split by the layout (`loader/rows/layouts`) and
flattened (`loader/rows/columns.py`) before the next one is touched. Bad data never raises: it becomes an entry of `dead`. Events
that a template skips, and those of forgotten people, are counted in `dropped`.

Pure: no clock, no I/O. Not thread-safe: the frames of one connection come in order.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Container, Mapping
from types import MappingProxyType

import numpy as np

from loader.contract.warehouse import Capabilities, Kind
from loader.rows.batch import SEQUENCE_FACTOR, DeadEvent, RawTable, ShapedBatch, spread
from loader.rows.columns import Tree
from loader.rows.hints import may_hold_hints, take_hints, type_of_hint
from loader.rows.layouts import LAYOUTS
from loader.rows.layouts.contract import Event, Root, TableSpec, Whole
from loader.rows.rules import OWN_COLUMNS, Rules
from loader.rows.template import TableTemplate
from loader.types.names import Path
from shared.events import exact
from shared.events.event import RequestFacts, facts_of, materialise
from shared.events.frame import Frame, Head
from shared.events.outcome import Dead, DeadReason, Drop, DropReason
from shared.events.rescue import UNREADABLE, rescue
from shared.forget.ids import Forgotten
from shared.project.model import Connection

MOST_PATHS = 50_000
"""The number of known paths at which a batch should end; beyond it paths are forgotten between batches."""
MOST_TABLES = 2_000
HINTS_IGNORED = "type_hints_ignored"
NOTHING: Mapping[int, str] = MappingProxyType({})


class _Table:
    """A table of the present batch; outlives it because of its trees' caches."""

    __slots__ = ("hints", "name", "reserved", "root", "rows", "spec", "tree", "trees")

    def __init__(self, name: str, spec: TableSpec, rules: Rules) -> None:
        self.name = name
        self.spec = spec
        names = (*spec.reserved, *OWN_COLUMNS, *([spec.load_time] if spec.load_time else []))
        self.reserved = frozenset(rules.namer.key(name) for name in names)
        self.rows = array("i")
        self.trees: dict[Root, Tree] = {}
        self.root: Root | None = None
        self.tree: Tree
        self.hints: dict[Path, tuple[Kind, str]] = {}


class Shaper:
    """Shapes the frames of one connection.

    Args:
        tables: keys of the tables that the connection loads already; tables that events name join it, up to `max_tables`.
        forgotten: ids whose events get no rows.

    Raises:
        ConfigError: the connection's table template cannot be compiled.
    """

    def __init__(
        self,
        connection_name: str,
        connection: Connection,
        capabilities: Capabilities,
        site_name: str,
        tables: set[str] | None = None,
        forgotten: Forgotten | None = None,
    ) -> None:
        self._forgotten = forgotten
        self._known = set() if tables is None else tables
        self.rules = Rules(connection, capabilities)
        self._site = site_name
        self._layout = LAYOUTS[connection.layout](self.rules.namer)
        self._template = (
            None if connection.table is None else TableTemplate(connection.table, f"connections.{connection_name}.table")
        )
        self._forget()
        self._begin()

    @property
    def built_in(self) -> frozenset[str]:
        """Keys of the layout's own tables."""
        return self._layout.built_in

    @property
    def events(self) -> int:
        """Events added since the last `take`, whatever their fate."""
        return self._seen

    @property
    def rows(self) -> int:
        """Rows of all tables so far."""
        return sum(len(table.rows) for table in self._active.values())

    @property
    def body_bytes(self) -> int:
        """Bytes of the bodies added since the last `take`, decompressed."""
        return self._bytes

    @property
    def full(self) -> bool:
        """Whether the events have so many different keys or tables that the batch should end."""
        return len(self._active) > MOST_TABLES or self._paths() > MOST_PATHS

    def add(
        self,
        frame: Frame,
        seq: int,
        loaded: Callable[[str], int] | None = None,
        refused: Mapping[int, str] = NOTHING,
        ended: int = 0,
    ) -> None:
        """Takes the events of a frame.

        Args:
            frame: the frame whose events join the batch, in their order.
            seq: the frame's sequence in its lane.
            loaded: returns the last sequence of the lane that a table has; rows of frames up to it are left out there.
            refused: events of the frame that become dead letters unseen, by index with the reason: our own code fails on them.
            ended: as bits, events of the frame that are at their end already; they do not belong to the batch.

        Raises:
            Permanent: the frame's block or a request cannot be read. Nothing was added; the whole payload is a dead letter.
        """
        block = frame.open()
        bodies = frame.cut(block)
        facts = [facts_of(request) for request in frame.requests]
        self._frames.append((seq, frame))
        self._starts.append(len(self._indexes))
        self._seen += len(bodies) - ended.bit_count()
        self._bytes += sum(frame.sizes)
        heads = list(enumerate(frame.heads))
        if self._forgotten and (found := self._forgotten.find(frame.heads, lambda: bodies)):
            gone = {index for index in found if not ended >> index & 1}
            self._dropped[DropReason.FORGOTTEN] += len(gone)
            heads = [(index, head) for index, head in heads if index not in gone]
            refused = {index: why for index, why in refused.items() if index not in gone}
        if ended:
            heads = [(index, head) for index, head in heads if not ended >> index & 1]
            refused = {index: why for index, why in refused.items() if not ended >> index & 1}
        for index, why in refused.items():
            self._dead.append(
                DeadEvent(
                    seq=seq,
                    index=index,
                    head=frame.heads[index],
                    body=bodies[index],
                    reason=DeadReason.INTERNAL_ERROR,
                    detail=why,
                )
            )
        if refused:
            heads = [(index, head) for index, head in heads if index not in refused]
        self._add_events(
            frame=frame,
            seq=seq,
            heads=heads,
            bodies=bodies,
            facts=facts,
            loaded=loaded,
            suspects=exact.suspects(block, frame.sizes),
        )

    def clear(self) -> None:
        """Forgets all state, also of an `add` or `take` that raised."""
        self._forget()
        self._begin()

    def _add_events(
        self,
        frame: Frame,
        seq: int,
        heads: list[tuple[int, Head]],
        bodies: list[bytes],
        facts: list[RequestFacts],
        loaded: Callable[[str], int] | None,
        suspects: Container[int],
    ) -> None:
        """Adds the events of a frame. The hot loop: every call in it costs a percent."""
        place, indexes, add_shared = self._layout.place, self._indexes, self._shared.add
        chooses = self._template is not None or frame.trusted_hints
        tables: dict[str, _Table | None] = {}
        ordinal = len(indexes)
        for index, head in heads:
            body = bodies[index]
            try:
                if index in suspects:
                    event = materialise(body, head, facts[head.request], exact.decode)
                else:
                    event = materialise(body, head, facts[head.request])
            except UNREADABLE as exc:
                rescued = rescue(body=body, head=head, facts=facts[head.request], first=exc, notes=self._notes)
                if isinstance(rescued, Dead):
                    self._dead.append(
                        DeadEvent(seq=seq, index=index, head=head, body=body, reason=rescued.reason, detail=rescued.detail)
                    )
                    continue
                event = rescued
            chosen = None
            if chooses:
                choice = self._choose(event, body, frame.trusted_hints)
                if isinstance(choice, Dead):
                    self._dead.append(
                        DeadEvent(seq=seq, index=index, head=head, body=body, reason=choice.reason, detail=choice.detail)
                    )
                    continue
                if isinstance(choice, Drop):
                    self._dropped[choice.reason] += 1
                    continue
                chosen = choice
            shared, rows = place(event, chosen)
            placed = False
            for name, root, own in rows:
                table = tables[name] if name in tables else self._open(name, seq, tables, loaded)
                if table is None:
                    continue
                if own:
                    tree = table.tree if table.root is root else self._tree(table, root)
                    tree.add(own, len(table.rows))
                table.rows.append(ordinal)
                if chooses and self._hints:
                    table.hints.update(self._hints)
                placed = True
            if placed:
                if shared is not None:
                    add_shared(shared, ordinal)
                indexes.append(index)
                ordinal += 1

    def take(self) -> ShapedBatch:
        """Ends the batch and returns it; the shaper is then empty."""
        indexes = np.array(self._indexes, dtype=np.int32)
        counts = np.diff([*self._starts, len(indexes)])
        frames = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        sequences = np.array([seq for seq, _ in self._frames], dtype=np.int64)
        events = sequences[frames] * SEQUENCE_FACTOR + indexes
        active = list(self._active.values())
        rows = {table.name: np.array(table.rows, dtype=np.int32) for table in active}
        sharing = [table for table in active if table.spec.shared]
        spreads = spread(self._shared.take(), [rows[table.name] for table in sharing], len(frames))
        shared = {table.name: columns for table, columns in zip(sharing, spreads, strict=True)}
        tables: dict[str, RawTable] = {}
        for table in active:
            own = [column for tree in table.trees.values() for column in tree.take()]
            ordinals = rows[table.name]
            tables[table.name] = RawTable(
                name=table.name,
                spec=table.spec,
                events=ordinals,
                sequences=events[ordinals],
                columns=[*shared.get(table.name, []), *own],
                reserved=table.reserved,
                hints=dict(table.hints),
            )
            table.rows = array("i")
            table.hints.clear()
        batch = ShapedBatch(
            tables=tables,
            dead=self._dead,
            dropped=self._dropped,
            notes=Counter(self._notes),
            events=self._seen,
            frames=self._frames,
            event_frames=frames,
            event_indexes=indexes,
        )
        if self._paths() > MOST_PATHS or len(self._by_key) > MOST_TABLES:
            self._forget()
        self._begin()
        return batch

    def _begin(self) -> None:
        self._active: dict[str, _Table] = {}
        self._frames: list[tuple[int, Frame]] = []
        self._starts: list[int] = []
        self._indexes = array("i")
        self._dead: list[DeadEvent] = []
        self._dropped: Counter[DropReason] = Counter()
        self._notes.clear()
        self._hints: dict[Path, tuple[Kind, str]] = {}
        self._seen = 0
        self._bytes = 0

    def _forget(self) -> None:
        """Drops the memory kept between batches."""
        self._notes: Counter[str] = Counter()
        self._tables: dict[str, _Table] = {}
        self._by_key: dict[str, str] = {}
        self._shared = Tree(self._layout.shared_root, self.rules.namer, self._notes)

    def _paths(self) -> int:
        return self._shared.size + sum(tree.size for table in self._tables.values() for tree in table.trees.values())

    def _choose(self, event: Event, body: bytes, trusted: bool) -> str | Drop | Dead | None:
        """Returns the table that a function or the template chose, None for the layout's choice, or why the event has no row."""
        if self._hints:
            self._hints = {}
        if trusted and may_hold_hints(body):  # in all other frames the builder leaves such keys out wherever they are
            table = self._take_hints(event)
            if table is not None:
                return table
        if self._template is None:
            return None
        outcome = self._template.table(event, self._site)
        return self.rules.namer.table(outcome) if isinstance(outcome, str) else outcome

    def _take_hints(self, event: Event) -> str | Dead | None:
        """Takes a function's hints out of an event; returns the table it chose."""
        try:
            hints, table = take_hints(event, Whole)
        except RecursionError:
            return Dead(DeadReason.TOO_DEEP, "the event nests deeper than hints are looked for")
        for path, hint in hints.items():
            forced = type_of_hint(hint)
            if forced is None:
                self._notes[HINTS_IGNORED] += 1
            else:
                self._hints[path] = forced
        return self.rules.namer.table(table) if type(table) is str and table else None

    def _open(self, name: str, seq: int, tables: dict[str, _Table | None], loaded: Callable[[str], int] | None) -> _Table | None:
        """Returns the table for rows of the frame `seq`, None if it has them already; names that the destination takes for one share it."""
        key = self.rules.namer.key(name)
        shown = name
        if not self._admits(key):
            shown = self.rules.overflow
            key = self.rules.namer.key(shown)
        name_there = self._by_key.setdefault(key, shown)
        table: _Table | None = None
        if loaded is None or seq > loaded(name_there):
            table = self._tables.get(name_there)
            if table is None:
                table = self._tables[name_there] = _Table(name_there, self._layout.spec(name_there), self.rules)
            self._active[name_there] = table
        tables[name] = table
        return table

    def _admits(self, key: str) -> bool:
        """Returns whether a table may be loaded: the first `max_tables` that events name may."""
        if key in self._known or key in self._layout.built_in:
            return True
        if len(self._known) >= self.rules.max_tables:
            return False
        self._known.add(key)
        return True

    def _tree(self, table: _Table, root: Root) -> Tree:
        """Returns the tree for own objects of `root`, and keeps it with the table."""
        tree = table.trees.get(root)
        if tree is None:
            tree = table.trees[root] = Tree(root, self.rules.namer, self._notes)
        table.root, table.tree = root, tree
        return tree
