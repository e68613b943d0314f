"""The rules of a stream that a sync reads, checked against the stream's catalogue. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from connector_runner.contract import Stream
from connector_runner.rules.conditions import paths_of
from connector_runner.rules.sifting import FILTERED_AT, Rules
from shared.errors import ConfigError, Problem
from shared.project.functions import ANY_DEPTH, ANY_KEY, PrivacyRule, check_rules_of_rows
from shared.project.syncs import SyncStream
from shared.reading.decode import meant
from shared.rules.where import Path, read_where
from shared.syncs.frames import Write

LEAVING: tuple[Write, ...] = ("merge", "history")
"""Ways of writing by which a stored row has to go when its newer version does not meet `where`."""
_OPEN = {"oneOf", "anyOf", "allOf", "$ref", "patternProperties"}
"""Words by which a schema allows more than its `properties`. `additionalProperties` is not one: many write it without meaning it."""


def rules_of(stream: Stream, how: SyncStream, write: Write, *, key: tuple[Path, ...], cursor: Path, obeyed: Path) -> Rules:
    """Returns the rules of a stream.

    Args:
        key, cursor: of the rows, as the stream is read.
        obeyed: path of the mark by which the loader takes rows away; empty: it takes none.
    """
    where = read_where(how.where)
    mark = None
    if where is not None and how.unmatched == "remove" and write in LEAVING:
        mark = obeyed[0] if len(obeyed) == 1 else FILTERED_AT
    known_by = tuple(path for path in (*key, cursor, stream.deleted) if path)
    columns: tuple[Path, ...] | None = None
    if how.columns is not None:
        chosen = (*map(path_of, how.columns), *known_by)
        former = tuple((*stream.before, *path) for path in chosen) if stream.before else ()
        columns = (*chosen, *((name,) for name in stream.added), *former)
    looked_into = [*(paths_of(where) if where is not None else ()), *(path for path in columns or () if len(path) > 1)]
    looked_into += [rule.path for rule in how.privacy]
    return Rules(
        where=where,
        columns=columns,
        privacy=how.privacy,
        known_by=known_by,
        mark=mark,
        deleted=stream.deleted,
        obeyed=bool(obeyed),
        before=stream.before,
        json=_json_columns(stream, looked_into),
    )


def wanted_of(stream: Stream, how: SyncStream, rules: Rules) -> tuple[Path, ...] | None:
    """Returns the columns that the connector is asked for: stored columns, and columns that the rules look at; None: all."""
    if how.columns is None:
        return None
    looked_at = paths_of(rules.where) if rules.where is not None else frozenset()
    return tuple(dict.fromkeys((*map(path_of, how.columns), *sorted(looked_at), *([stream.deleted] if stream.deleted else ()))))


def check_rules(stream: Stream, how: SyncStream, known_by: Mapping[str, tuple[Path, ...]]) -> Iterator[Problem]:
    """Yields what is wrong with the rules, each with its place behind the stream's name.

    Args:
        known_by: paths that must stay, by what they are: `primary_key`, `cursor`, `deleted`.
    """
    try:
        where = read_where(how.where, "where")
    except ConfigError as exc:
        yield from exc.problems
        where = None
    for path in sorted(paths_of(where)) if where is not None else ():
        if why := lacks(stream, path):
            yield Problem("where", why)
    for index, column in enumerate(how.columns or ()):
        if why := lacks(stream, path_of(column)):
            yield Problem(f"columns[{index}]", why)
    for index, rule in enumerate(how.privacy):
        if not {ANY_KEY, ANY_DEPTH} & set(rule.path) and (why := lacks(stream, rule.path)):
            yield Problem(f"privacy[{index}].field", f"{why}; if rows have it nevertheless, write `{_anywhere(rule)}`")
    yield from check_rules_of_rows("", how.privacy, known_by)


def lacks(stream: Stream, path: Path) -> str:
    """Returns why the rows of a stream cannot have a value at a path, as far as the catalogue tells; empty if they can."""
    schema: Any = stream.json_schema
    if path[0] in (*stream.added, *stream.cursor[:1], *stream.deleted[:1], *stream.before[:1]):
        return ""
    for depth, key in enumerate(path):
        numbered = False
        while "array" in _kinds(schema) and not numbered:
            schema, numbered = schema.get("items"), key.isdigit()
        if numbered:
            continue
        if not isinstance(schema, Mapping) or _OPEN & set(schema):
            return ""
        properties, kinds = schema.get("properties"), _kinds(schema)
        if isinstance(properties, Mapping) and properties:
            if key not in properties:
                place = f"{'.'.join(path[:depth])} has" if depth else "the connector's catalogue has for this stream"
                return f"{place} no {key!r};{meant(key, properties)} known: {', '.join(map(str, properties))}"
            schema = properties[key]
        elif depth and kinds and "object" not in kinds:
            return f"{'.'.join(path[:depth])} is of type {' or '.join(sorted(kinds - {'null'}))}, so it has nothing inside"
        else:
            return ""
    return ""


def path_of(text: str) -> Path:
    """Returns the keys of a dotted path."""
    return tuple(text.split("."))


def _kinds(schema: Any) -> set[str]:
    kinds = schema.get("type") if isinstance(schema, Mapping) else None
    return {kinds} if isinstance(kinds, str) else set(kinds or ())


def _json_columns(stream: Stream, paths: Sequence[Path]) -> frozenset[str]:
    """Returns the columns that hold any JSON, although a source may give them as texts; only columns that paths lead to."""
    properties = stream.json_schema.get("properties")
    if not isinstance(properties, Mapping):
        return frozenset()
    roots = {path[0] for path in paths}
    found = [str(name) for name, schema in properties.items() if isinstance(schema, Mapping) and "type" not in schema]
    return frozenset(name for name in found if name in roots or roots & {ANY_KEY, ANY_DEPTH})


def _anywhere(rule: PrivacyRule) -> str:
    return ".".join((ANY_DEPTH, *rule.path))
