"""Catalogues of the Airbyte protocol: streams as a connector tells them, and the ones to read as it wants to hear them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from connector_runner.contract import Selected, Stream, StreamName, SyncMode
from shared.errors import Permanent

_MODES: tuple[SyncMode, ...] = ("full_refresh", "incremental")


class _Stream(msgspec.Struct, frozen=True):
    name: str
    json_schema: dict[str, Any] | None = None
    namespace: str | None = None
    supported_sync_modes: list[str] | None = None
    source_defined_cursor: bool | None = None
    default_cursor_field: list[str] | None = None
    source_defined_primary_key: list[list[str]] | None = None


def read_stream(described: Mapping[str, Any]) -> Stream:
    """Returns a stream of a catalogue.

    Raises:
        Permanent: it is none; says what is wrong with it.
    """
    try:
        found = msgspec.convert(described, _Stream)
    except msgspec.ValidationError as exc:
        raise Permanent(f"the connector's catalogue has a stream that cannot be read: {exc}") from exc
    offered = found.supported_sync_modes or ["full_refresh"]
    return Stream(
        name=found.name,
        namespace=found.namespace or None,
        json_schema=found.json_schema or {},
        modes=tuple(mode for mode in _MODES if mode in offered) or ("full_refresh",),
        source_cursor=bool(found.source_defined_cursor),
        cursor=tuple(found.default_cursor_field or ()),
        primary_key=tuple(tuple(path) for path in found.source_defined_primary_key or ()),
    )


def configured(selected: Sequence[Selected]) -> bytes:
    """Returns the file that tells a connector which streams to read."""
    return msgspec.json.encode({"streams": [_configured(each) for each in selected]})


def states_file(states: Mapping[StreamName | None, bytes]) -> bytes:
    """Returns the file that tells a connector where to go on: a list of its own states.

    A state of all streams stands alone. Where there are states of streams too, they are newer: it would have replaced them. A
    connector changes from one to the others when its author does; streams without a state of their own begin again then.
    """
    kept = [state for stream, state in states.items() if stream is not None] or list(states.values())
    return b"[" + b",".join(kept) + b"]"


def _configured(selected: Selected) -> dict[str, Any]:
    stream = selected.stream
    cursor = selected.cursor or stream.cursor
    key = selected.primary_key or stream.primary_key
    described: dict[str, Any] = {
        "name": stream.name,
        "json_schema": stream.json_schema,
        "supported_sync_modes": list(stream.modes),
        "source_defined_cursor": stream.source_cursor,
        "default_cursor_field": list(stream.cursor),
        "source_defined_primary_key": [list(path) for path in stream.primary_key],
    }
    if stream.namespace:
        described["namespace"] = stream.namespace
    return {
        "stream": described,
        "sync_mode": selected.mode,
        "destination_sync_mode": "append_dedup" if key and selected.mode == "incremental" else "append",
        "cursor_field": list(cursor),
        "primary_key": [list(path) for path in key],
    }
