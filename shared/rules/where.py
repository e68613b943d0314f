"""`where`: conditions as data, read once into a tree. Services compile the tree for what they have: events, rows.

A condition is `{field: <path>, <operator>: <operand>, ...}`; several operators in one condition must all hold. Conditions combine
by `{all: [...]}`, `{any: [...]}` and `{not: ...}`, and a list means all of its members. `field` is a dotted path into the
event or row; for keys that hold a dot it may be a list of keys.

The exact rules:

- A field is *missing* when its path leads nowhere or to null. A missing field fails every operator but `exists: false`, `ne`
  and `not_in`, which it meets.
- `eq`, `in` and their opposites: numbers equal by value (1 is 1.0), text by code points, true and false only themselves. Values
  of different kinds are never equal; objects and arrays equal nothing. Two texts that are both ISO 8601 date-times with a time of
  day are equal when they are the same moment.
- `gt`, `gte`, `lt`, `lte` compare number with number and text with text (by code points; as moments where both are date-times)
  and fail for everything else.
- `contains`: text in text, or an element of an array that equals the operand. `starts_with`, `ends_with`, `matches` and `regex`
  take text only. `matches` is a glob over the whole text (`*`, `?`, `[a-z]`), case-sensitive. `regex` is RE2 and may match
  anywhere; it needs the package `google-re2`. Python's own expressions are not offered: one of them can halt a site.
- `exists: true | false`; `type`: one or several of string, number, boolean, object, array.

Tests are pure and raise nothing on decoded JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from shared.errors import ConfigError, Problem
from shared.reading.decode import kind_of, meant
from shared.rules.operators import EXAMPLES, OPERATORS, Test, WrongOperandError

Path = tuple[str, ...]

MAX_DEPTH = 32
EXAMPLE = "{field: type, in: [track, page]}"
FIELD = " did you mean `field`?"


@dataclass(frozen=True, slots=True)
class Condition:
    """One operator on one field: `test` judges a value, `missing` is the verdict where there is none."""

    path: Path
    operator: str
    operand: Any
    test: Test
    missing: bool


@dataclass(frozen=True, slots=True)
class Every:
    """True where all members are; it has at least one."""

    members: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Some:
    """True where a member is; it has at least one."""

    members: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """True where the member is not."""

    member: Node


Node = Condition | Every | Some | Not

_NEVER = Condition(path=("",), operator="exists", operand=True, test=lambda _: True, missing=False)
"""Takes the place of a faulty condition, so that the rest is checked too."""


def read_where(where: object, path: str = "where") -> Node | None:
    """Reads conditions as the project file holds them.

    Args:
        where: a condition, a list of conditions, or None.
        path: their place in the project file, for errors.

    Returns:
        The tree; None if everything passes (no conditions).

    Raises:
        ConfigError: with every problem, each named by its path (`connections.shop-wh.where[1].gt`).
    """
    if where is None or where == []:
        return None
    problems: list[Problem] = []
    node = _read(where, path, problems, 0)
    if problems:
        raise ConfigError(problems)
    return node


def reader(keys: Path) -> Callable[[Any], Any]:
    """Returns what follows a path into a decoded object; its result is None where the path leads nowhere."""
    indexes = [int(key) if key.isascii() and key.isdigit() and len(key) < 10 else None for key in keys]
    steps = list(zip(keys, indexes, strict=True))

    def read(value: Any) -> Any:
        for key, index in steps:
            if type(value) is dict:
                value = value.get(key)
            elif type(value) is list and index is not None and index < len(value):
                value = value[index]
            else:
                return None
        return value

    return read


def _read(where: object, path: str, problems: list[Problem], depth: int) -> Node:
    if depth > MAX_DEPTH:
        problems.append(Problem(path, f"conditions nest deeper than {MAX_DEPTH}"))
        return _NEVER
    if isinstance(where, list):
        return _combined(Every, _read_list(where, path, problems, depth))
    if not isinstance(where, dict):
        problems.append(
            Problem(path, f"expected a condition or a list of conditions, got {kind_of(where)}; for example `{EXAMPLE}`")
        )
        return _NEVER
    combining = [word for word in ("all", "any", "not") if word in where]
    if combining:
        word = combining[0]
        if len(where) > 1:
            others = ", ".join(str(key) for key in where if key != word)
            problems.append(Problem(path, f"`{word}` stands alone in its condition, but there is also {others}"))
            return _NEVER
        inner = where[word]
        if word == "not":
            return Not(_read(inner, f"{path}.not", problems, depth + 1))
        if not isinstance(inner, list):
            problems.append(
                Problem(
                    f"{path}.{word}", f"expected a list of conditions, got {kind_of(inner)}; for example `{word}: [{EXAMPLE}]`"
                )
            )
            return _NEVER
        return _combined(Every if word == "all" else Some, _read_list(inner, f"{path}.{word}", problems, depth))
    return _read_condition(where, path, problems)


def _read_list(members: list[Any], path: str, problems: list[Problem], depth: int) -> list[Node]:
    if not members:
        problems.append(Problem(path, "expected at least one condition"))
        return [_NEVER]
    return [_read(member, f"{path}[{index}]", problems, depth + 1) for index, member in enumerate(members)]


def _combined(kind: type[Every | Some], members: list[Node]) -> Node:
    return members[0] if len(members) == 1 else kind(tuple(members))


def _read_condition(where: dict[Any, Any], path: str, problems: list[Problem]) -> Node:
    before = len(problems)
    misspelt = [
        key for key in where if isinstance(key, str) and key not in OPERATORS and meant(key, [*OPERATORS, "field"]) == FIELD
    ]
    if misspelt and "field" not in where:
        problems.append(Problem(f"{path}.{misspelt[0]}", f"unknown key;{FIELD}"))
        return _NEVER
    keys = _field(where.get("field"), f"{path}.field", problems)
    operators = [key for key in where if key != "field"]
    if not operators:
        problems.append(Problem(path, f"expected an operator beside `field`: one of {', '.join(OPERATORS)}"))
    tests: list[tuple[str, Test, bool]] = []
    for name in operators:
        build = OPERATORS.get(name) if isinstance(name, str) else None
        if build is None:
            known = [*OPERATORS, "all", "any", "not"]
            problems.append(
                Problem(f"{path}.{name}", f"unknown operator;{meant(str(name), [*known, 'field'])} known: {', '.join(known)}")
            )
            continue
        try:
            tests.append((name, *build(where[name])))
        except WrongOperandError as exc:
            problems.append(Problem(f"{path}.{name}", f"{exc}; for example `{EXAMPLES[name]}`"))
    if len(problems) > before or keys is None:
        return _NEVER
    made = [Condition(path=keys, operator=name, operand=where[name], test=test, missing=missing) for name, test, missing in tests]
    return _combined(Every, [*made])


def _field(field: object, path: str, problems: list[Problem]) -> Path | None:
    keys: Sequence[object]
    if isinstance(field, str):
        keys = field.split(".")
    elif isinstance(field, list):
        keys = field
    else:
        problems.append(Problem(path, f"expected a path such as properties.total, got {kind_of(field)}"))
        return None
    if not keys or not all(isinstance(key, str) and key for key in keys):
        problems.append(Problem(path, f"expected a path such as properties.total, got {field!r}"))
        return None
    return tuple(str(key) for key in keys)
