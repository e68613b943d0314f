"""What the user's file imports as `penstock.source`: the declarations of its streams.

    from penstock import source

    @source.stream(primary_key="id", cursor="updated_at")
    def orders(config, since):
        for page in pages(config["url"], changed_since=since):
            yield page

A stream is a function that yields rows: a dict, a list of dicts, an Arrow table, a pandas or Polars frame. It may be `async`. It gets
what it names among its parameters:

    config    `config` of the connector in the project file, a dict
    since     the largest value of the cursor in earlier reads; None at first, and in a full refresh
    state     the state of the newest `Checkpoint` of earlier reads; an empty dict at first, and in a full refresh
    columns   the names of the columns that are wanted; None: all

A stream with `since` gives rows whose cursor is at or above it; rows that came before are left out by Penstock. A stream with
`state` yields `Checkpoint(state)` behind the rows that the state covers. A stream with neither gives all its rows each time.

Standard library only: it is also loaded by interpreters that have nothing of Penstock.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Union

PARAMETERS = ("config", "since", "state", "columns")

Key = Union[str, Sequence[str]]  # noqa: UP007  # for interpreters before 3.10


class Refused(Exception):  # it is named for what the user says with it
    """Raised by the user's code when a person must act, such as for a wrong password; trying again does not help."""


class Checkpoint:
    """Stands behind rows of its stream: a later read gets `state`, and misses none of the rows before it.

    Args:
        state: values that JSON has.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        self.state = dict(state)


class Stream:
    """A declared stream; it can still be called as the function it was made of.

    Raises:
        TypeError: the declaration cannot be right; says why.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None,
        primary_key: Key,
        cursor: str | None,
        ordered: bool,
        columns: Mapping[str, Any] | None,
    ) -> None:
        self.function = function
        self.name = name or function.__name__
        self.primary_key = [primary_key] if isinstance(primary_key, str) else list(primary_key)
        self.cursor = cursor
        self.ordered = ordered
        self.columns = {key: {"type": each} if isinstance(each, str) else each for key, each in (columns or {}).items()}
        self.takes = list(inspect.signature(function).parameters)
        self.__doc__ = function.__doc__
        unknown = [each for each in self.takes if each not in PARAMETERS]
        if unknown:
            raise TypeError(f"stream {self.name} has a parameter `{unknown[0]}`; it may have: {', '.join(PARAMETERS)}")
        if "since" in self.takes and "state" in self.takes:
            raise TypeError(f"stream {self.name} has both `since` and `state`; one of them says where to go on")
        if "since" in self.takes and cursor is None:
            raise TypeError(f"stream {self.name} has `since` and no cursor; write @stream(cursor=...), the column that grows")
        if ordered and "since" not in self.takes:
            raise TypeError(f"stream {self.name} is `ordered` and has no parameter `since`; ordered means by the cursor")

    @property
    def incremental(self) -> bool:
        """Whether it can go on where an earlier read ended."""
        return "since" in self.takes or "state" in self.takes

    def __call__(self, *values: Any, **named: Any) -> Any:
        """Calls the function."""
        return self.function(*values, **named)


def stream(
    function: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    primary_key: Key = (),
    cursor: str | None = None,
    ordered: bool = False,
    columns: Mapping[str, Any] | None = None,
) -> Any:
    """Declares a function as a stream.

    Args:
        name: of the stream; the function's name where it is left out.
        primary_key: the column that identifies a row, or several.
        cursor: the column that grows with each new or changed row. A key inside an object: `meta.changed`.
        ordered: rows come by the cursor, the smallest first; then a read that is broken off goes on in the middle.
        columns: JSON Schema type (`"integer"`) or whole JSON Schema of columns, by name, for `discover`.
    """

    def declare(function: Callable[..., Any]) -> Stream:
        return Stream(function, name=name, primary_key=primary_key, cursor=cursor, ordered=ordered, columns=columns)

    return declare if function is None else declare(function)


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Marks the function that tries the options: it may take `config`, and raises what is wrong with them."""
    function._penstock_check = True  # type: ignore[attr-defined]  # functions take attributes
    return function
