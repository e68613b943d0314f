"""Privacy rules on rows of JSON, and on the columns of Arrow tables. Pure; nonces come from outside.

The deeds are those of events (`shared/rules/privacy.py`). A value of a column is hashed, encrypted or truncated as the value that its
JSON has; equal values are hashed once. `encrypt` takes a nonce for each row, so that equal values do not look alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from connector_runner.rules.pruning import json_texts
from connector_runner.rules.values import (
    as_json,
    as_object,
    by_value,
    has_inside,
    is_object,
    json_values,
    members,
    read_object,
    whole,
    write_object,
)
from shared.project.functions import ANY_DEPTH, ANY_KEY, PrivacyRule
from shared.rules.privacy import change, deed_of

if TYPE_CHECKING:
    import pyarrow as pa


class _Step(NamedTuple):
    rule: PrivacyRule
    path: tuple[str, ...]
    deed: Callable[[Any], Any] | None


class Hiding:
    """The privacy rules of one stream.

    Args:
        before: path of the former values of a row; the rules are applied to them too.
        nonce: gives bytes for `encrypt` that were never given before.
    """

    def __init__(self, rules: Sequence[PrivacyRule], before: tuple[str, ...], nonce: Callable[[], bytes]) -> None:
        self._steps = [_Step(rule, rule.path, deed_of(rule, nonce)) for rule in rules]
        self._before = [each._replace(path=(*before, *each.path)) for each in self._steps] if before else []
        self._found: set[int] = set()

    @property
    def idle(self) -> list[str]:
        """The paths of rules that found nothing in any row so far."""
        return [".".join(step.path) for index, step in enumerate(self._steps) if index not in self._found]

    def of_row(self, data: bytes) -> bytes:
        """Returns a row with the rules applied.

        Raises:
            ValueError: it cannot be read; says why.
        """
        row = read_object(data, digits=True)
        for index, (rule, path, deed) in enumerate([*self._steps, *self._before]):
            if change(row, path, deed, rule.to):
                self._found.add(index)
        return write_object(row)

    def of_table(self, table: pa.Table) -> pa.Table:
        """Returns a table with the rules applied."""
        import pyarrow as pa

        columns: dict[str, Any] = {name: table.column(name) for name in table.column_names}
        for index, step in enumerate([*self._steps, *self._before]):
            columns, found = _applied(columns, step, frozenset((0,)))
            if found:
                self._found.add(index)
        return pa.table(columns)


def _applied(columns: dict[str, Any], step: _Step, places: frozenset[int]) -> tuple[dict[str, Any], bool]:
    """Returns columns, or members of an object, with a rule applied, and whether it found any.

    `places`: where in the rule's path these columns may be; several where `**` stands for no level or more.
    """
    path, last = step.path, len(step.path) - 1
    here = set(places)
    for place in sorted(places):
        while path[place] == ANY_DEPTH:
            place += 1
            here.add(place)
    deep = {place for place in here if path[place] == ANY_DEPTH}
    result, renamed, found = dict[str, Any](), dict[str, Any](), False
    for name, column in columns.items():
        matching = {place for place in here - deep if path[place] in (name, ANY_KEY)}
        below = frozenset({place + 1 for place in matching if place != last} | deep)
        if last not in matching:
            result[name], inside = _inside(column, step, below)
            found = found or inside
            continue
        found = True
        if step.deed is not None:
            result[name] = _done(whole(column), step)
        elif step.rule.to is not None:
            renamed[step.rule.to] = _inside(column, step, below)[0]
    return {**result, **renamed}, found


def _inside(column: Any, step: _Step, places: frozenset[int]) -> tuple[Any, bool]:
    if not places:
        return column, False
    array = whole(column)
    if is_object(array.type):
        inner, found = _applied(members(array), step, places)
        return (as_object(array, {name: whole(each) for name, each in inner.items()}) if found else column), found
    if not has_inside(array.type):
        return column, False
    found = False
    texts = json_texts(array)
    for index, text in enumerate(texts):
        if text is None:
            continue
        value = read_object(b'{"v":%b}' % (text.encode() if isinstance(text, str) else text), digits=True)["v"]
        if change(value, step.path, step.deed, step.rule.to, starts=sorted(places)):
            texts[index], found = write_object(value), True
    return (as_json(texts) if found else column), found


def _done(array: pa.Array, step: _Step) -> pa.Array:
    import pyarrow as pa

    assert step.deed is not None  # noqa: S101  # its caller asked
    if step.rule.do == "encrypt":
        return pa.array([step.deed(value) for value in json_values(array, digits=True)], pa.string())
    results, which = by_value(array, step.deed, digits=True)
    return pa.array(results, pa.string()).take(which)
