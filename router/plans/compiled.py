"""Compiles a tracking plan, once, into rules that an event is checked by.

A schema with `properties` that does not say what else may be there gets `additionalProperties: false`, unless the plan allows
unplanned properties: so one look of the validator finds all that is wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from router.plans.bounds import REGEX_BYTES, UnboundedError, check_bounds
from router.plans.weight import Weight, weigh
from shared.errors import ConfigError, Problem
from shared.project.tracking import TYPES, Action, PlannedEvent, TrackingPlan, UnplannedEvents, UnplannedProperties

PROPERTIES, TRAITS, CONTEXT_TRAITS = ("properties",), ("traits",), ("context", "traits")
_APPLIED = ("$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "if", "then", "else", "dependentSchemas")
"""Words by which other schemas can name properties of the same object."""
_CLOSED = ("additionalProperties", "unevaluatedProperties")


class Validator:
    """A compiled schema."""

    def __init__(self, compiled: Any, fault: type[Exception]) -> None:
        self.is_valid: Callable[[Any], bool] = compiled.is_valid
        self._compiled = compiled
        self._fault = fault

    def errors(self, value: Any) -> list[Any]:
        """Returns every error; each costs 8 µs and more, so ask only for small values and if the schema's weight allows it."""
        return list(self._compiled.iter_errors(value))

    def first_error(self, value: Any) -> list[Any]:
        """Returns the first error; none if the value is valid."""
        try:
            self._compiled.validate(value)
        except self._fault as exc:
            return [exc]
        return []


@dataclass(frozen=True, slots=True)
class Rule:
    """What is asked of one event: `paths` are where its object may lie, the first that is there counts."""

    paths: tuple[tuple[str, ...], ...]
    on_violation: Action
    unplanned_properties: UnplannedProperties
    schema: Mapping[str, Any]
    validator: Validator = field(compare=False, repr=False)
    weight: Weight = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan of one revision. `revision` is made of its content, so it stays while the plan stays."""

    name: str
    revision: str
    unplanned_events: UnplannedEvents
    events: Mapping[str, Rule]
    types: Mapping[str, Rule]

    @property
    def paths(self) -> frozenset[tuple[str, ...]]:
        """What the rules look at in an event."""
        return frozenset(path for rule in (*self.events.values(), *self.types.values()) for path in rule.paths)


def compile_plan(name: str, plan: TrackingPlan) -> Plan:
    """Returns the rules of a plan.

    Raises:
        ConfigError: with every schema that is none, or is beyond the bounds; each problem has its place.
    """
    problems: list[Problem] = []
    path = f"tracking_plans.{name}"
    rules: dict[tuple[str, str], Rule] = {}
    for event, planned in plan.events.items():
        _add(plan, planned, key=("events", event), path=f"{path}.events.{event}", rules=rules, problems=problems)
    for kind in TYPES:
        of_type: PlannedEvent | None = getattr(plan, kind)
        if of_type is not None:
            _add(plan, of_type, key=("types", kind), path=f"{path}.{kind}", rules=rules, problems=problems)
    if problems:
        raise ConfigError(problems)
    content = msgspec.json.encode(msgspec.structs.replace(plan, file=None), order="sorted")
    return Plan(
        name=name,
        revision=hashlib.sha256(content).hexdigest()[:12],
        unplanned_events=plan.unplanned_events,
        events={event: rule for (group, event), rule in rules.items() if group == "events"},
        types={kind: rule for (group, kind), rule in rules.items() if group == "types"},
    )


def _add(
    plan: TrackingPlan,
    planned: PlannedEvent,
    *,
    key: tuple[str, str],
    path: str,
    rules: dict[tuple[str, str], Rule],
    problems: list[Problem],
) -> None:
    unplanned = planned.unplanned_properties or plan.unplanned_properties
    schema = closed(planned.schema) if unplanned != "allow" else planned.schema
    try:
        check_bounds(planned.schema)
        validator = _compile(schema)
        weight = weigh(schema)
    except (UnboundedError, ValueError, RecursionError) as exc:
        problems.append(Problem(f"{path}.schema", str(exc) or "it nests too deep"))
        return
    paths = (TRAITS, CONTEXT_TRAITS) if key[1] == "identify" else (TRAITS,) if key[1] == "group" else (PROPERTIES,)
    rules[key] = Rule(
        paths=paths if key[0] == "types" else (PROPERTIES,),
        on_violation=planned.on_violation or plan.on_violation,
        unplanned_properties=unplanned,
        schema=schema,
        validator=validator,
        weight=weight,
    )


def closed(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns a schema that allows no other properties than it names, unless it names none or says more of them itself. A required
    property is a named one.
    """
    if "properties" not in schema or any(word in schema for word in _CLOSED):
        return schema
    required, properties = schema.get("required"), schema["properties"]
    if isinstance(required, list) and isinstance(properties, dict):
        schema = {
            **schema,
            "properties": {**dict.fromkeys(filter(lambda name: isinstance(name, str), required), True), **properties},
        }
    return {**schema, _CLOSED[any(word in schema for word in _APPLIED)]: False}


def _compile(schema: Mapping[str, Any]) -> Validator:
    """Compiles a schema; raises ValueError with what is wrong with it, and where."""
    import jsonschema_rs  # only projects with a plan need it

    try:
        options = jsonschema_rs.RegexOptions(size_limit=REGEX_BYTES, dfa_size_limit=REGEX_BYTES)
        made = jsonschema_rs.validator_for(
            {"type": "object", **schema}, pattern_options=options, validate_formats=True, offline=True
        )
    except jsonschema_rs.ValidationError as exc:
        place = ".".join(map(str, exc.instance_path))
        raise ValueError(f"{place}: {exc.message}" if place else exc.message) from exc
    return Validator(made, jsonschema_rs.ValidationError)
