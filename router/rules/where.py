"""`where` on events: conditions compiled once into a predicate. `shared/rules/where.py` has the language and its exact rules.

`field` is a dotted path into the canonical event (`type`, `event`, `userId`, `anonymousId`, `messageId`, `properties.total`,
`context.page.url`, `properties.products.0.sku`). Names are the clients', in camelCase.

- `type`, `event`, `userId`, `anonymousId` and `messageId` come from the head that the edge made. A predicate that
  uses only these parses no body (`needs_body` is False). A predicate that uses others reads only these (`router/rules/view.py`).
  Times that the server fixes (`timestamp`, `receivedAt`, `sentAt`, `originalTimestamp`) are text in RFC 3339.

Predicates are pure and raise nothing on decoded JSON. A caller that cannot decode a body takes the event as not matching and
counts it (`router/rules/match.py`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from router.rules.view import Path, View, compile_view
from shared.events.event import JSON
from shared.events.frame import Head
from shared.rules.operators import Test
from shared.rules.where import Condition, Every, Node, Not, Some, read_where, reader

HEAD_FIELDS = {
    "type": operator.attrgetter("type"),
    "event": operator.attrgetter("event"),
    "userId": operator.attrgetter("user_id"),
    "anonymousId": operator.attrgetter("anonymous_id"),
    "messageId": operator.attrgetter("message_id"),
}

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
    read = read_where(where, path)
    if read is None:
        return None
    node = _compile(read)
    view = compile_view(node.paths) if node.needs_body else None
    return Predicate(needs_body=node.needs_body, head_fields=node.fields, view=view, on_head=node.on_head, on_event=node.on_event)


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


def _compile(node: Node) -> _Node:
    match node:
        case Every():
            return _combine([_compile(each) for each in node.members], decides=False)
        case Some():
            return _combine([_compile(each) for each in node.members], decides=True)
        case Not():
            return _negate(_compile(node.member))
        case Condition():
            return _leaf(node.path, node.test, node.missing)


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


def _leaf(keys: tuple[str, ...], test: Test, missing: bool) -> _Node:
    """Makes one condition; `missing` is the verdict for a missing field."""
    read_head = HEAD_FIELDS.get(keys[0]) if len(keys) == 1 else None
    if read_head is not None:

        def on_head(head: Head) -> bool | None:
            value = read_head(head)
            return missing if value is None else test(value)

        return _Node(on_head, lambda head, _: on_head(head) is True, judges_head=True, fields=frozenset(keys))
    read = reader(keys)

    def on_event(_: Head, event: JSON) -> bool:
        value = read(event)
        # the server's times are the only values that are not JSON
        return missing if value is None else test(_text_of_time(value) if isinstance(value, datetime) else value)

    return _Node(lambda _: None, on_event, judges_head=False, paths=frozenset([keys]))


def _text_of_time(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
