"""Tables whose changes are read: which can be, by which columns their rows are told apart, and how they look as streams. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from connector_runner.sources.postgres.catalogue import Table, schema_of
from connector_runner.sources.postgres.changes.rows import BEFORE, COMMITTED_AT, DELETED_AT, LSN
from connector_runner.sources.postgres.places import Walk

if TYPE_CHECKING:
    from connector_runner.contract import Selected, Stream, StreamName


class Followed(NamedTuple):
    """A selected table. `key`: the columns by which the log tells which row was changed, and a copy goes on; empty: it has none."""

    table: Table
    selected: Selected
    key: tuple[str, ...]

    @property
    def name(self) -> StreamName:
        """The name of its stream."""
        return self.selected.stream.known_as

    @property
    def tells(self) -> tuple[str, ...]:
        """The columns that tell its rows apart in the destination."""
        return tuple(each[0] for each in self.selected.primary_key if each) or self.key

    @property
    def wanted(self) -> frozenset[str] | None:
        """Names of the columns that are given on; None: all."""
        columns = self.selected.columns
        return None if columns is None else frozenset(each[0] for each in columns if each)

    def walk(self) -> Walk:
        """Returns how it is copied."""
        wanted, table = self.wanted, self.table
        columns = tuple(
            each
            for each in table.columns
            if not each.generated and (wanted is None or each.name in wanted or each.name in (*self.key, *self.tells))
        )
        key = tuple(column for name in self.key if (column := table.column(name)) is not None)
        return Walk(table=table, columns=columns, cursor=None, key=key)


def key_of(table: Table) -> tuple[str, ...] | None:
    """Returns the columns by which the log tells which row was changed; empty: it tells whole rows; None: it cannot be followed."""
    if not table.logged or (table.identity != "f" and not table.identity_key):
        return None
    return table.key if table.identity == "f" else table.identity_key


def followed_stream(table: Table) -> Stream:
    """Returns a table as a stream of changes; one that cannot be followed can be read whole."""
    key, stream = key_of(table), table.stream()
    if key is None:
        return msgspec.structs.replace(stream, modes=("full_refresh",), cursor=())
    schema = schema_of([each for each in table.columns if not each.generated])
    moment = {"type": ["null", "string"], "format": "date-time"}
    own = {LSN: {"type": "integer"}, COMMITTED_AT: moment, DELETED_AT: moment}
    return msgspec.structs.replace(
        stream,
        json_schema={**schema, "properties": {**schema["properties"], **own}},  # type: ignore[dict-item]  # an object
        modes=("full_refresh", "incremental"),
        source_cursor=True,
        cursor=(LSN,),
        primary_key=tuple((name,) for name in key),
        deleted=(DELETED_AT,),
        before=(BEFORE,),
        added=(COMMITTED_AT,),
    )


def follow(table: Table | None, selected: Selected) -> Followed | str:
    """Returns a table as it is followed, or why it cannot be and what a person can do."""
    if table is None:
        return "there is no such table any more; look at the streams again, or leave it out"
    key = key_of(table)
    if key is None:
        return _refusal(table)
    found = Followed(table, selected, key)
    if table.identity != "f" and not set(found.tells) <= set(key):
        return (
            f"the log tells of a deleted row only {', '.join(key)}, so rows cannot be told apart by {', '.join(found.tells)}; take "
            "`primary_key` out, or ALTER TABLE … REPLICA IDENTITY FULL"
        )
    return found


def _refusal(table: Table) -> str:
    if table.kind not in ("r", "p"):
        return "it is no table, so the log tells nothing of it; read it with full_refresh"
    if not table.logged:
        return "it is not logged; ALTER TABLE … SET LOGGED, or read it with full_refresh"
    return (
        "the log does not tell which of its rows are changed, and the server would refuse updates once it is published; "
        "give it a primary key, or ALTER TABLE … REPLICA IDENTITY FULL"
    )
