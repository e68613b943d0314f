"""`where`: the conditions of a connection as data, compiled once into a predicate.

A condition is `{field: <path>, <operator>: <operand>, ...}`; several operators in one condition must all hold. Conditions combine
by `{all: [...]}`, `{any: [...]}` and `{not: ...}`, and a list means all of its members. `field` is a dotted path into the
canonical event (`type`, `event`, `userId`, `anonymousId`, `messageId`, `properties.total`, `context.page.url`,
`properties.products.0.sku`); for keys that hold a dot it may be a list of keys. Names are the clients', in camelCase.

The exact rules:

- A field is *missing* when its path leads nowhere or to null. A missing field fails every operator but `exists: false`, `ne`
  and `not_in`, which it meets.
- `type`, `event`, `userId`, `anonymousId` and `messageId` come from the head that the edge made. A predicate that
  uses only these parses no body (`needs_body` is False). A predicate that uses others reads only these (`router/rules/view.py`).
  Times that the server fixes (`timestamp`, `receivedAt`, `sentAt`, `originalTimestamp`) are text in RFC 3339.
- `eq`, `in` and their opposites: numbers equal by value (1 is 1.0), text by code points, true and false only themselves. Values
  of different kinds are never equal; objects and arrays equal nothing. Two texts that are both ISO 8601 date-times with a time of
  day are equal when they are the same moment.
- `gt`, `gte`, `lt`, `lte` compare number with number and text with text (by code points; as moments where both are date-times)
  and fail for everything else.
- `contains`: text in text, or an element of an array that equals the operand. `starts_with`, `ends_with`, `matches` and `regex`
  take text only. `matches` is a glob over the whole text (`*`, `?`, `[a-z]`), case-sensitive. `regex` is RE2 and may match
  anywhere; it needs the package `google-re2`. Python's own expressions are not offered: one of them can halt a site.
- `exists: true | false`; `type`: one or several of string, number, boolean, object, array.

Predicates are pure and raise nothing on decoded JSON. A caller that cannot decode a body takes the event as not matching and
counts it (`router/rules/match.py`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from router.rules.operators import EXAMPLES, OPERATORS, Test, WrongOperandError
from router.rules.view import Path, View, compile_view
from shared.errors import ConfigError, Problem
from shared.events.event import JSON
from shared.events.frame import Head
from shared.reading.decode import kind_of, meant

HEAD_FIELDS = {
    "type": operator.attrgetter("type"),
    "event": operator.attrgetter("event"),
    "userId": operator.attrgetter("user_id"),
    "anonymousId": operator.attrgetter("anonymous_id"),
    "messageId": operator.attrgetter("message_id"),
}

MAX_DEPTH = 32
OnHead = Callable[[Head], bool | None]
OnEvent = Callable[[Head, JSON], bool]


@dataclass(frozen=True, slots=True)
class Predicate:
    """Compiled conditions.

    `on_head` answers from the head alone, or None if only the body can tell (never, unless `needs_body`). `on_event` answers from
    the head and the canonical event (`shared.events.event.materialise`), as far as `view` shows it; `view` is None if it needs
    all of it. `head_fields` are the fields of the head that it looks at.
    """

    needs_body: bool
    head_fields: frozenset[str]
    view: View | None
    on_head: OnHead
    on_event: OnEvent


def compile_where(where: object, path: str = "where") -> Predicate | None:
    """Compiles conditions as the project file holds them.

    Args:
        where: a condition, a list of conditions, or None.
        path: their place in the project file, for errors.

    Returns:
        The predicate; None if every event passes (no conditions).

    Raises:
        ConfigError: with every problem, each named by its path (`connections.shop-wh.where[1].gt`).
    """
    if where is None or where == []:
        return None
    problems: list[Problem] = []
    node = _compile(where, path, problems, 0)
    if problems:
        raise ConfigError(problems)
    view = compile_view(node.paths) if node.needs_body else None
    return Predicate(needs_body=node.needs_body, head_fields=node.fields, view=view, on_head=node.on_head, on_event=node.on_event)


EXAMPLE = "{field: type, in: [track, page]}"
FIELD = " did you mean `field`?"


class _Node:
    """One condition or combination: `fields` of the head and `paths` into the body it looks at. `judges_head` is False where the
    head can never decide."""

    __slots__ = ("fields", "judges_head", "on_event", "on_head", "paths")

    def __init__(
        self,
        on_head: OnHead,
        on_event: OnEvent,
        *,
        judges_head: bool,
        fields: frozenset[str] = frozenset(),
        paths: frozenset[Path] = frozenset(),
    ) -> None:
        self.on_head = on_head
        self.on_event = on_event
        self.judges_head = judges_head
        self.fields = fields
        self.paths = paths

    @property
    def needs_body(self) -> bool:
        return bool(self.paths)


_NEVER = _Node(lambda _: False, lambda _, __: False, judges_head=True)
"""Takes the place of a faulty condition, so that the rest is checked too."""


def _compile(where: object, path: str, problems: list[Problem], depth: int) -> _Node:
    if depth > MAX_DEPTH:
        problems.append(Problem(path, f"conditions nest deeper than {MAX_DEPTH}"))
        return _NEVER
    if isinstance(where, list):
        return _compile_all(where, path, problems, depth)
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
            return _negate(_compile(inner, f"{path}.not", problems, depth + 1))
        if not isinstance(inner, list):
            problems.append(
                Problem(
                    f"{path}.{word}", f"expected a list of conditions, got {kind_of(inner)}; for example `{word}: [{EXAMPLE}]`"
                )
            )
            return _NEVER
        compiled = _compile_all if word == "all" else _compile_any
        return compiled(inner, f"{path}.{word}", problems, depth)
    return _compile_condition(where, path, problems)


def _compile_list(members: list[Any], path: str, problems: list[Problem], depth: int) -> list[_Node]:
    if not members:
        problems.append(Problem(path, "expected at least one condition"))
        return [_NEVER]
    return [_compile(member, f"{path}[{index}]", problems, depth + 1) for index, member in enumerate(members)]


def _compile_all(members: list[Any], path: str, problems: list[Problem], depth: int) -> _Node:
    return _combine(_compile_list(members, path, problems, depth), decides=False)


def _compile_any(members: list[Any], path: str, problems: list[Problem], depth: int) -> _Node:
    return _combine(_compile_list(members, path, problems, depth), decides=True)


def _combine(nodes: list[_Node], *, decides: bool) -> _Node:
    """Combines nodes: the first False decides `all`, the first True `any`; if the head cannot tell, the other nodes decide."""
    if len(nodes) == 1:
        return nodes[0]
    # cheap answers first: the order of conditions has no meaning, as none of them can raise
    ordered = sorted(nodes, key=lambda node: node.needs_body)
    heads = [node.on_head for node in ordered if node.judges_head]
    events = [node.on_event for node in ordered]
    needs_body = any(node.needs_body for node in nodes)

    def on_head(head: Head) -> bool | None:
        undecided = needs_body
        for judge in heads:
            verdict = judge(head)
            if verdict is decides:
                return decides
            if verdict is None:
                undecided = True
        return None if undecided else not decides

    def on_event(head: Head, event: JSON) -> bool:
        for judge in events:
            if judge(head, event) is decides:
                return decides
        return not decides

    fields = frozenset[str]().union(*(node.fields for node in nodes))
    paths = frozenset[Path]().union(*(node.paths for node in nodes))
    return _Node(on_head, on_event, judges_head=bool(heads), fields=fields, paths=paths)


def _negate(node: _Node) -> _Node:
    inner_head, inner_event = node.on_head, node.on_event

    def on_head(head: Head) -> bool | None:
        verdict = inner_head(head)
        return None if verdict is None else not verdict

    def on_event(head: Head, event: JSON) -> bool:
        return not inner_event(head, event)

    return _Node(on_head, on_event, judges_head=node.judges_head, fields=node.fields, paths=node.paths)


def _compile_condition(where: dict[Any, Any], path: str, problems: list[Problem]) -> _Node:
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
    tests: list[tuple[Test, bool]] = []
    for name in operators:
        build = OPERATORS.get(name) if isinstance(name, str) else None
        if build is None:
            known = [*OPERATORS, "all", "any", "not"]
            problems.append(
                Problem(f"{path}.{name}", f"unknown operator;{meant(str(name), [*known, 'field'])} known: {', '.join(known)}")
            )
            continue
        try:
            tests.append(build(where[name]))
        except WrongOperandError as exc:
            problems.append(Problem(f"{path}.{name}", f"{exc}; for example `{EXAMPLES[name]}`"))
    if len(problems) > before or keys is None:
        return _NEVER
    return _combine([_leaf(keys, test, missing) for test, missing in tests], decides=False)


def _field(field: object, path: str, problems: list[Problem]) -> tuple[str, ...] | None:
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


def _leaf(keys: tuple[str, ...], test: Test, missing: bool) -> _Node:
    """Makes one condition; `missing` is the verdict for a missing field."""
    read_head = HEAD_FIELDS.get(keys[0]) if len(keys) == 1 else None
    if read_head is not None:

        def on_head(head: Head) -> bool | None:
            value = read_head(head)
            return missing if value is None else test(value)

        return _Node(on_head, lambda head, _: on_head(head) is True, judges_head=True, fields=frozenset(keys))
    read = _reader(keys)

    def on_event(_: Head, event: JSON) -> bool:
        value = read(event)
        return missing if value is None else test(value)

    return _Node(lambda _: None, on_event, judges_head=False, paths=frozenset([keys]))


def _reader(keys: tuple[str, ...]) -> Callable[[JSON], Any]:
    indexes = [int(key) if key.isascii() and key.isdigit() and len(key) < 10 else None for key in keys]
    steps = list(zip(keys, indexes, strict=True))

    def read(event: JSON) -> Any:
        value: Any = event
        for key, index in steps:
            if type(value) is dict:
                value = value.get(key)
            elif type(value) is list and index is not None and index < len(value):
                value = value[index]
            else:
                return None
        # the server's times are the only values that are not JSON
        return _text_of_time(value) if isinstance(value, datetime) else value

    return read


def _text_of_time(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
