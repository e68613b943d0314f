"""Checks one event against its plan: what is wrong with it, and what becomes of it.

No text that is made here holds a value of the event: violations are shown to people who may not see the events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from router.plans.compiled import Plan, Rule
from router.plans.weight import allowed
from shared.events.frame import Head
from shared.project.tracking import Action

SMALL = 100
"""Values of an event of which all faults are looked for at once. The validator finds every element of an array that is at fault, and a client
may send a hundred thousand: of a larger event it is asked for one fault at a time."""
ROUNDS = 10
"""How often values at fault are taken out of one event, to find others."""
MOST_NAMES = 50
"""Unplanned properties of one object that are named."""
TEXT_CHARACTERS = 200
UNPLANNED_EVENT, UNPLANNED_PROPERTY, UNREADABLE, COSTLY = "unplanned_event", "unplanned_property", "unreadable", "costly"
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


def judge(plan: Plan, head: Head, event: Mapping[str, Any], size: int) -> Verdict | None:
    """Returns what a plan says to an event; None: nothing is wrong.

    Args:
        event: as far as `plan.paths` go.
        size: bytes of its body.
    """
    rule = plan.events.get(head.event or "") if head.type == "track" else plan.types.get(head.type)
    if rule is None:
        if head.type != "track" or plan.unplanned_events == "allow":
            return None
        action: Action = plan.unplanned_events
        return Verdict(action, [Violation(UNPLANNED_EVENT, action)])
    path, value = _object_of(rule, event)
    if size > rule.weight.cheap_bytes and rule.weight.of(value, size) > allowed(size):
        return _not_told(rule, path, COSTLY, "a smaller value or a simpler schema")
    try:
        if rule.validator.is_valid(value):
            return None
        violations, without = _faults(rule, path, value, size)
    except (ValueError, RecursionError):  # the validator takes no more than 255 levels
        return _not_told(rule, path, UNREADABLE, "fewer levels")
    actions: list[Action] = [each.action for each in violations] or ["report"]
    worst = max(actions, key=_WORST.__getitem__)
    return Verdict(worst, violations, without if worst == "strip" else ())


def unreadable() -> Verdict:
    """Returns the verdict about an event whose JSON cannot be read."""
    return Verdict("dead_letter", [Violation(UNREADABLE, "dead_letter", expected="JSON that can be read")])


def _not_told(rule: Rule, path: Path, why: str, expected: str) -> Verdict:
    """Returns the verdict about an object whose faults cannot be told: what would be stripped cannot be, so that event is dead."""
    wanted: list[Action] = [rule.on_violation]
    if rule.unplanned_properties != "allow":
        wanted.append(rule.unplanned_properties)
    worst = max(wanted, key=_WORST.__getitem__)
    action: Action = "dead_letter" if "strip" in wanted else worst
    return Verdict(action, [Violation(why, action, _shown(path), expected=expected)])


def _object_of(rule: Rule, event: Mapping[str, Any]) -> tuple[tuple[str, ...], Any]:
    """Returns the checked object and where it lies; a missing one is empty."""
    for path in rule.paths:
        value: Any = event
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            return path, value
    return rule.paths[0], {}


def _faults(rule: Rule, root: tuple[str, ...], value: Any, size: int) -> tuple[list[Violation], list[Path]]:
    """Returns the faults of an object, and the paths of what must be taken out."""
    violations: list[Violation] = []
    without: list[Path] = []
    gone: set[Path] = set()
    small = _is_small(value)
    look = rule.validator.errors if small and rule.weight.errors else rule.validator.first_error
    for _ in range(rule.weight.rounds(rule.weight.of(value, size), size, ROUNDS)):
        found = [_of_error(rule, value, error, root) for error in look(value) if not _is_made(error, gone)]
        violations += (each for some, _ in found for each in some if each not in violations)
        taken = [path if small else _before_elements(path) for _, paths in found for path in paths]
        without += (
            path if small else _before_elements(path) for some, paths in found if some[0].action == "strip" for path in paths
        )
        if not taken:
            break
        value = _copied(value)
        for path in taken:
            _take_out(value, path)
        gone.update(taken)
        if rule.validator.is_valid(value):
            break
        look = rule.validator.first_error
    return violations, [(*root, *path) for path in dict.fromkeys(without)]


def _is_made(error: Any, gone: set[Path]) -> bool:
    """Whether an error is only there because a value at fault was taken out."""
    return str(error.kind.name) == "required" and (*error.instance_path, getattr(error.kind, "property", "")) in gone


def _before_elements(path: Path) -> Path:
    """Returns the path of the array that a path leads into, or the path itself."""
    return next((path[:place] for place, key in enumerate(path) if isinstance(key, int)), path)


def _is_small(value: Any) -> bool:
    """Whether a value holds no more than `SMALL` others."""
    left, waiting = SMALL, [value]
    while waiting:
        node = waiting.pop()
        inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        left -= len(inner)
        if left < 0:
            return False
        waiting.extend(inner)
    return True


def _of_error(rule: Rule, value: Any, error: Any, root: tuple[str, ...]) -> tuple[list[Violation], list[Path]]:
    """Returns the violations of one error of the validator, at least one, and the paths of what is at fault."""
    path: Path = tuple(error.instance_path)
    word, schema_path = str(error.kind.name), list(error.schema_path)
    if word in _CLOSED or (word == "falseSchema" and schema_path and schema_path[-1] in _CLOSED):
        inner = value_at(value, path)
        names = _unplanned(value_at(rule.schema, tuple(schema_path[:-1])), inner) or getattr(error.kind, "unexpected", None) or ()
        action: Action = rule.on_violation if rule.unplanned_properties == "allow" else rule.unplanned_properties
        told = [
            Violation(UNPLANNED_PROPERTY, action, _shown((*root, *path, name)), got=kind_of(value_at(inner, (name,))))
            for name in names[:MOST_NAMES]
        ]
        return told or [Violation(UNPLANNED_PROPERTY, action, _shown((*root, *path)))], [(*path, name) for name in names]
    if word == "required":
        missing = str(getattr(error.kind, "property", "") or "")
        act: Action = "report" if rule.on_violation == "strip" else rule.on_violation
        return [Violation(word, act, _shown((*root, *path, missing)), expected="a value", got="nothing")], []
    taken = path
    while taken and isinstance(taken[-1], int):
        taken = taken[:-1]
    act = "report" if rule.on_violation == "strip" and not taken else rule.on_violation
    expected = value_at(rule.schema, tuple(schema_path))
    text = "" if expected is None else msgspec.json.encode(expected, enc_hook=str).decode()
    got = kind_of(value_at(value, path))
    return [Violation(word, act, _shown((*root, *path)), expected=_cut(text), got=got)], [taken] if taken else []


def _unplanned(schema: Any, value: Any) -> list[str]:
    """Returns the keys that a schema does not name, of a closed object; none if only the validator can tell them."""
    if not isinstance(schema, Mapping) or "patternProperties" in schema or not isinstance(value, dict):
        return []
    return [key for key in value if key not in schema.get("properties", {})] if _CLOSED[0] in schema else []


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
