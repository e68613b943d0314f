"""The columnar builder: objects in, one run of Arrow arrays per path out.

A `Tree` mirrors the objects: a node per object, a leaf per value that ever came. The source path identifies a column; names are
settled later, per batch (`loader/fitting/claims.py`). A leaf keeps values by kind with their rows, so a sparse column costs only
its present values, and a mixed one never needs a Python loop to convert.

Most objects of one place have the same keys in the same order. Such a *shape* is kept as one flat list of values, extended in C,
and cut into columns when the window is full; objects with rarer keys go the long way, value by value. Windows are short: values
become Arrow while they are still in the cache, and no dict outlives its event, so the garbage collector stays idle (measured:
bench/loading/shape.py).

Nulls, empty objects and hints (`loader/rows/hints.py`) are left out. Arrays, and objects deeper than `MAX_DEPTH`, are JSON text.
`loader/rows/runs.py` turns values into Arrow arrays.

Pure. The caller bounds a chunk's bytes and drops a tree that grew too large (`Tree.size`).
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from loader.contract.warehouse import Kind
from loader.rows.hints import HINTS_LEFT_OUT, is_hint
from loader.rows.layouts.contract import Event, Fixed, Root
from loader.rows.runs import Rows, runs_of, text_run, times_of
from loader.types.names import Namer, Path

WINDOW_ROWS = 512
WINDOW_KEYS = 20_000
"""A window ends early after so many new keys: objects that are unlike each other on purpose must not fill the memory."""
MAX_SHAPES = 64
MAX_SHAPE_KEYS = 512
FEW_ROWS = 24
"""Making an Arrow array costs as much as this many values going the long way."""
MAX_DEPTH = 256
"""Below Python's recursion limit with room for the caller, above every site's limit."""


@dataclass(frozen=True, slots=True)
class Part:
    """Values of one kind of one column: `rows[i]` is the row of `values[i]`; every row at most once, in no order."""

    kind: Kind
    rows: Rows
    values: pa.Array


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """The source of values: the identity of a column before it has a name.

    `name` is the folded path; `suffixed` is the column's name if another path has that name. `fixed` is set for columns of the
    layout. The destination compares names by `key`. `exact`: the keys of the path are spelled like the name.
    """

    path: Path
    name: str
    key: str
    suffixed: str
    fixed: Fixed | None = None
    exact: bool = False


class _Leaf:
    __slots__ = ("parts", "source")

    def __init__(self, source: Source) -> None:
        self.source = source
        self.parts: dict[Kind, tuple[list[Rows], list[pa.Array]]] = {}

    @property
    def timed(self) -> bool:
        """Whether this is one of an event's own times."""
        return self.source.fixed is not None and self.source.fixed.kind is Kind.TIMESTAMP

    def push(self, kind: Kind, rows: Rows, run: pa.Array) -> None:
        kept = self.parts.get(kind)
        if kept is None:
            self.parts[kind] = ([rows], [run])
        else:
            kept[0].append(rows)
            kept[1].append(run)


class _Shape:
    __slots__ = ("flat", "keys", "nested", "rows", "texts")

    def __init__(self, keys: tuple[Any, ...], nested: tuple[tuple[int, _Node], ...]) -> None:
        self.keys = keys
        self.nested = nested
        self.rows = array("i")
        self.flat: list[Any] = []
        self.texts: list[_Leaf | None] = [None] * len(keys)
        """The leaves of keys that held only text so far."""


_NO_SHAPE = _Shape((object(),), ())
"""Equal to the keys of no object."""


class _Node:
    __slots__ = ("children", "depth", "exact", "fixed", "last", "leaves", "lifted", "loose", "names", "path", "shapes")

    def __init__(self, path: Path, names: tuple[str, ...], depth: int, exact: bool = True) -> None:
        self.path = path
        self.names = names
        self.depth = depth
        self.exact = exact
        self.shapes: dict[tuple[Any, ...], _Shape] = {}
        self.last = _NO_SHAPE
        self.loose: dict[Any, tuple[list[Any], array[int]]] = {}
        self.children: dict[Any, _Node] = {}
        self.leaves: dict[Any, _Leaf] = {}
        self.fixed: dict[Any, Fixed] = {}
        self.lifted: dict[Any, tuple[str, ...]] = {}


class Tree:
    """Builds the columns of objects of one root. Rows are numbered by the caller, each at most once per batch."""

    def __init__(self, root: Root, namer: Namer, notes: Counter[str]) -> None:
        self._root = _Node(root.path, (), 0)
        self._root.fixed = dict(root.fixed)
        self._root.lifted = dict(root.lifted)
        self._namer = namer
        self._notes = notes
        self._leaves: list[_Leaf] = []
        self._open = 0
        self.size = 0
        """How many keys the tree remembers, at all places: its cost between batches."""
        self._seal_at = WINDOW_KEYS

    def add(self, mapping: Event, row: int) -> None:
        """Takes the values of an object; does not change the object."""
        self._add(self._root, mapping, row)
        self._open += 1
        if self._open >= WINDOW_ROWS or self.size >= self._seal_at:
            self._seal()

    def take(self) -> list[tuple[Source, tuple[Part, ...]]]:
        """Ends the batch: returns the columns with values, in the order of their first value."""
        self._seal()
        columns: list[tuple[Source, tuple[Part, ...]]] = []
        for leaf in self._leaves:
            if leaf.parts:
                parts = tuple(
                    Part(kind, _joined(rows), values[0] if len(values) == 1 else pa.concat_arrays(values))
                    for kind, (rows, values) in leaf.parts.items()
                )
                columns.append((leaf.source, parts))
                leaf.parts = {}
        return columns

    def _add(self, node: _Node, mapping: Event, row: int) -> None:
        keys = tuple(mapping)
        shape = node.last
        if shape.keys != keys:
            known = node.shapes.get(keys) or self._shape(node, mapping, keys)
            if known is None:
                self._add_loose(node, mapping, row)
                return
            shape = node.last = known
        shape.rows.append(row)
        flat = shape.flat
        start = len(flat)
        flat += mapping.values()
        for position, child in shape.nested:
            value = flat[start + position]
            if type(value) is dict:
                flat[start + position] = None
                self._add(child, value, row)

    def _shape(self, node: _Node, mapping: Event, keys: tuple[Any, ...]) -> _Shape | None:
        """Returns a new shape, None if there are too many shapes or it is too wide."""
        if len(node.shapes) >= MAX_SHAPES or len(keys) > MAX_SHAPE_KEYS:
            return None
        self.size += len(keys)
        objects = [(position, key) for position, (key, value) in enumerate(mapping.items()) if type(value) is dict]
        nested = [(position, self._child(node, key)) for position, key in objects]
        shape = node.shapes[keys] = _Shape(keys, tuple((position, child) for position, child in nested if child is not None))
        return shape

    def _add_loose(self, node: _Node, mapping: Event, row: int) -> None:
        loose = node.loose
        for key, value in mapping.items():
            if type(value) is dict:
                child = self._child(node, key)
                if child is not None:
                    self._add(child, value, row)
                    continue
            if value is not None:
                column = loose.get(key)
                if column is None:
                    column = loose[key] = ([], array("i"))
                    self.size += 1
                column[0].append(value)
                column[1].append(row)

    def _child(self, node: _Node, key: Any) -> _Node | None:
        """Returns the node of a nested object, None if it is kept in one piece or not at all."""
        child = node.children.get(key)
        if child is None and node.depth < MAX_DEPTH and not is_hint(key):
            self.size += 1
            names, exact = self._names_below(node, key), self._exact(node, key)
            child = node.children[key] = _Node((*node.path, str(key)), names, node.depth + 1, exact)
        return child

    def _names_below(self, node: _Node, key: Any) -> tuple[str, ...]:
        if key in node.lifted:
            return tuple(self._namer.part(part) for part in node.lifted[key])
        fixed = node.fixed.get(key)
        return (*node.names, fixed.name if fixed else self._namer.part(str(key)))

    def _exact(self, node: _Node, key: Any) -> bool:
        return node.exact and (key in node.lifted or self._namer.part(str(key)) == key)

    def _seal(self) -> None:
        """Turns the window into Arrow."""
        self._open = 0
        self._seal_at = self.size + WINDOW_KEYS
        waiting = [self._root]
        while waiting:
            node = waiting.pop()
            self._seal_node(node)
            waiting.extend(node.children.values())

    def _seal_node(self, node: _Node) -> None:
        for shape in node.shapes.values():
            count = len(shape.rows)
            if count:
                self._seal_shape(node, shape, pour=count < FEW_ROWS)
        if len(node.shapes) >= MAX_SHAPES:
            # most objects may have the new shape from now on
            self.size -= sum(len(keys) for keys in node.shapes)
            node.shapes.clear()
            node.last = _NO_SHAPE
        if node.loose:
            loose, node.loose = node.loose, {}
            self.size -= len(loose)
            for key, (values, rows) in loose.items():
                self._seal_column(node=node, key=key, rows=np.frombuffer(rows, dtype=np.int32), values=values, shape=None)

    def _seal_shape(self, node: _Node, shape: _Shape, pour: bool) -> None:
        """Cuts a shape into columns; if that makes many short runs, `pour` first collects them as loose values."""
        numbers, flat, width = shape.rows, shape.flat, len(shape.keys)
        shape.rows, shape.flat = array("i"), []
        rows = np.frombuffer(numbers, dtype=np.int32)
        for position, key in enumerate(shape.keys):
            values = flat[position::width]
            if pour:
                column = node.loose.get(key)
                if column is None:
                    column = node.loose[key] = ([], array("i"))
                    self.size += 1
                column[0].extend(values)
                column[1].extend(numbers)
                continue
            leaf = shape.texts[position]
            if leaf is not None:
                run = text_run(values)
                if run is not None:
                    leaf.push(Kind.TEXT, rows, run)
                    continue
            only = self._seal_column(node=node, key=key, rows=rows, values=values, shape=shape)
            shape.texts[position] = node.leaves[key] if only is str and not node.leaves[key].timed else None

    def _seal_column(self, node: _Node, key: Any, rows: Rows, values: list[Any], shape: _Shape | None) -> type | None:
        """Sorts the values of a column by their types; returns the type if all had the same."""
        if is_hint(key):
            self._notes[HINTS_LEFT_OUT] += sum(value is not None for value in values)
            return None
        types = set(map(type, values))
        if dict in types:
            child = self._child(node, key)
            if child is not None:
                self._late_objects(child, rows, values)
                types = set(map(type, values))
                if shape is not None:
                    shape.nested = (*shape.nested, (shape.keys.index(key), child))
        if len(types) == 1:
            (only,) = types
            if only is not _NONE:
                self._push(node=node, key=key, type_=only, rows=rows, values=values)
            return only
        for each in types:
            if each is not _NONE:
                chosen = [index for index, value in enumerate(values) if type(value) is each]
                self._push(node=node, key=key, type_=each, rows=rows[chosen], values=[values[index] for index in chosen])
        return None

    def _late_objects(self, child: _Node, rows: Rows, values: list[Any]) -> None:
        """Walks objects at a place that had none before."""
        for index, value in enumerate(values):
            if type(value) is dict:
                self._add(child, value, int(rows[index]))
                values[index] = None

    def _push(self, node: _Node, key: Any, type_: type, rows: Rows, values: list[Any]) -> None:
        leaf = node.leaves.get(key)
        if leaf is None:
            leaf = node.leaves[key] = _Leaf(self._source(node, key))
            self._leaves.append(leaf)
            self.size += 1
        runs = times_of if leaf.timed and type_ is not datetime else runs_of
        for kind, where, run in runs(type_, rows, values, self._notes):
            leaf.push(kind, where, run)

    def _source(self, node: _Node, key: Any) -> Source:
        fixed = node.fixed.get(key)
        path = (*node.path, str(key))
        name = fixed.name if fixed else self._namer.column((*node.names, self._namer.part(str(key))))
        suffixed = self._namer.suffixed(name, path)
        key_of_name = self._namer.key(name)
        exact = key_of_name == name and self._exact(node, key)
        return Source(path=path, name=name, key=key_of_name, suffixed=suffixed, fixed=fixed, exact=exact)


_NONE = type(None)


def _joined(rows: Sequence[Rows]) -> Rows:
    return rows[0] if len(rows) == 1 else np.concatenate(rows)
