"""Catalogues of Singer taps: streams as a tap tells them, and the ones to read as it wants to hear them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from connector_runner.contract import Selected, Stream
from shared.errors import Permanent, SetupError

DELETED = "_sdc_deleted_at"
"""Column of taps that follow a log: when the row was deleted."""


class Entry(msgspec.Struct, frozen=True):
    """A stream of a tap's catalogue."""

    tap_stream_id: str
    stream: str | None = None
    json_schema: dict[str, Any] | None = msgspec.field(name="schema", default=None)
    metadata: list[dict[str, Any]] | None = None
    key_properties: list[str] | None = None
    replication_key: str | None = None
    replication_method: str | None = None
    table_name: str | None = None

    @property
    def name(self) -> str:
        """The name that its rows have."""
        return self.stream or self.tap_stream_id

    @property
    def told(self) -> Mapping[str, Any]:
        """The metadata of the whole stream."""
        for each in self.metadata or ():
            if not each.get("breadcrumb") and isinstance(each.get("metadata"), Mapping):
                return each["metadata"]  # type: ignore[no-any-return]  # checked above
        return {}

    @property
    def method(self) -> str:
        """FULL_TABLE, INCREMENTAL or LOG_BASED; empty: the tap leaves it to us."""
        return str(
            self.told.get("forced-replication-method") or self.replication_method or self.told.get("replication-method") or ""
        )

    @property
    def cursor(self) -> str:
        """The column that the tap proposes; empty: none."""
        valid = self.told.get("valid-replication-keys")
        first = valid[0] if isinstance(valid, list) and valid else ""
        return str(self.replication_key or self.told.get("replication-key") or first)

    @property
    def keys(self) -> list[str]:
        """The columns of the key."""
        found = self.key_properties or self.told.get("table-key-properties") or self.told.get("view-key-properties") or []
        return [str(each) for each in found]

    @property
    def of_a_table(self) -> bool:
        """Whether it is a table of a database, where any column may be a cursor."""
        return self.table_name is not None or "schema-name" in self.told or "database-name" in self.told


def read_catalog(written: bytes) -> tuple[dict[str, Any], dict[str, Entry]]:
    """Returns a catalogue as the tap wrote it, and its entries by name.

    Raises:
        Permanent: it is none.
    """
    try:
        document = msgspec.json.decode(written, type=dict[str, Any])
        entries = msgspec.convert(document.get("streams"), list[Entry])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise Permanent(f"the tap's catalogue cannot be read: {exc}") from exc
    found: dict[str, Entry] = {}
    for each in entries:
        if each.name in found:
            raise Permanent(f"the tap's catalogue has two streams {each.name}; their rows could not be told apart")
        found[each.name] = each
    return document, found


def stream_of(entry: Entry) -> Stream:
    """Returns a stream as the contract has it."""
    schema = entry.json_schema or {}
    forced = entry.told.get("forced-replication-method")
    incremental = forced != "FULL_TABLE" and bool(
        entry.cursor or entry.of_a_table or entry.method in ("INCREMENTAL", "LOG_BASED")
    )
    properties = schema.get("properties")
    return Stream(
        name=entry.name,
        json_schema=schema,
        modes=("full_refresh", "incremental") if incremental else ("full_refresh",),
        source_cursor=entry.method == "LOG_BASED" or (forced == "INCREMENTAL" and not entry.of_a_table),
        cursor=(entry.cursor,) if entry.cursor else (),
        primary_key=tuple((each,) for each in entry.keys),
        deleted=(DELETED,) if isinstance(properties, Mapping) and DELETED in properties else (),
    )


def configured(document: Mapping[str, Any], selected: Sequence[Selected]) -> bytes:
    """Returns the file that tells a tap which streams and columns to read, and how.

    Args:
        document: the catalogue, as the tap wrote it.

    Raises:
        SetupError: the tap has no such stream, or an incremental one has no cursor.
    """
    wanted = {each.stream.name: each for each in selected}
    streams = [
        _configured(each, wanted.pop(str(each.get("stream") or each.get("tap_stream_id")), None)) for each in document["streams"]
    ]
    if wanted:
        raise SetupError(f"the tap has no stream {', '.join(wanted)} any more")
    return msgspec.json.encode({**document, "streams": streams})


def resumed(state: bytes, selected: Sequence[Selected]) -> bytes:
    """Returns a state as the tap shall hear it.

    Streams that are read in full begin at their beginning, also where a tap could go on in the middle: their table is replaced. And
    the tap begins with its first stream, also where it was ended in a later one.
    """
    value = msgspec.json.decode(state, type=dict[str, Any])
    value.pop("currently_syncing", None)
    bookmarks = value.get("bookmarks")
    if isinstance(bookmarks, dict):
        whole = {each.stream.name for each in selected if each.mode == "full_refresh"}
        value["bookmarks"] = {name: each for name, each in bookmarks.items() if name not in whole}
    return msgspec.json.encode(value)


def _configured(written: Mapping[str, Any], selected: Selected | None) -> dict[str, Any]:
    entry = msgspec.convert(written, Entry)
    told: dict[str, Any] = {**entry.told, "selected": selected is not None}
    stream: dict[str, Any] = {**written, "selected": selected is not None}
    if isinstance(stream.get("schema"), Mapping):
        stream["schema"] = {**stream["schema"], "selected": selected is not None}  # where taps of the first years look
    if selected is not None:
        method, cursor = "FULL_TABLE", ""
        if selected.mode == "incremental":
            method = "LOG_BASED" if entry.method == "LOG_BASED" else "INCREMENTAL"
            cursor = selected.cursor[0] if selected.cursor else entry.cursor
            if method == "INCREMENTAL" and not cursor and not selected.stream.source_cursor:
                raise SetupError(f"the stream {entry.name} is read incrementally, and has no cursor; name one")
        told["replication-method"] = stream["replication_method"] = method
        if cursor:
            told["replication-key"] = stream["replication_key"] = cursor
    columns = [_column(each, selected) for each in entry.metadata or () if each.get("breadcrumb")]
    stream["metadata"] = [*columns, {"breadcrumb": [], "metadata": told}]
    return stream


def _column(written: Mapping[str, Any], selected: Selected | None) -> dict[str, Any]:
    told = written.get("metadata") or {}
    if selected is None or told.get("inclusion") in ("automatic", "unsupported"):
        return dict(written)
    path = tuple(str(each) for each in written["breadcrumb"][1::2])
    kept = selected.columns is None or any(
        path[: len(each)] == each[: len(path)] for each in (*selected.columns, *selected.primary_key, selected.cursor) if each
    )
    return {**written, "metadata": {**told, "selected": kept}}
