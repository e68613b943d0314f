"""The columnar builder: objects in, one run of Arrow arrays per path out.

A `Tree` mirrors the objects it was given: a node per object, a leaf per value that was ever there. Columns are told apart by
their source path; names are settled later, per batch (`loader/claims.py`). A leaf keeps values by kind with the rows they
stand in, so that a sparse column costs what is present and a mixed one never needs a Python loop to convert.

Most objects of one place have the same keys in the same order. Such a *shape* is kept as one flat list of values, extended in
C, and cut into columns when the window is full; objects with rarer keys go the long way, value by value. Windows are short:
values still in the cache are turned into Arrow and freed, and no dict outlives its event, which keeps the garbage collector
out (measured: docs/performance.md).

Left out: nulls, empty objects, keys that are hints (`loader/hints.py`), NaN and infinity (counted), NUL characters in text
(replaced by U+FFFD and counted: Postgres cannot store them). Arrays, and objects deeper than `MAX_DEPTH`, are JSON text.

Pure. The caller keeps a chunk's bytes bounded and drops a tree that grew past what it likes (`Tree.size`).
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from loader.contract import Kind
from loader.hints import is_hint
from loader.lattice import ARROW, TIMESTAMP
from loader.layouts.contract import Event, Fixed, Root
from loader.names import Namer, Path

WINDOW_ROWS = 1024
WINDOW_KEYS = 20_000
"""A window ends early when so many new keys came up: objects made to be unlike each other must not fill the memory."""
MAX_SHAPES = 64
MAX_SHAPE_KEYS = 512
FEW_ROWS = 24
"""Making an Arrow array costs as much as this many values going the long way."""
MAX_DEPTH = 256
"""Below Python's recursion limit with room for the caller, above every site's limit."""

NUL_REPLACED = "nul_characters_replaced"
NOT_FINITE = "numbers_not_finite"

Rows = NDArray[np.int32]


class Whole(msgspec.Struct, frozen=True):
    """An object a hint keeps in one piece."""

    value: Event


@dataclass(frozen=True, slots=True)
class Part:
    """Values of one kind of one column: `rows[i]` is where `values[i]` stands; every row at most once, in no order."""

    kind: Kind
    rows: Rows
    values: pa.Array


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Where values come from: the identity of a column before it has a name.

    `name` is what the path folds to; `suffixed` what the column is called where another path has that name. `fixed` is set for
    columns of the layout. Keys are what the destination compares names by.
    """

    path: Path
    name: str
    key: str
    suffixed: str
    suffixed_key: str
    fixed: Fixed | None = None


class _Leaf:
    __slots__ = ("parts", "source")

    def __init__(self, source: Source) -> None:
        self.source = source
        self.parts: dict[Kind, tuple[list[Rows], list[pa.Array]]] = {}


class _Shape:
    __slots__ = ("flat", "keys", "nested", "rows")

    def __init__(self, keys: tuple[Any, ...], nested: tuple[tuple[Any, _Node], ...]) -> None:
        self.keys = keys
        self.nested = nested
        self.rows = array("i")
        self.flat: list[Any] = []


class _Node:
    __slots__ = ("children", "depth", "fixed", "leaves", "lifted", "loose", "names", "path", "shapes")

    def __init__(self, path: Path, names: tuple[str, ...], depth: int) -> None:
        self.path = path
        self.names = names
        self.depth = depth
        self.shapes: dict[tuple[Any, ...], _Shape] = {}
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
        """How many keys the tree remembers, at all places; what it costs between batches."""
        self._seal_at = WINDOW_KEYS

    def add(self, mapping: Event, row: int) -> None:
        """Takes the values of an object. `mapping` may be taken apart."""
        self._add(self._root, mapping, row)
        self._open += 1
        if self._open >= WINDOW_ROWS or self.size >= self._seal_at:
            self._seal()

    def take(self) -> list[tuple[Source, tuple[Part, ...]]]:
        """Ends the batch: returns the columns that have values, in the order in which they were first seen."""
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
        shape = node.shapes.get(keys)
        if shape is None:
            if len(node.shapes) >= MAX_SHAPES or len(keys) > MAX_SHAPE_KEYS:
                self._add_loose(node, mapping, row)
                return
            nested = [(key, self._child(node, key)) for key, value in mapping.items() if type(value) is dict]
            self.size += len(keys)
            shape = node.shapes[keys] = _Shape(keys, tuple((key, child) for key, child in nested if child is not None))
        for key, child in shape.nested:
            value = mapping[key]
            if type(value) is dict:
                self._add(child, value, row)
                mapping[key] = None
        shape.rows.append(row)
        shape.flat.extend(mapping.values())

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
        """Returns the node of a nested object, None where it is kept in one piece or not at all."""
        child = node.children.get(key)
        if child is None and node.depth < MAX_DEPTH and not is_hint(key):
            self.size += 1
            child = node.children[key] = _Node((*node.path, str(key)), self._names_below(node, key), node.depth + 1)
        return child

    def _names_below(self, node: _Node, key: Any) -> tuple[str, ...]:
        if key in node.lifted:
            return tuple(self._namer.part(part) for part in node.lifted[key])
        fixed = node.fixed.get(key)
        return (*node.names, fixed.name if fixed else self._namer.part(str(key)))

    def _seal(self) -> None:
        """Turns what the window holds into Arrow."""
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
            # a newcomer may be what most objects look like from now on
            self.size -= sum(len(keys) for keys in node.shapes)
            node.shapes.clear()
        if node.loose:
            loose, node.loose = node.loose, {}
            self.size -= len(loose)
            for key, (values, rows) in loose.items():
                self._seal_column(node, key, np.frombuffer(rows, dtype=np.int32), values, None)

    def _seal_shape(self, node: _Node, shape: _Shape, pour: bool) -> None:
        """Cuts a shape into columns; where that would make many short runs, `pour` collects them as loose values first."""
        numbers, flat, width = shape.rows, shape.flat, len(shape.keys)
        shape.rows, shape.flat = array("i"), []
        rows = np.frombuffer(numbers, dtype=np.int32)
        for position, key in enumerate(shape.keys):
            values = flat[position::width]
            if not pour:
                self._seal_column(node, key, rows, values, shape)
                continue
            column = node.loose.get(key)
            if column is None:
                column = node.loose[key] = ([], array("i"))
                self.size += 1
            column[0].extend(values)
            column[1].extend(numbers)

    def _seal_column(self, node: _Node, key: Any, rows: Rows, values: list[Any], shape: _Shape | None) -> None:
        types = set(map(type, values))
        if dict in types and not is_hint(key):
            child = self._child(node, key)
            if child is not None:
                self._late_objects(child, rows, values)
                types = set(map(type, values))
                if shape is not None:
                    shape.nested = (*shape.nested, (key, child))
        nulls = _NONE in types
        types.discard(_NONE)
        if not types or is_hint(key):
            return
        if not nulls and len(types) == 1:
            self._push(node, key, types.pop(), rows, values)
            return
        for each in types:
            chosen = [index for index, value in enumerate(values) if type(value) is each]
            self._push(node, key, each, rows[chosen], [values[index] for index in chosen])

    def _late_objects(self, child: _Node, rows: Rows, values: list[Any]) -> None:
        """Walks objects at a place where none was expected."""
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
        for kind, where, run in _RUNS[type_](rows, values, self._notes):
            if len(run):
                kept = leaf.parts.get(kind)
                if kept is None:
                    leaf.parts[kind] = ([where], [run])
                else:
                    kept[0].append(where)
                    kept[1].append(run)

    def _source(self, node: _Node, key: Any) -> Source:
        fixed = node.fixed.get(key)
        path = (*node.path, str(key))
        name = fixed.name if fixed else self._namer.column((*node.names, self._namer.part(str(key))))
        suffixed = self._namer.suffixed(name, path)
        return Source(path, name, self._namer.key(name), suffixed, self._namer.key(suffixed), fixed)


_NONE = type(None)
_Runs = Iterator[tuple[Kind, Rows, pa.Array]]
_encode = msgspec.json.Encoder().encode


def _joined(rows: Sequence[Rows]) -> Rows:
    return rows[0] if len(rows) == 1 else np.concatenate(rows)


def _texts(rows: Rows, values: list[Any], notes: Counter[str]) -> _Runs:
    run = pa.array(values, type=pa.string())
    characters = run.buffers()[2]
    if characters is not None and characters.size and not np.frombuffer(characters, dtype=np.uint8).all():
        notes[NUL_REPLACED] += sum(text.count("\0") for text in values)
        run = pc.replace_substring(run, "\0", "\ufffd")
    yield Kind.TEXT, rows, run


def _booleans(rows: Rows, values: list[Any], _: Counter[str]) -> _Runs:
    yield Kind.BOOLEAN, rows, pa.array(values, type=pa.bool_())


def _moments(rows: Rows, values: list[Any], _: Counter[str]) -> _Runs:
    yield Kind.TIMESTAMP, rows, pa.array(values, type=TIMESTAMP)


def _doubles(rows: Rows, values: list[Any], notes: Counter[str]) -> _Runs:
    numbers = np.array(values, dtype=np.float64)
    finite = np.isfinite(numbers)
    if not finite.all():
        notes[NOT_FINITE] += int(len(numbers) - finite.sum())
        rows, numbers = rows[finite], numbers[finite]
    yield Kind.DOUBLE, rows, pa.array(numbers)


def _integers(rows: Rows, values: list[Any], _: Counter[str]) -> _Runs:
    try:
        yield Kind.BIGINT, rows, pa.array(values, type=pa.int64())
        return
    except (OverflowError, pa.ArrowInvalid):
        pass
    chosen: dict[Kind, list[int]] = {Kind.BIGINT: [], Kind.DECIMAL: [], Kind.TEXT: []}
    for index, value in enumerate(values):
        small, fitting = -(2**63) <= value < 2**63, abs(value) < 10**38
        chosen[Kind.BIGINT if small else Kind.DECIMAL if fitting else Kind.TEXT].append(index)
    for kind, indexes in chosen.items():
        if indexes:
            numbers = [values[index] for index in indexes]
            run = pa.array([str(number) for number in numbers] if kind is Kind.TEXT else numbers, type=ARROW[kind])
            yield kind, rows[indexes], run


def _documents(rows: Rows, values: list[Any], notes: Counter[str]) -> _Runs:
    yield Kind.JSON, rows, pa.array([_document(value, notes) for value in values], type=pa.string())


def _document(value: Any, notes: Counter[str]) -> str:
    """Returns an array or object as compact JSON without hints and NUL characters."""
    try:
        text = _encode(value.value if type(value) is Whole else value).decode()
    except OverflowError:  # msgspec writes no integer beyond 64 bits
        text = json.dumps(value.value if type(value) is Whole else value, ensure_ascii=False, separators=(",", ":"))
    if "\\u0000" in text or "__sql_type" in text or "JITSU_TABLE_NAME" in text:
        return json.dumps(_cleaned(json.loads(text), notes), ensure_ascii=False, separators=(",", ":"))
    return text


def _cleaned(value: Any, notes: Counter[str]) -> Any:
    if isinstance(value, dict):
        return {_cleaned(key, notes): _cleaned(item, notes) for key, item in value.items() if not is_hint(key)}
    if isinstance(value, list):
        return [_cleaned(item, notes) for item in value]
    if isinstance(value, str) and "\0" in value:
        notes[NUL_REPLACED] += value.count("\0")
        return value.replace("\0", "\ufffd")
    return value


_RUNS: dict[type, Callable[[Rows, list[Any], Counter[str]], _Runs]] = {
    str: _texts,
    bool: _booleans,
    int: _integers,
    float: _doubles,
    datetime: _moments,
    list: _documents,
    dict: _documents,
    Whole: _documents,
}
