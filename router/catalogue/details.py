"""What samples of events show: properties with their types, who sends them, and one masked event. Pure.

All is bounded: paths of an event, paths of a site, lengths, senders. Values never leave here: a text keeps its shape (`Aaaa 99`), so a sample
shows what a value looks like and not what it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from shared.catalogue.stored import EventDetails, Property
from shared.events.event import JSON

MOST_PROPERTIES = 300
"""Of one event."""
MOST_OF_SITE = 20_000
DEPTH = 4
ELEMENTS = 3
"""Elements of an array that are looked at."""
PATH_CHARACTERS = 160
SAMPLE_CHARACTERS = 40
MOST_SENDERS = 20
LOOKED_AT = ("properties", "traits", "context")
_KINDS = {str: "string", bool: "boolean", int: "integer", float: "number", dict: "object", list: "array", type(None): "null"}
_SMALL, _LARGE, _DIGIT = re.compile(r"[^\W\dA-Z_]"), re.compile(r"[A-Z]"), re.compile(r"\d")


def add_sample(
    details: EventDetails, event: JSON, at: float, *, key: str, room: int, people: Sequence[str], with_sample: bool
) -> int:
    """Adds one event; returns how many properties are new.

    Args:
        at: when it was stored (epoch seconds).
        key: id of the write key.
        room: how many properties the site may have more.
        people: digests of its ids.
        with_sample: keep its masked values.
    """
    added = 0
    details.sampled += 1
    sample: dict[str, Any] = {}
    for path, value in paths(event):
        found = details.properties.get(path)
        if found is None:
            if len(details.properties) >= MOST_PROPERTIES or added >= room:
                details.left_out += 1
                continue
            found = details.properties[path] = Property(at, at, 0, {})
            added += 1
        kind = _KINDS.get(type(value), "string")
        found.seen += 1
        found.types[kind] = found.types.get(kind, 0) + 1
        found.last_at = max(found.last_at, at)
        if with_sample and not isinstance(value, (dict, list)):
            sample.setdefault(path, mask(value))
    if with_sample:
        details.sample, details.people = sample, list(people)
    if key:
        _note(details.keys, key, at)
    library = _library(event)
    if library:
        _note(details.libraries, library, at)
    return added


def forget(details: EventDetails) -> None:
    """Takes the sample out."""
    details.sample, details.people = {}, []


def paths(event: JSON) -> Iterator[tuple[str, Any]]:
    """Yields every path below `properties`, `traits` and `context` with its value, objects and arrays too."""
    for root in LOOKED_AT:
        value = event.get(root)
        if isinstance(value, dict):
            yield from _below(root, value, 1)


def _below(path: str, value: dict[str, Any], depth: int) -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        place = f"{path}.{key}"
        if len(place) > PATH_CHARACTERS:
            continue
        yield place, inner
        yield from _inside(place, inner, depth)


def _inside(place: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    if depth >= DEPTH:
        return
    if isinstance(value, dict):
        yield from _below(place, value, depth + 1)
    elif isinstance(value, list):
        for element in value[:ELEMENTS]:
            yield f"{place}[]", element
            yield from _inside(f"{place}[]", element, depth + 1)


def mask(value: Any) -> Any:
    """Returns the shape of a value: letters as `a` and `A`, digits as `9`, cut; true, false and null stay."""
    if value is None or isinstance(value, bool):
        return value
    text = str(value)[:SAMPLE_CHARACTERS]
    return _DIGIT.sub("9", _SMALL.sub("a", _LARGE.sub("A", text)))


def _library(event: JSON) -> str:
    context = event.get("context")
    library = context.get("library") if isinstance(context, dict) else None
    if not isinstance(library, dict) or not isinstance(library.get("name"), str):
        return ""
    version = library.get("version")
    return f"{library['name'][:60]} {version[:20]}" if isinstance(version, str) else str(library["name"][:60])


def _note(senders: dict[str, float], name: str, at: float) -> None:
    senders[name] = max(at, senders.get(name, 0.0))
    if len(senders) > MOST_SENDERS:
        del senders[min(senders, key=senders.__getitem__)]
