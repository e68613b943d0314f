"""Texts with places that a record fills: `orders.{value.status}`. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from connector_runner.feeds.contract import Record

PLACES = "{topic}, {partition}, {key}, {header.NAME} and {value.PATH}"

_PLACE = re.compile(r"\{([^{}]*)\}")
Fill = Callable[[Record, Any], str]


class Template:
    """A compiled text.

    Raises:
        ValueError: it has a place that no record fills.
    """

    def __init__(self, text: str) -> None:
        pieces = _PLACE.split(text)
        if any(brace in piece for piece in pieces[::2] for brace in "{}"):
            raise ValueError(f"a brace of {text!r} has no partner; places are {PLACES}")
        self._fills: list[Fill] = []
        self.reads_value = False
        """Whether `fill` needs the decoded value."""
        for index, piece in enumerate(pieces):
            if index % 2:
                self._fills.append(self._place(piece.strip()))
            elif piece:
                self._fills.append(_constant(piece))
        self.constant = text if len(pieces) == 1 else None
        """The text if it has no places."""

    def fill(self, record: Record, value: Any) -> str:
        """Returns the text of a record; `value`: its decoded value, where `reads_value`."""
        return "".join([fill(record, value) for fill in self._fills])

    def _place(self, name: str) -> Fill:
        head, _, rest = name.partition(".")
        match head:
            case "topic" if not rest:
                return lambda record, _: record.topic
            case "partition" if not rest:
                return lambda record, _: str(record.partition)
            case "key" if not rest:
                return lambda record, _: _text(record.key)
            case "header" if rest:
                return lambda record, _: _text(dict(record.headers).get(rest))
            case "value":
                self.reads_value = True
                path = rest.split(".") if rest else []
                return lambda _, value: _at(value, path)
        raise ValueError(f"no record fills {{{name}}}; places are {PLACES}")


def _constant(text: str) -> Fill:
    return lambda _record, _value: text


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode("utf-8", "replace")


def _at(value: Any, path: list[str]) -> str:
    """Returns a text, number or boolean at a path; empty where there is none."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else ""
