"""Takes away what is not selected, from rows of JSON and from Arrow tables. Pure.

A path that leads through a list means each of its members. Where a path leads into a value that has nothing inside, such as a
text, the value goes. Bytes of JSON values stay as the connector wrote them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import numpy as np

from connector_runner.rules.values import as_json, as_object, has_inside, is_object, members, read_object, whole, write_object
from shared.events.rescue import UNREADABLE
from shared.rules.where import Path

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

Tree: TypeAlias = "dict[str, Tree]"
"""Paths by their keys; an empty one stands for all below."""

_NOTHING: Any = object()
_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.encode


def tree_of(paths: Iterable[Path]) -> Tree:
    """Returns paths as a tree; of a path and one inside it the shorter counts."""
    tree: Tree = {}
    for path in sorted(set(paths), key=len):
        inner = tree
        for depth, key in enumerate(path, 1):
            known = inner.get(key)
            if known is not None and not known:
                break  # all of it is wanted already
            inner = inner.setdefault(key, {}) if depth < len(path) or known is None else known
    return tree


def pruned_row(data: bytes, tree: Tree) -> bytes:
    """Returns a row without what the tree has not.

    Raises:
        ValueError: it cannot be read; says why.
    """
    try:
        return _encode(_of_raw(data, tree))
    except UNREADABLE:
        return write_object(_of_value(read_object(data, digits=True), tree))


def pruned_table(table: pa.Table, tree: Tree) -> pa.Table:
    """Returns a table without what the tree has not."""
    names = [name for name in table.column_names if name in tree]
    if all(not tree[name] for name in names):
        return table if len(names) == table.num_columns else table.select(names)
    import pyarrow as pa

    found = {name: table.column(name) if not tree[name] else _of_column(whole(table.column(name)), tree[name]) for name in names}
    return pa.table({name: column for name, column in found.items() if column is not None})


def blanked(table: pa.Table, rows: NDArray[np.bool_], tree: Tree) -> pa.Table:
    """Returns a table in which some rows have nothing but what the tree has; the other rows stay as they are."""
    import pyarrow as pa

    return pa.table({name: _blanked(table.column(name), rows, tree.get(name)) for name in table.column_names})


def _of_raw(data: bytes | msgspec.Raw, tree: Tree) -> Any:
    text = bytes(data)
    match text.lstrip()[:1]:
        case b"{":
            found = {
                key: value if not tree[key] else _of_raw(value, tree[key]) for key, value in _object(text).items() if key in tree
            }
            return {key: value for key, value in found.items() if value is not _NOTHING}
        case b"[":
            return [kept for each in _list(text) if (kept := _of_raw(each, tree)) is not _NOTHING]
    return _NOTHING


def _of_value(value: Any, tree: Tree) -> Any:
    if not tree:
        return value
    if isinstance(value, dict):
        found = {key: _of_value(each, tree[key]) for key, each in value.items() if key in tree}
        return {key: each for key, each in found.items() if each is not _NOTHING}
    if isinstance(value, list):
        return [kept for each in value if (kept := _of_value(each, tree)) is not _NOTHING]
    return _NOTHING


def _of_column(array: pa.Array, tree: Tree) -> pa.Array | None:
    """Returns what a tree has of a column; None: nothing."""
    if is_object(array.type):
        inner = members(array)
        found = {
            name: inner[name] if not tree[name] else _of_column(whole(inner[name]), tree[name]) for name in inner if name in tree
        }
        kept = {name: each for name, each in found.items() if each is not None}
        return as_object(array, kept) if kept else None
    if not has_inside(array.type):
        return None
    return as_json([_json_of(each, tree) for each in json_texts(array)])


def json_texts(array: pa.Array) -> list[str | bytes | None]:
    """Returns the JSON of each value of a column that has values inside."""
    import pyarrow as pa

    from connector_runner.json_rows import json_rows

    if isinstance(array.type, pa.JsonType):
        texts: list[str | bytes | None] = array.storage.to_pylist()
        return texts
    values = [_object(row)["v"] for row in json_rows(pa.table({"v": array}))]
    return [None if bytes(each) == b"null" else bytes(each) for each in values]


def _json_of(text: str | bytes | None, tree: Tree) -> bytes | None:
    if text is None:
        return None
    found = _of_raw(text.encode() if isinstance(text, str) else text, tree)
    return None if found is _NOTHING else _encode(found)


def _blanked(column: pa.ChunkedArray | pa.Array, rows: NDArray[np.bool_], tree: Tree | None) -> pa.ChunkedArray | pa.Array:
    import pyarrow as pa

    if tree is not None and not tree:
        return column
    array = whole(column)
    if tree is None or not (is_object(array.type) or has_inside(array.type)):
        return column.take(pa.array(np.arange(len(rows)), mask=rows))
    if is_object(array.type):
        return as_object(array, {name: whole(_blanked(each, rows, tree.get(name))) for name, each in members(array).items()})
    return as_json([_json_of(text, tree) if blank else text for text, blank in zip(json_texts(array), rows, strict=True)])
