"""The rows of one stream on their way out of the connector: `where`, then the choice of columns, then privacy rules. Pure.

A row that does not meet `where` is left out. But the destination may hold an earlier version of it, which did. So where rows are
written by their key, such a row becomes a *removal*: nothing but its key, its cursor and a mark, by which the loader takes the
stored row away. A row that the source says is deleted passes with no more than these if its other fields are not told, because
nobody can know then whether it met `where`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from connector_runner.rules.conditions import Conditions
from connector_runner.rules.hiding import Hiding
from connector_runner.rules.pruning import Tree, blanked, pruned_row, pruned_table, tree_of
from connector_runner.rules.values import is_text, of_texts, read_object, whole, write_object
from shared.project.functions import PrivacyRule
from shared.rules.where import Condition, Node, Path, reader

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

FILTERED_AT = "_filtered_at"
"""The mark of a removal, where the stream itself has none that the loader goes by."""


class Rules(NamedTuple):
    """The rules of one stream.

    `columns`: paths that are stored; None: all. `known_by`: key, cursor and mark of deletion, which a removal keeps. `mark`: the column that makes a
    row a removal; None: rows that do not meet `where` are left out and no more. `deleted`: path of the source's own mark of deletion.
    `obeyed`: whether the loader takes rows with this mark away. `before`: path of a row's former values.
    """

    where: Node | None = None
    columns: tuple[Path, ...] | None = None
    privacy: Sequence[PrivacyRule] = ()
    known_by: tuple[Path, ...] = ()
    mark: str | None = None
    deleted: Path = ()
    obeyed: bool = False
    before: Path = ()
    json: frozenset[str] = frozenset()
    """Columns whose texts are JSON."""

    @property
    def any(self) -> bool:
        """Whether there is a rule."""
        return self.where is not None or self.columns is not None or bool(self.privacy)


class Sieve:
    """The rules of one stream, ready for its rows. It counts.

    Args:
        now: when rows are removed, as their mark says.
        nonce: gives bytes for `encrypt` that were never given before.
    """

    def __init__(self, rules: Rules, now: datetime, nonce: Callable[[], bytes]) -> None:
        self._rules = rules
        self._where = Conditions(rules.where) if rules.where is not None else None
        mark = ((rules.mark,),) if rules.mark is not None else ()
        self._tree: Tree | None = tree_of((*rules.columns, *mark)) if rules.columns is not None else None
        self._hiding = Hiding(rules.privacy, rules.before, nonce) if rules.privacy else None
        self._known_by = tree_of(rules.known_by)
        # a removal is no deletion: the loader would mark the row that it removes
        self._removed_by = tree_of(path for path in rules.known_by if path != rules.deleted)
        self._now = now
        self._is_deleted = reader(rules.deleted) if rules.deleted else None
        self.filtered = 0
        """Rows that did not meet `where`, removals among them."""
        self.removals = 0
        self.unreadable = 0
        """Rows of JSON that no rule can be applied to; they are left out."""
        self.unreadable_why = ""
        self._hidden = False

    @property
    def idle(self) -> list[str]:
        """The paths of privacy rules that found nothing, if any row came to them."""
        return self._hiding.idle if self._hiding is not None and self._hidden else []

    def row(self, data: bytes) -> bytes | None:
        """Returns a row of JSON as it goes on; None: it is left out."""
        try:
            kept: bytes | None = data
            if self._where is not None:
                kept = self._asked(self._where, data)
            if kept is data and self._tree is not None:
                kept = pruned_row(data, self._tree)
            if kept is not None and self._hiding is not None:
                kept = self._hiding.of_row(kept)
                self._hidden = True
        except ValueError as exc:
            self.unreadable += 1
            self.unreadable_why = str(exc)
            return None
        return kept

    def table(self, table: pa.Table) -> pa.Table:
        """Returns rows in columns as they go on; perhaps none.

        Raises:
            ValueError: a column of JSON holds a value that is none.
        """
        import pyarrow as pa

        texts = {
            name: type_ for name in self._rules.json if name in table.column_names and is_text(type_ := table.field(name).type)
        }
        for name in texts:
            table = _with(table, name, of_texts(whole(table.column(name))))
        if self._where is not None:
            table = self._sifted(self._where, table)
        if self._tree is not None and table.num_rows:
            table = pruned_table(table, self._tree)
        if self._hiding is not None and table.num_rows:
            table = self._hiding.of_table(table)
            self._hidden = True
        for name, type_ in texts.items():
            if name in table.column_names and isinstance(table.field(name).type, pa.JsonType):
                table = _with(table, name, whole(table.column(name)).storage.cast(type_))
        return table

    def _asked(self, where: Conditions, data: bytes) -> bytes | None:
        """Returns the same bytes for a row that meets `where`, what is left of a removal, or None."""
        row = where.read(data)
        if where.judge(row):
            return data
        mark = self._rules.mark
        deleted = self._is_deleted is not None and self._is_deleted(read_object(data)) is not None
        if deleted and (self._rules.obeyed or not where.tells(row)):
            return pruned_row(data, self._known_by)
        self.filtered += 1
        if mark is None:
            return None
        self.removals += 1
        left = read_object(pruned_row(data, self._removed_by), digits=True)
        return write_object({**left, mark: _text_of(self._now)})

    def _sifted(self, where: Conditions, table: pa.Table) -> pa.Table:
        import numpy as np
        import pyarrow as pa

        meets = where.of_table(table)
        if meets.all():
            return table
        bare = np.zeros(len(meets), np.bool_)
        if self._rules.deleted:
            bare = ~meets & _there(table, self._rules.deleted)
            if not self._rules.obeyed:
                bare &= ~where.table_tells(table)
        removed = ~meets & ~bare
        self.filtered += int(removed.sum())
        if self._rules.mark is None:
            going = ~removed
            removed = np.zeros(len(meets), np.bool_)
        else:
            going = np.ones(len(meets), np.bool_)
            self.removals += int(removed.sum())
        if not going.all():
            table = table.filter(pa.array(going))
        if bare.any():
            table = blanked(table, bare[going], self._known_by)
        if self._rules.mark is not None and removed.any():
            table = _marked(blanked(table, removed[going], self._removed_by), self._rules.mark, removed[going], self._now)
        return table


def _there(table: pa.Table, path: Path) -> NDArray[np.bool_]:
    from connector_runner.rules.on_columns import verdicts  # brings Arrow, which rows of JSON do not need

    return verdicts(Condition(path=path, operator="exists", operand=True, test=lambda _: True, missing=False), table)


def _marked(table: pa.Table, mark: str, rows: NDArray[np.bool_], now: datetime) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    marked, value = pa.array(rows), pa.scalar(now, pa.timestamp("us", "UTC"))
    if mark not in table.column_names:
        return table.append_column(mark, pc.if_else(marked, value, pa.scalar(None, value.type)))
    column = table.column(mark)
    place = table.column_names.index(mark)
    if pa.types.is_timestamp(column.type):
        return table.set_column(place, mark, pc.if_else(marked, pa.scalar(now, column.type), column))
    if is_text(column.type):
        return table.set_column(place, mark, pc.if_else(marked, pa.scalar(_text_of(now), column.type), column))
    marked = pc.or_(marked, column.is_valid())
    return table.set_column(place, mark, pc.if_else(marked, value, pa.scalar(None, value.type)))


def _text_of(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z"


def _with(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, column)
