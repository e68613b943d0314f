"""`where` on rows: one tree of conditions, asked of a JSON object or of an Arrow table, with one answer. Pure.

`shared/rules/where.py` has the rules. A row in columns is taken as the JSON that `connector_runner/json_rows.py` makes of it.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from connector_runner.rules.values import read_object
from shared.events.rescue import UNREADABLE
from shared.rules.where import Condition, Every, Node, Not, Path, Some, reader

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

Judge = Callable[[Any], bool]


class Conditions:
    """Conditions of one stream; `paths`: the fields that they look at."""

    def __init__(self, node: Node) -> None:
        self.paths = paths_of(node)
        self._node = node
        self.judge = _judge(node)
        """Answers of a decoded row."""
        self._readers = [reader(path) for path in sorted(self.paths)]
        roots = sorted({path[0] for path in self.paths})
        self._decode: Callable[[bytes], Any] | None = None
        if all(map(str.isascii, roots)):  # the decoder finds no other names in a `TypedDict`
            make: Any = typing.TypedDict
            self._decode = msgspec.json.Decoder(make("Kept", dict.fromkeys(roots, Any), total=False)).decode

    def read(self, data: bytes) -> Any:
        """Returns a row of JSON as far as the conditions look at it.

        Raises:
            ValueError: it cannot be read; says why.
        """
        if self._decode is not None:
            try:
                return self._decode(data)
            except UNREADABLE:
                pass
        return read_object(data)

    def tells(self, row: Any) -> bool:
        """Whether a decoded row has a value in any field that the conditions look at."""
        return any(read(row) is not None for read in self._readers)

    def of_table(self, table: pa.Table) -> NDArray[np.bool_]:
        """Returns the answer for each row of a table."""
        return _of_table(self._node, table)

    def table_tells(self, table: pa.Table) -> NDArray[np.bool_]:
        """Returns `tells` for each row of a table."""
        there = [
            Condition(path=path, operator="exists", operand=True, test=lambda _: True, missing=False)
            for path in sorted(self.paths)
        ]
        return _of_table(Some(tuple(there)), table)


def paths_of(node: Node) -> frozenset[Path]:
    """Returns the fields that conditions look at."""
    return frozenset(each.path for each in _leaves(node))


def _leaves(node: Node) -> Iterator[Condition]:
    match node:
        case Condition():
            yield node
        case Not():
            yield from _leaves(node.member)
        case Every() | Some():
            for each in node.members:
                yield from _leaves(each)


def _judge(node: Node) -> Judge:
    match node:
        case Condition():
            read, test, missing = reader(node.path), node.test, node.missing
            return lambda row: missing if (value := read(row)) is None else test(value)
        case Not():
            inner = _judge(node.member)
            return lambda row: not inner(row)
        case Every():
            judges = [_judge(each) for each in node.members]
            return lambda row: all(judge(row) for judge in judges)
        case Some():
            judges = [_judge(each) for each in node.members]
            return lambda row: any(judge(row) for judge in judges)


def _of_table(node: Node, table: pa.Table) -> NDArray[np.bool_]:
    from connector_runner.rules.on_columns import verdicts  # brings Arrow, which rows of JSON do not need

    match node:
        case Condition():
            return verdicts(node, table)
        case Not():
            return ~_of_table(node.member, table)
        case Every() | Some():
            found = [_of_table(each, table) for each in node.members]
            for each in found[1:]:
                found[0] = found[0] & each if isinstance(node, Every) else found[0] | each
            return found[0]
