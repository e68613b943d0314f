"""How long a schema can take for an event, in units of about 10 ns: so that no event of a stranger holds up a site.

A schema is weighed once, place by place. `Weight.cheap_bytes` tells up to which size no event is costly; only a larger one is weighed itself.
Two things cost most: many schemas or values for each element of an array, and expressions whose repetitions overlap, which take long
for each character.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from router.plans.bounds import UnboundedError
from router.plans.expressions import character_units

FREE, OF_BYTE = 500_000.0, 50.0
"""What an event may take: 5 ms, and 0.5 µs for each of its bytes."""
MOST_UNITS = 100_000
MOST_BRANCHES = 1000
ERROR = 1500.0
"""An error that the validator makes; it makes one for each branch of an `anyOf`."""
MULTIPLE, FAR = 200.0, 4000.0
"""`multipleOf` of a usual number, and of one like 1e300."""
AGAIN = 25.0
"""A property that `unevaluatedProperties` asks all schemas beside it about, again for each such word inside of another."""
VISIT = 100.0
"""A value of an event that is weighed."""
SCANNED = 40
"""Names of `properties` up to which the validator goes through all of them, and not through those of the value."""
_SCHEMAS = ("$ref", "$dynamicRef", "$recursiveRef")
_LISTS, _INNER, _BY_NAME = ("allOf", "anyOf", "oneOf"), ("not", "if", "then", "else"), ("dependentSchemas", "dependencies")
_WILD = (
    "additionalProperties",
    "unevaluatedProperties",
    "items",
    "additionalItems",
    "contains",
    "unevaluatedItems",
    "propertyNames",
)
_ASKS_AGAIN = ("unevaluatedProperties", "unevaluatedItems")


@dataclass(slots=True)
class Place:
    """All schemas that look at one value. `named`: places of its properties; `wild`: one for each of its elements or properties."""

    units: float = 0.0
    characters: float = 0.0
    multiples: int = 0
    branches: int = 0
    again: float = 1.0
    named: dict[str, Place] = field(default_factory=dict)
    wild: Place | None = None


@dataclass(frozen=True, slots=True)
class Weight:
    """The weight of a schema. `errors`: whether all faults of a small event may be asked for at once."""

    place: Place
    cheap_bytes: float
    errors: bool
    once: float
    each: float
    characters: float
    branches: int

    def of(self, value: Any, size: int) -> float:
        """Returns how many units an event of `size` bytes takes at most; more than `allowed(size)`: it is too costly."""
        if size <= self.cheap_bytes:
            return self.once + self.each * size / 2 + self.characters * size
        return _walked(self.place, value, allowed(size))

    def rounds(self, units: float, size: int, most: int) -> int:
        """Returns how often faults of an event may be looked for, once at least."""
        return max(1, min(most, int(4 * allowed(size) / (2 * units + ERROR * self.branches + 1))))


def allowed(size: int) -> float:
    """Returns the units that an event of `size` bytes may take."""
    return FREE + OF_BYTE * size


def weigh(schema: Mapping[str, Any]) -> Weight:
    """Returns the weight of a schema that is within its bounds (`bounds.py`).

    Raises:
        UnboundedError: one value alone would take too long.
    """
    place = _Scales(schema).place([schema], 0)
    once, each = _once(place), _each(place)
    for told, units in (("an event", once), ("one value of an array", each.units)):
        if units > MOST_UNITS:
            raise UnboundedError(
                f"{told} would be compared with up to {int(units)} schemas and values; at most {MOST_UNITS} may be"
            )
    if each.branches > MOST_BRANCHES:
        raise UnboundedError(
            f"one value would be compared with {each.branches} branches of `anyOf` and `oneOf`; at most {MOST_BRANCHES} may be"
        )
    slope = each.units / 2 + each.multiples * FAR / 6 + each.characters - OF_BYTE
    return Weight(
        place=place,
        cheap_bytes=math.inf if slope <= 0 else (FREE - once) / slope,
        errors=ERROR * each.branches * 100 <= 4 * FREE,
        once=once,
        each=each.units + each.multiples * FAR / 3,
        characters=each.characters,
        branches=each.branches,
    )


class _Scales:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root

    def place(self, schemas: list[Any], above: int) -> Place:
        """Returns the place of all that `schemas` ask of one value; `above`: how many `uniqueItems` look into it from above."""
        made, named, wild = Place(units=10.0 * above), dict[str, list[Any]](), list[Any]()
        unique = above
        for schema in schemas:
            unique += self._add(schema, made, named=named, wild=wild, times=1.0)
        made.named = {key: self.place(inner, unique) for key, inner in named.items()}
        if wild:
            made.wild = self.place(wild, unique)
            made.wild.units += AGAIN * made.again if made.again > 1 else 0
        return made

    def _add(self, schema: Any, made: Place, *, named: dict[str, list[Any]], wild: list[Any], times: float) -> int:
        """Adds a schema, and the schemas in it that look at the same value, to a place; returns how many `uniqueItems` it has."""
        if not isinstance(schema, dict):
            made.units += times
            return 0
        times *= 2 if any(word in schema for word in _ASKS_AGAIN) else 1
        made.again = max(made.again, times)
        made.units += times * (1 + _own(schema))
        if made.units > 100 * MOST_UNITS:
            raise UnboundedError(f"one value would be compared with more than {100 * MOST_UNITS} schemas and values")
        made.characters += character_units(schema["pattern"]) if isinstance(schema.get("pattern"), str) else 0
        made.multiples += "multipleOf" in schema
        inner = [self._target(schema[word]) for word in _SCHEMAS if word in schema]
        for word in _LISTS:
            branches = schema.get(word) or ()
            inner += branches
            made.branches += len(branches) if word != "allOf" else 0
        inner += [schema[word] for word in _INNER if word in schema]
        inner += [each for word in _BY_NAME for each in (schema.get(word) or {}).values() if not isinstance(each, list)]
        for key, each in (schema.get("properties") or {}).items():
            named.setdefault(key, []).append(each)
        for word in ("prefixItems", "items"):
            if isinstance(schema.get(word), list):
                for index, each in enumerate(schema[word]):
                    named.setdefault(f"[{index}]", []).append(each)
        wild += [schema[word] for word in _WILD if word in schema and not isinstance(schema[word], list)]
        for pattern, each in (schema.get("patternProperties") or {}).items():
            wild += ({"pattern": pattern}, each)
        return bool(schema.get("uniqueItems")) + sum(self._add(each, made, named=named, wild=wild, times=times) for each in inner)

    def _target(self, reference: str) -> Any:
        node: Any = self._root
        for step in reference.split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            node = node[int(name)] if isinstance(node, list) else node[name]
        return node


def _own(schema: Mapping[str, Any]) -> float:
    units = float(len(schema))
    for word in ("enum", "const"):
        if word in schema:
            units += sum(
                45.0 if isinstance(each, (list, dict)) else 2.0 for each in (schema[word] if word == "enum" else [schema[word]])
            )
    units += len(schema.get("required") or ()) + 2 * min(len(schema.get("properties") or ()), SCANNED)
    units += sum(1 + len(each) for each in (schema.get("dependentRequired") or {}).values())
    units += MULTIPLE * ("multipleOf" in schema) + 6 * ("pattern" in schema) + 10 * ("format" in schema)
    return units


def _once(place: Place) -> float:
    return place.units + sum(map(_once, place.named.values()))


@dataclass(frozen=True, slots=True)
class _Most:
    units: float = 0.0
    characters: float = 0.0
    multiples: int = 0
    branches: int = 0


def _each(place: Place, repeated: bool = False) -> _Most:
    """Returns the most that one value below a place takes; of units, one whose like there may be any number of."""
    inner = [_each(each, repeated) for each in place.named.values()]
    wild = _each(place.wild, True) if place.wild is not None else _Most()

    def most(of: str) -> Any:
        own = getattr(place, of) if repeated or of in ("characters", "branches") else 0
        return max(own, getattr(wild, of) + max((getattr(each, of) for each in inner), default=0))

    return _Most(most("units"), most("characters"), most("multiples"), most("branches"))


def _walked(place: Place, value: Any, most: float) -> float:
    """Returns the units that a value takes; stops where they are too many."""
    units = place.units
    waiting: list[tuple[Any, list[Place]]] = [(value, [place])]
    while waiting and units <= most:
        node, places = waiting.pop()
        is_list = isinstance(node, list)
        wild = [each.wild for each in places if each.wild is not None]
        named = [each.named for each in places if each.named]
        for_name = sum(each.characters for each in wild)
        for key, inner in enumerate(node) if is_list else node.items() if isinstance(node, dict) else ():
            asked = wild
            if named:
                name = f"[{key}]" if is_list else key
                asked = [*wild, *(each[name] for each in named if name in each)]
            units += VISIT + sum([each.units for each in asked]) + (len(key) * for_name if isinstance(key, str) else 0)
            if isinstance(inner, str):
                units += len(inner) * sum([each.characters for each in asked])
            elif isinstance(inner, (dict, list)):
                waiting.append((inner, asked))
            elif isinstance(inner, (float, int)) and not -1e20 < inner < 1e20:
                units += FAR * sum([each.multiples for each in asked])
            if units > most:
                break
    return units
