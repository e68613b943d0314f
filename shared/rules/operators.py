"""The operators of `where`: each builds the test of one value from its operand, and refuses operands it cannot use.

`shared/rules/where.py` says what each means. A new operator is one function here and one line in `OPERATORS`.
"""

from __future__ import annotations

import fnmatch
import importlib
import math
import operator
import re
from collections.abc import Callable, Iterable
from typing import Any, Protocol, cast

from shared.events.event import parse_time
from shared.reading.decode import kind_of

MAX_PATTERN = 1000
KINDS = ("string", "number", "boolean", "object", "array")

Scalar = str | int | float | bool
Test = Callable[[Any], bool]
"""Judges a value that is not missing."""


class WrongOperandError(Exception):
    """The operand does not suit its operator; the message speaks of YAML's types."""


def kind_name(value: object) -> str:
    """Returns JSON's name for the kind of a value: string, number, boolean, object, array or null."""
    return _KIND_NAMES.get(type(value), type(value).__name__)


def _scalar(operand: object) -> Scalar:
    if isinstance(operand, float) and not math.isfinite(operand):
        raise WrongOperandError(f"expected a finite number, got {operand}")
    if isinstance(operand, (str, int, float)):
        return operand
    if operand is None:
        raise WrongOperandError("null equals nothing; write exists: false")
    raise WrongOperandError(f"expected a text, a number, true or false, got {kind_of(operand)}")


def _scalars(operand: object) -> list[Scalar]:
    if not isinstance(operand, list) or not operand:
        raise WrongOperandError(f"expected a list of at least one value, got {kind_of(operand)}")
    return [_scalar(item) for item in operand]


def _text(operand: object) -> str:
    if not isinstance(operand, str):
        raise WrongOperandError(f"expected a text, got {kind_of(operand)}")
    return operand


def _equals(operands: Iterable[Scalar]) -> Test:
    texts: set[str] = set()
    numbers: set[int | float] = set()
    booleans: set[bool] = set()
    for operand in operands:
        if isinstance(operand, bool):
            booleans.add(operand)
        elif isinstance(operand, str):
            texts.add(operand)
        else:
            numbers.add(operand)
    moments = {moment for text in texts if (moment := parse_time(text)) is not None}

    def test(value: Any) -> bool:
        kind = type(value)
        if kind is str:
            return value in texts or (bool(moments) and parse_time(value) in moments)
        if kind is int or kind is float:
            return value in numbers
        return kind is bool and value in booleans

    if len(texts) == 1 and not moments and not numbers and not booleans:
        only = next(iter(texts))
        return lambda value: bool(value == only)
    return test


def _eq(operand: object) -> tuple[Test, bool]:
    return _equals([_scalar(operand)]), False


def _ne(operand: object) -> tuple[Test, bool]:
    equal = _equals([_scalar(operand)])
    return lambda value: not equal(value), True


def _in(operand: object) -> tuple[Test, bool]:
    return _equals(_scalars(operand)), False


def _not_in(operand: object) -> tuple[Test, bool]:
    equal = _equals(_scalars(operand))
    return lambda value: not equal(value), True


def _ordering(compare: Callable[[Any, Any], bool]) -> Callable[[object], tuple[Test, bool]]:
    def build(operand: object) -> tuple[Test, bool]:
        if isinstance(operand, bool) or not isinstance(operand, (int, float, str)):
            raise WrongOperandError(f"expected a number or a text, got {kind_of(operand)}")
        if not isinstance(operand, str):
            number = _scalar(operand)
            return (lambda value: type(value) in (int, float) and compare(value, number)), False
        moment = parse_time(operand)
        if moment is None:
            return (lambda value: type(value) is str and compare(value, operand)), False

        def test(value: Any) -> bool:
            if type(value) is not str:
                return False
            other = parse_time(value)
            return compare(value, operand) if other is None else compare(other, moment)

        return test, False

    return build


def _contains(operand: object) -> tuple[Test, bool]:
    wanted = _scalar(operand)
    equal = _equals([wanted])

    def test(value: Any) -> bool:
        if type(value) is str:
            return isinstance(wanted, str) and wanted in value
        return type(value) is list and any(equal(item) for item in value)

    return test, False


def _starts_with(operand: object) -> tuple[Test, bool]:
    text = _text(operand)
    return (lambda value: type(value) is str and value.startswith(text)), False


def _ends_with(operand: object) -> tuple[Test, bool]:
    text = _text(operand)
    return (lambda value: type(value) is str and value.endswith(text)), False


def _matches(operand: object) -> tuple[Test, bool]:
    glob = _text(operand)
    if len(glob) > MAX_PATTERN:
        raise WrongOperandError(f"expected a pattern of at most {MAX_PATTERN} characters, got {len(glob)}")
    # from Python 3.11 on the translation holds atomic groups, so that many stars cannot backtrack without end
    match = re.compile(fnmatch.translate(glob)).match
    return (lambda value: type(value) is str and match(value) is not None), False


class _Re2(Protocol):
    """The used part of the package `re2`, which ships no types."""

    error: type[Exception]
    Options: Callable[[], Any]

    def compile(self, pattern: str, options: Any) -> Any:
        """Compiles, raising `error`."""


def _regex(operand: object) -> tuple[Test, bool]:
    pattern = _text(operand)
    if len(pattern) > MAX_PATTERN:
        raise WrongOperandError(f"expected a pattern of at most {MAX_PATTERN} characters, got {len(pattern)}")
    try:
        engine = cast("_Re2", importlib.import_module("re2"))
    except ImportError:
        raise WrongOperandError("`regex` needs the package google-re2: pip install 'penstock[regex]'; or use `matches`") from None
    options = engine.Options()
    options.log_errors = False
    try:
        search = engine.compile(pattern, options).search
    except engine.error as exc:
        reason = exc.args[0].decode() if exc.args and isinstance(exc.args[0], bytes) else exc
        raise WrongOperandError(f"not an RE2 expression: {reason}") from None

    def test(value: Any) -> bool:
        try:
            return type(value) is str and search(value) is not None
        except UnicodeEncodeError:  # half a surrogate pair: not text that RE2 can read
            return False

    return test, False


def _exists(operand: object) -> tuple[Test, bool]:
    if not isinstance(operand, bool):
        raise WrongOperandError(f"expected true or false, got {kind_of(operand)}")
    return (lambda _: operand), not operand


def _type(operand: object) -> tuple[Test, bool]:
    names = operand if isinstance(operand, list) else [operand]
    if not names or any(name not in KINDS for name in names):
        raise WrongOperandError(f"expected one of {', '.join(KINDS)}, or a list of them, got {operand!r}")
    return (lambda value: kind_name(value) in names), False


_KIND_NAMES = {str: "string", bool: "boolean", int: "number", float: "number", dict: "object", list: "array", type(None): "null"}

EXAMPLES = {
    "eq": "eq: EUR",
    "ne": "ne: EUR",
    "in": "in: [track, page]",
    "not_in": "not_in: [track, page]",
    "gt": "gt: 100",
    "gte": "gte: 100",
    "lt": "lt: 100",
    "lte": "lte: 100",
    "contains": "contains: checkout",
    "starts_with": "starts_with: /shop/",
    "ends_with": "ends_with: .html",
    "matches": 'matches: "Product *"',
    "regex": 'regex: "^[A-Z]{3}-[0-9]+$"',
    "exists": "exists: true",
    "type": "type: [string, number]",
}
"""An example of each operator."""

OPERATORS: dict[str, Callable[[object], tuple[Test, bool]]] = {
    "eq": _eq,
    "ne": _ne,
    "in": _in,
    "not_in": _not_in,
    "gt": _ordering(operator.gt),
    "gte": _ordering(operator.ge),
    "lt": _ordering(operator.lt),
    "lte": _ordering(operator.le),
    "contains": _contains,
    "starts_with": _starts_with,
    "ends_with": _ends_with,
    "matches": _matches,
    "regex": _regex,
    "exists": _exists,
    "type": _type,
}
