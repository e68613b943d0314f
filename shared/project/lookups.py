"""Lookups as a project file says them: tables that are read from time to time, and what a connection adds to events from them.

How tables are read: `functions_runtime/lookups/`. What they do to events: `functions_runtime/rules/joining.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, field

from shared.errors import ConfigError, Problem
from shared.reading.decode import decode, meant
from shared.reading.units import ByteSize, Duration
from shared.stores.s3.options import S3Options

if TYPE_CHECKING:
    from shared.project.model import Connection, Project

DATABASES = ("clickhouse", "duckdb", "mysql", "postgres")
"""Types of destinations and connectors that a lookup can ask."""
ENDINGS: Mapping[str, str] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
}
MOST_BYTES = 1024 * 1024 * 1024
_KNOWN_BY = frozenset(
    [
        "messageId",
        "type",
        "event",
        "userId",
        "anonymousId",
        "groupId",
        "previousId",
        "timestamp",
        "originalTimestamp",
        "sentAt",
        "receivedAt",
    ]
)
_PLACES = ("file", "destination", "connector")


class Lookup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table that connections look events up in; see docs/lookups.md."""

    file: Annotated[
        str | None,
        Meta(
            description="a CSV, TSV, Parquet or NDJSON file: a path on the machine of functions_runtime, `s3://bucket/key`, or an http(s) address"
        ),
    ] = None
    format: Annotated[
        Literal["csv", "tsv", "parquet", "ndjson"] | None, Meta(description="of the file; default: as its name ends")
    ] = None
    s3: Annotated[
        dict[str, Any],
        Meta(description="how to reach the bucket of an `s3://` file: the options of an s3 destination's bucket"),
    ] = {}
    headers: Annotated[
        dict[str, str], Meta(description="headers of the request for an http(s) file", extra={"secret": True})
    ] = {}
    destination: Annotated[
        str | None, Meta(description="instead of a file: a destination of type clickhouse, duckdb, mysql or postgres")
    ] = None
    connector: Annotated[str | None, Meta(description="or a connector of one of these types")] = None
    table: Annotated[str | None, Meta(description="table of the database, with its schema where it needs one")] = None
    query: Annotated[str | None, Meta(description="or a statement that selects the rows")] = None
    key: Annotated[str, Meta(min_length=1, description="column by which rows are found; of equal keys the last row counts")]
    columns: Annotated[list[str], Meta(description="columns that are kept; empty: all")] = []
    every: Annotated[Duration, Meta(description="how often the table is read again; 1s to 24h")] = field(
        default_factory=lambda: Duration(600)
    )
    max_rows: Annotated[int, Meta(ge=1, le=10_000_000, description="a table of more rows is refused")] = 1_000_000
    max_bytes: Annotated[
        ByteSize, Meta(description="memory of the kept rows, and size of the file; 1KiB to 1GiB; a larger table is refused")
    ] = field(default_factory=lambda: ByteSize(128 * 1024 * 1024))

    def __post_init__(self) -> None:
        try:
            urlsplit(self.file or "")
        except ValueError as exc:
            raise ValueError(f"file: it is no address: {exc}") from exc

    @property
    def form(self) -> str | None:
        """The format of its file; None: its name does not tell."""
        path = urlsplit(self.file or "").path.lower()
        return self.format or next((form for ending, form in ENDINGS.items() if path.endswith((ending, f"{ending}.gz"))), None)

    @property
    def bucket(self) -> S3Options:
        """The bucket of an `s3://` file.

        Raises:
            ConfigError: its options are wrong.
        """
        return decode({**self.s3, "bucket": urlsplit(self.file or "").netloc}, S3Options, "s3")


class LookupUse(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a connection adds to every event from a lookup, before privacy rules and functions."""

    table: Annotated[str, Meta(description="name of the lookup")]
    key: Annotated[
        str | list[str],
        Meta(description="path of the field that names the row, such as `properties.sku`. A list of keys where they hold dots"),
    ]
    into: Annotated[
        str | list[str],
        Meta(
            description="path of the object that gets the columns, such as `properties.product`; it is made where it is missing"
        ),
    ]
    columns: Annotated[
        list[str] | dict[str, str],
        Meta(description="columns to add, or a mapping of columns to their names in the event; empty: all but the key"),
    ] = []
    missing: Annotated[
        Literal["leave_out", "null", "dead_letter"],
        Meta(
            description="what happens to an event whose key has no row. leave_out: it stays as it is. null: the columns are null. dead_letter: it becomes a dead letter"
        ),
    ] = "leave_out"

    @property
    def key_path(self) -> tuple[str, ...]:
        """The keys of `key`."""
        return _path(self.key)

    @property
    def into_path(self) -> tuple[str, ...]:
        """The keys of `into`."""
        return _path(self.into)


def _path(written: str | list[str]) -> tuple[str, ...]:
    return tuple(written.split(".") if isinstance(written, str) else written)


def check_lookups(project: Project) -> Iterator[Problem]:
    """Yields everything that is wrong with tables, each with its path and what to write instead."""
    for name, lookup in project.lookups.items():
        path = f"lookups.{name}"
        places = [each for each in _PLACES if getattr(lookup, each) is not None]
        if len(places) != 1:
            told = f"got {' and '.join(places)}" if places else "got none"
            yield Problem(path, f"expected one of file, destination and connector, {told}")
        elif lookup.file is not None:
            yield from _check_file(path, lookup)
        else:
            yield from _check_database(path, lookup, project)
        if not 1 <= lookup.every <= 86_400:
            yield Problem(f"{path}.every", f"expected 1s to 24h, got {lookup.every:g}s")
        if not 1024 <= lookup.max_bytes <= MOST_BYTES:
            yield Problem(f"{path}.max_bytes", f"expected 1KiB to 1GiB, got {int(lookup.max_bytes)} bytes")


def _check_file(path: str, lookup: Lookup) -> Iterator[Problem]:
    scheme = urlsplit(lookup.file or "").scheme
    if not lookup.file or (scheme and scheme not in ("s3", "http", "https")):
        yield Problem(f"{path}.file", "expected a path, s3://bucket/key, or an http(s) address")
    elif not scheme and not lookup.file.startswith("/"):
        yield Problem(f"{path}.file", "expected an absolute path: functions_runtime may run in another folder, or elsewhere")
    elif lookup.form is None:
        yield Problem(f"{path}.format", f"the name of the file does not end with {', '.join(ENDINGS)}; write its format")
    for option in ("table", "query"):
        if getattr(lookup, option) is not None:
            yield Problem(f"{path}.{option}", "means nothing with `file`; take it out")
    if lookup.s3 and scheme != "s3":
        yield Problem(f"{path}.s3", "means nothing unless `file` begins with s3://; take it out")
    if lookup.headers and scheme not in ("http", "https"):
        yield Problem(f"{path}.headers", "means nothing unless `file` is an http(s) address; take it out")
    if scheme == "s3":
        if not urlsplit(lookup.file or "").path.strip("/"):
            yield Problem(f"{path}.file", "expected s3://bucket/key with the key of one object")
        if "bucket" in lookup.s3:
            yield Problem(f"{path}.s3.bucket", "the bucket stands in `file`; take it out")
            return
        try:
            _ = lookup.bucket
        except ConfigError as error:
            yield from (Problem(f"{path}.{each.path}", each.message) for each in error.problems)


def _check_database(path: str, lookup: Lookup, project: Project) -> Iterator[Problem]:
    kind = "destination" if lookup.destination is not None else "connector"
    name, known = getattr(lookup, kind), project.destinations if kind == "destination" else project.connectors
    if name not in known:
        text = f"no {kind} is named {name!r};{meant(name, known)} known: {', '.join(sorted(known)) or 'none'}"
        yield Problem(f"{path}.{kind}", text)
    elif known[name].get("type") not in DATABASES:
        text = f"a {kind} of type {known[name].get('type')} cannot be asked; expected one of type {', '.join(DATABASES)}, or a `file`"
        yield Problem(f"{path}.{kind}", text)
    if (lookup.table is None) == (lookup.query is None):
        yield Problem(path, "expected `table` or `query`, and not both: one says which rows are read")
    for option in ("format", "s3", "headers"):
        if getattr(lookup, option):
            yield Problem(f"{path}.{option}", f"means nothing with `{kind}`; take it out")


def check_uses(path: str, connection: Connection, lookups: Mapping[str, Lookup]) -> Iterator[Problem]:
    """Yields everything that is wrong with the lookups of a connection."""
    for index, use in enumerate(connection.lookups):
        here = f"{path}.lookups[{index}]"
        table = lookups.get(use.table)
        if table is None:
            text = f"no lookup is named {use.table!r};{meant(use.table, lookups)} known: {', '.join(sorted(lookups)) or 'none'}"
            yield Problem(f"{here}.table", text)
        for option, found in (("key", use.key_path), ("into", use.into_path)):
            if not found or not all(found):
                yield Problem(f"{here}.{option}", "expected keys with dots between them, such as properties.sku")
            elif any("*" in key for key in found):
                yield Problem(f"{here}.{option}", "a wildcard would lead to several fields; name one")
        if use.into_path[:1] and use.into_path[0] in _KNOWN_BY:
            yield Problem(f"{here}.into", f"{use.into_path[0]} is no object; write another path, such as properties.{use.table}")
        for name in use.columns:
            if table is not None and table.columns and name not in (*table.columns, table.key):
                text = f"the lookup {use.table} keeps no column {name!r}; name it in lookups.{use.table}.columns too"
                yield Problem(f"{here}.columns", text)
