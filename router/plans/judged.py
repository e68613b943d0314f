"""Checks one event against its plan: what is wrong with it, and what becomes of it.

No text that is made here holds a value of the event: violations are shown to people who may not see the events.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from router.plans.compiled import Plan, Rule
from shared.events.frame import Head
from shared.project.tracking import Action

MOST_ERRORS = 200
"""Errors of one event that are looked at; an array may have a fault in each of its elements."""
ROUNDS = 3
"""How often values are taken out of one event, until nothing is left to take out."""
TEXT_CHARACTERS = 200
UNPLANNED_EVENT, UNPLANNED_PROPERTY, UNREADABLE = "unplanned_event", "unplanned_property", "unreadable"
_CLOSED = ("additionalProperties", "unevaluatedProperties")
_KINDS = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
_WORST: Mapping[Action, int] = {"report": 0, "strip": 1, "drop": 2, "dead_letter": 3}

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Violation:
    """One fault. `field` is a path with `[]` for every element of an array; `expected` is of the schema, `got` a kind of value."""

    rule: str
    action: Action
    field: str = ""
    expected: str = ""
    got: str = ""

    def __str__(self) -> str:
        found = f", got {self.got}" if self.got else ""
        place = f"{self.field}: " if self.field else ""
        return f"{place}{self.rule}" + (f", expected {self.expected}" if self.expected else "") + found


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of an event: the worst action of its violations. `without`: paths that are taken out of it."""

    action: Action
    violations: Sequence[Violation]
    without: Sequence[Path] = ()


def judge(plan: Plan, head: Head, event: Mapping[str, Any]) -> Verdict | None:
    """Returns what a plan says to an event; None: nothing is wrong.

    Args:
        event: as far as `plan.paths` go.
    """
    rule = plan.events.get(head.event or "") if head.type == "track" else plan.types.get(head.type)
    if rule is None:
        if head.type != "track" or plan.unplanned_events == "allow":
            return None
        action: Action = plan.unplanned_events
        return Verdict(action, [Violation(UNPLANNED_EVENT, action)])
    path, value = _object_of(rule, event)
    if rule.validator.is_valid(value):
        return None
    violations, without = _faults(rule, path, value)
    actions: list[Action] = [each.action for each in violations] or ["report"]
    worst = max(actions, key=_WORST.__getitem__)
    return Verdict(worst, violations, without if worst == "strip" else ())


def unreadable() -> Verdict:
    """Returns the verdict about an event whose JSON cannot be read."""
    return Verdict("dead_letter", [Violation(UNREADABLE, "dead_letter", expected="JSON that can be read")])


def _object_of(rule: Rule, event: Mapping[str, Any]) -> tuple[tuple[str, ...], Any]:
    """Returns the checked object and where it lies; a missing one is empty."""
    for path in rule.paths:
        value: Any = event
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            return path, value
    return rule.paths[0], {}


def _faults(rule: Rule, root: tuple[str, ...], value: Any) -> tuple[list[Violation], list[Path]]:
    violations: list[Violation] = []
    without: list[Path] = []
    for round_ in range(ROUNDS):
        fresh: list[Path] = []
        for error in itertools.islice(rule.validator.iter_errors(value), MOST_ERRORS):
            found = _of_error(rule, value, error, root)
            if not round_:
                violations += (each for each, _ in found)
            fresh += (path for each, path in found if each.action == "strip" and path not in without)
        if not fresh:
            break
        value = _copied(value)
        for path in fresh:
            _take_out(value, path)
        without += fresh
    return violations, [(*root, *path) for path in without]


def _of_error(rule: Rule, value: Any, error: Any, root: tuple[str, ...]) -> list[tuple[Violation, Path]]:
    """Returns the violations of one error of the validator, each with the path of what to take out."""
    path: Path = tuple(error.instance_path)
    word, schema_path = str(error.kind.name), list(error.schema_path)
    if word in _CLOSED or (word == "falseSchema" and schema_path and schema_path[-1] in _CLOSED):
        inner = value_at(value, path)
        names = getattr(error.kind, "unexpected", None) or (list(inner) if isinstance(inner, dict) else [])
        action: Action = rule.on_violation if rule.unplanned_properties == "allow" else rule.unplanned_properties
        return [
            (
                Violation(UNPLANNED_PROPERTY, action, _shown((*root, *path, name)), got=kind_of(value_at(inner, (name,)))),
                (*path, name),
            )
            for name in names
        ]
    if word == "required":
        missing = str(getattr(error.kind, "property", "") or "")
        act: Action = "report" if rule.on_violation == "strip" else rule.on_violation
        return [(Violation(word, act, _shown((*root, *path, missing)), expected="a value", got="nothing"), path)]
    taken = path
    while taken and isinstance(taken[-1], int):
        taken = taken[:-1]
    act = "report" if rule.on_violation == "strip" and not taken else rule.on_violation
    expected = value_at(rule.schema, tuple(schema_path))
    told = "" if expected is None else msgspec.json.encode(expected, enc_hook=str).decode()
    got = kind_of(value_at(value, path))
    return [(Violation(word, act, _shown((*root, *path)), expected=_cut(told), got=got), taken)]


def value_at(value: Any, path: Path) -> Any:
    """Returns what a path leads to; None: nowhere."""
    for key in path:
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list) and isinstance(key, int) and 0 <= key < len(value):
            value = value[key]
        else:
            return None
    return value


def kind_of(value: Any) -> str:
    """Returns the kind of a value in JSON Schema's words."""
    return _KINDS.get(type(value), "string")


def _shown(path: Path) -> str:
    text = ""
    for key in path:
        text += "[]" if isinstance(key, int) else f".{key}" if text else key
    return _cut(text)


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_CHARACTERS else f"{text[: TEXT_CHARACTERS - 1]}…"


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list) else value


def _take_out(value: Any, path: Path) -> None:
    inner = value_at(value, path[:-1])
    if isinstance(inner, dict):
        inner.pop(path[-1], None)
