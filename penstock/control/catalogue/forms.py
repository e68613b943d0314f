"""Writes the catalogue as JSON Schema, TypeScript types and a tracking plan. Pure.

All come from samples, so they say what was seen and not what may come: look them over before you rely on them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.control.catalogue.read import SeenEvent
from shared.project.tracking import TYPES

ENOUGH_SAMPLES = 20
"""From here on a property that was in every sample counts as required."""
_ROOTS = {"identify": "traits", "group": "traits"}
_WORD = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")
_TAKEN = frozenset({"Array", "Record", "TrackEvents"})
"""Names that the file itself uses."""
_SCRIPT = {"string": "string", "boolean": "boolean", "integer": "number", "number": "number", "null": "null"}


@dataclass(slots=True)
class _Node:
    types: set[str] = field(default_factory=set)
    seen: int = 0
    members: dict[str, _Node] = field(default_factory=dict)
    items: _Node | None = None


def schema_of(event: SeenEvent) -> dict[str, Any]:
    """Returns a JSON Schema of an event's `properties`, or `traits`."""
    return {"type": "object", **_object(_tree(event), event.sampled)}


def json_schemas(events: Sequence[SeenEvent]) -> dict[str, Any]:
    """Returns one document with a schema for each event, by its title."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": {title_of(event): {"title": title_of(event), **schema_of(event)} for event in events},
    }


def tracking_plan(events: Sequence[SeenEvent]) -> dict[str, Any]:
    """Returns the keys of a tracking plan; nothing in it is more than reported."""
    found: dict[str, Any] = {
        "on_violation": "report",
        "unplanned_events": "report",
        "unplanned_properties": "report",
        "events": {event.event: {"schema": schema_of(event)} for event in events if event.type == "track" and event.event},
    }
    return found | {event.type: {"schema": schema_of(event)} for event in events if event.type in TYPES}


def typescript(events: Sequence[SeenEvent]) -> str:
    """Returns an interface for each event, and the map of track events to theirs."""
    names: dict[str, SeenEvent] = {}
    for event in events:
        name = _camel(title_of(event))
        while name in names or name in _TAKEN:
            name += "_"
        names[name] = event
    lines = ["// what a site has sent: written by `penstock catalog types`", ""]
    for name, event in names.items():
        lines += [
            # the name comes from a client: it must not end the comment
            f"/** {title_of(event).replace('*/', '* /')} */",
            f"export interface {name} {_shape(_tree(event), event.sampled, '')}",
            "",
        ]
    lines.append("export interface TrackEvents {")
    lines += [f"  {_quoted(event.event)}: {name};" for name, event in names.items() if event.type == "track" and event.event]
    return "\n".join([*lines, "}", ""])


def title_of(event: SeenEvent) -> str:
    """Returns the name of an event for people: its own, or its type."""
    return event.event if event.type == "track" and event.event else event.type


def columns_of(event: SeenEvent) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yields the keys and types of what becomes a column: the leaves, and arrays whole."""
    whole = {each.path for each in event.properties}
    for each in event.properties:
        if "[]" in each.path or (each.types == ["object"] and any(path.startswith(f"{each.path}.") for path in whole)):
            continue
        yield tuple(each.path.split(".")), " | ".join(each.types)


def _tree(event: SeenEvent) -> _Node:
    root, head = _Node(), f"{_ROOTS.get(event.type, 'properties')}."
    for each in event.properties:
        if not each.path.startswith(head):
            continue
        node = root
        for step in each.path.removeprefix(head).split("."):
            name = step.rstrip("[]")
            node = node.members.setdefault(name, _Node())
            for _ in range(step.count("[]")):
                node.items = node = node.items or _Node()
        node.types, node.seen = set(each.types), each.seen
    return root


def _object(node: _Node, whole: int) -> dict[str, Any]:
    found: dict[str, Any] = (
        {"properties": {name: _schema(member) for name, member in node.members.items()}} if node.members else {}
    )
    required = _required(node, whole)
    return found | ({"required": required} if required else {})


def _required(node: _Node, whole: int) -> list[str]:
    return [name for name, member in node.members.items() if whole >= ENOUGH_SAMPLES and member.seen >= whole]


def _schema(node: _Node) -> dict[str, Any]:
    types = node.types - {"integer"} if {"integer", "number"} <= node.types else node.types
    found: dict[str, Any] = {} if not types else {"type": next(iter(types)) if len(types) == 1 else sorted(types)}
    if node.members:
        found |= _object(node, 0)
    if node.items is not None:
        found["items"] = _schema(node.items)
    return found


def _shape(node: _Node, whole: int, indent: str) -> str:
    if not node.members:
        return "Record<string, unknown>" if indent else "{ [key: string]: unknown }"
    required = _required(node, whole)
    lines = [
        f"{indent}  {name if _WORD.fullmatch(name) else _quoted(name)}{'' if name in required else '?'}: {_type(member, f'{indent}  ')};"
        for name, member in node.members.items()
    ]
    return "\n".join(["{", *lines, f"{indent}}}"])


def _type(node: _Node, indent: str) -> str:
    found = {_SCRIPT[each] for each in node.types if each in _SCRIPT}
    if "object" in node.types or node.members:
        found.add(_shape(node, 0, indent))
    if "array" in node.types or node.items is not None:
        inner = _type(node.items, indent) if node.items is not None else "unknown"
        found.add(f"Array<{inner}>")
    return " | ".join(sorted(found)) or "unknown"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _camel(title: str) -> str:
    """Returns a name for an interface. Letters of every script stay, except letters that older targets of TypeScript refuse."""
    letters = (each if each <= "\uffff" and f"a{each}".isidentifier() and each != "_" else " " for each in title)
    name = "".join(word[:1].upper() + word[1:] for word in "".join(letters).split())
    return name if name.isidentifier() else f"Event{name}"
