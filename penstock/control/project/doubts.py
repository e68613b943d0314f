"""Warnings of `penstock plan` and `apply`: settings of a project file that are allowed but rarely meant. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from shared.devices.connections import DeviceConnection
from shared.devices.registry import DEVICES
from shared.errors import Problem
from shared.project.model import Connection, Project

FIELDS = (
    "type", "event", "userId", "anonymousId", "messageId", "groupId", "previousId", "name", "category", "properties", "traits", "context",
    "integrations", "timestamp", "receivedAt", "sentAt", "originalTimestamp", "channel", "version",
)  # fmt: skip
"""Keys at the top of an event in Segment's form; a client may send others."""
ALIKE = 0.75
"""From this similarity on, one name counts as a misspelling of the other; `property` and `properties` are 0.78."""


_OF_THE_SERVER = ("context.ip", "context.geo", "context.agent", "context.bot", "context.location")

TYPES = frozenset((
    "bigint", "bigserial", "binary", "bit", "blob", "bool", "boolean", "box", "bpchar", "bytea", "bytes", "char",
    "character", "cidr", "citext", "clob", "date", "datetime", "decimal", "double", "enum", "float", "float4", "float8",
    "geography", "geometry", "hstore", "hugeint", "inet", "int", "int2", "int4", "int8", "integer", "interval", "json",
    "jsonb", "list", "long", "macaddr", "map", "money", "number", "numeric", "nvarchar", "point", "real", "serial",
    "smallint", "string", "struct", "super", "text", "time", "timestamp", "timestamp_ms", "timestamp_ns", "timestamp_s",
    "timestamptz", "timetz", "tinyint", "tsvector", "ubigint", "uhugeint", "uinteger", "union", "usmallint", "utinyint",
    "uuid", "varbinary", "varbit", "varchar", "variant", "xml",
    # types of Postgres that few use, and of extensions: near enough to one above to be taken for it
    "bignum", "circle", "cube", "datemultirange", "daterange", "halfvec", "int4range", "int8range", "jsonpath", "line", "lquery", "lseg",
    "ltree", "ltxtquery", "macaddr8", "name", "numrange", "oid", "path", "pg_lsn", "polygon", "raster", "regclass", "sparsevec", "time_ns",
    "tsquery", "tsrange", "tstzrange", "uint128", "varint", "vector", "xid", "xid8",
))  # fmt: skip
"""First words of SQL types; a database may have others."""


def doubts(project: Project) -> list[Problem]:
    """Returns the probable mistakes, by path."""
    found = [
        Problem(
            f"destinations.{name}",
            "names no server, so the loader takes the one of its own environment (PGHOST, PGPORT, PGUSER), or one on its machine; write "
            "`dsn` or `host`. Try what it finds with: penstock check",
        )
        for name, options in project.destinations.items()
        if options.get("type") == "postgres" and not options.get("dsn") and not options.get("host")
    ]
    used = {function for connection in project.connections.values() for function in connection.functions}
    found += [
        Problem(f"functions.{name}", "no connection names it, so it never runs") for name in project.functions if name not in used
    ]
    planned = {site.tracking_plan for site in project.sites.values()}
    found += [
        Problem(f"tracking_plans.{name}", "no site names it in `tracking_plan`, so it checks nothing")
        for name in project.tracking_plans
        if name not in planned
    ]
    looked = {use.table for connection in project.connections.values() for use in connection.lookups}
    found += [
        Problem(f"lookups.{name}", "no connection names it, so it is not read") for name in project.lookups if name not in looked
    ]
    for name, device in project.devices.items():
        found.extend(_fields(device.where, f"connections.{name}.where"))
        found.extend(_made_by_the_server(device.where, f"connections.{name}.where"))
    found.extend(_second_of_a_page(project))
    for name, connection in project.connections.items():
        found.extend(_fields(connection.where, f"connections.{name}.where"))
    for (first, one), (second, other) in combinations(project.connections.items(), 2):
        found.extend(_shared_tables(first, one, second, other))
    return found


def _fields(where: Any, path: str) -> Iterator[Problem]:
    """Yields fields of conditions that look like a known one misspelt."""
    if isinstance(where, list):
        for index, each in enumerate(where):
            yield from _fields(each, f"{path}[{index}]")
    elif isinstance(where, Mapping):
        field = where.get("field")
        top = field[0] if isinstance(field, list) and field else str(field).partition(".")[0] if field is not None else ""
        close = difflib.get_close_matches(str(top), FIELDS, n=1, cutoff=ALIKE)
        if top and top not in FIELDS and close:
            yield Problem(f"{path}.field", f"events seldom have a key {top!r}; did you mean {close[0]!r}?")
        for word in ("all", "any", "not"):
            if word in where:
                yield from _fields(where[word], f"{path}.{word}")


def _made_by_the_server(where: Any, path: str) -> Iterator[Problem]:
    """Yields fields that an event does not have yet in the page."""
    if isinstance(where, list):
        for index, each in enumerate(where):
            yield from _made_by_the_server(each, f"{path}[{index}]")
    elif isinstance(where, Mapping):
        field = where.get("field")
        text = ".".join(map(str, field)) if isinstance(field, list) else str(field)
        if text == "receivedAt" or text.startswith(_OF_THE_SERVER):
            yield Problem(
                f"{path}.field", f"the server makes {text!r}, so an event in the page has none, and the condition fails"
            )
        for word in ("all", "any", "not"):
            if word in where:
                yield from _made_by_the_server(where[word], f"{path}.{word}")


def _second_of_a_page(project: Project) -> Iterator[Problem]:
    """Yields connections to a device of which a page has one, where an earlier connection of the site has another account."""
    firsts: dict[tuple[str, str], tuple[str, DeviceConnection]] = {}
    for name, connection in project.devices.items():
        options = project.destinations.get(connection.destination, {})
        type_name = str(options.get("type"))
        key = getattr(DEVICES.get(type_name), "ONE_A_PAGE", None) if type_name in DEVICES.names() else None
        if key is None or not connection.enabled:
            continue
        first, other = firsts.setdefault((connection.site, type_name), (name, connection))
        theirs = project.destinations[other.destination].get(key)
        if options.get(key) != theirs:
            yield Problem(
                f"connections.{name}",
                f"a page has one {type_name}, and connection {first!r} of the same site has {key} {theirs!r}: the connection whose event "
                "comes first gets the page, the other one gets nothing there",
            )


def misspelt_types(column_types: object, path: str) -> Iterator[Problem]:
    """Yields SQL types that look like a known one misspelt; refused, because every load of the table would fail."""
    for column, native in column_types.items() if isinstance(column_types, Mapping) else ():
        if not isinstance(native, str):
            continue
        word = native.strip().lower().replace("(", " ").replace("[", " ").partition(" ")[0]
        close = difflib.get_close_matches(word, sorted(TYPES), n=1, cutoff=ALIKE)
        if word not in TYPES and close:
            yield Problem(
                f"{path}.{column}",
                f"{native!r} is no type that is known here; did you mean {close[0]!r}? Write a type of your own with its schema: "
                f"'public.{native}'",
            )


def _shared_tables(first: str, one: Connection, second: str, other: Connection) -> Iterator[Problem]:
    """Yields the conflicts of two connections that load the same tables."""
    if one.destination != other.destination or (one.layout, one.table) != (other.layout, other.table):
        return
    for key in ("deduplicate", "primary_key"):
        mine, theirs = getattr(one, key), getattr(other, key)
        if mine != theirs:
            yield Problem(
                f"connections.{second}.{key}",
                f"connection {first!r} loads tables of the same names with another `{key}`; a table has one key, so give them "
                "tables or schemas of their own, or the same key",
            )
            return
