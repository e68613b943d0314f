"""Asks a connector: which options it takes, whether they work, which streams it has, which rows a stream has.

Each call opens the connector, asks, and closes it. Nothing is stored but the connector's own packages.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec

from connector_runner.contract import (
    Checked,
    Cleaned,
    Listener,
    Message,
    Selected,
    Stream,
    StreamName,
    SyncMode,
)
from connector_runner.opened import opened
from connector_runner.registry import with_files
from shared.errors import UNREADABLE, ConfigError, Problem, SetupError
from shared.project.variables import interpolate
from shared.reading.decode import meant


def connector_of(document: Mapping[str, Any], name: str, folder: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """Returns the entry of a connector, with its variables put in.

    Args:
        document: the project file, as written. Only this entry of it has to be right.
        folder: where the file is; paths of files begin there.

    Raises:
        ConfigError: no connector has this name, a variable is not set, or a file cannot be read.
    """
    known = document.get("connectors")
    if not isinstance(known, dict) or not isinstance(known.get(name), dict):
        named = [str(each) for each in known] if isinstance(known, dict) else []
        hint = f"known: {', '.join(named)}" if named else "the file has none"
        raise ConfigError([Problem("connectors", f"no connector is named {name!r};{meant(name, named)} {hint}")])
    found: dict[str, Any] = interpolate({"connectors": {name: known[name]}}, environment)["connectors"][name]
    return with_files(name, found, folder)


async def ask_spec(name: str, document: Mapping[str, Any], cache: Path, heard: Listener) -> Mapping[str, Any]:
    """Returns the JSON Schema of the options of the system behind a connector. Raises as `opened`, and as the call."""
    async with opened(name, document, cache, heard) as source:
        return await source.spec()


async def ask_check(name: str, document: Mapping[str, Any], cache: Path, heard: Listener) -> Checked:
    """Returns whether a connector's options work. Raises as `opened`, and as the call."""
    async with opened(name, document, cache, heard) as source:
        return await source.check()


async def ask_streams(name: str, document: Mapping[str, Any], cache: Path, heard: Listener) -> Sequence[Stream]:
    """Returns the streams of a connector. Raises as `opened`, and as the call."""
    async with opened(name, document, cache, heard) as source:
        return await source.discover()


async def ask_cleanup(name: str, document: Mapping[str, Any], cache: Path, heard: Listener) -> Sequence[str]:
    """Removes what a connector made in the system behind it; returns what was removed. Raises as `opened`, and as the call."""
    async with opened(name, document, cache, heard) as source:
        return await source.cleanup() if isinstance(source, Cleaned) else ()


async def read_rows(
    name: str,
    document: Mapping[str, Any],
    chosen: Sequence[str],
    *,
    cache: Path,
    heard: Listener,
    full: bool = False,
    states: Mapping[StreamName | None, bytes] | None = None,
) -> AsyncGenerator[Message, None]:
    """Yields what a connector gives of the chosen streams, or of all.

    Args:
        chosen: names of streams, with their namespaces; empty: all.
        full: read all rows of each stream; else incrementally where the stream can.
        states: where to go on.

    Raises:
        ConfigError, SetupError, Transient, Permanent
    """
    async with opened(name, document, cache, heard) as source:
        streams = await source.discover()
        selected = [_selected(each, full=full) for each in pick(streams, chosen, name)]
        async with aclosing(source.read(selected, states or {})) as messages:
            async for message in messages:
                yield message


def pick(streams: Sequence[Stream], chosen: Sequence[str], name: str) -> list[Stream]:
    """Returns the streams of these names, all if there are none.

    Raises:
        SetupError: the connector has no such stream.
    """
    by_name = {str(each.known_as): each for each in streams}
    for wanted in chosen:
        if wanted not in by_name:
            raise SetupError(f"connector {name} has no stream {wanted!r};{meant(wanted, by_name)} it has: {', '.join(by_name)}")
    return [by_name[wanted] for wanted in chosen] if chosen else list(streams)


def states_of(text: str) -> dict[StreamName | None, bytes]:
    """Returns the states that `state_of` wrote, one a line.

    Raises:
        SetupError: a line is none.
    """
    found: dict[StreamName | None, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                kept = msgspec.json.decode(line, type=_State)
            except UNREADABLE as exc:
                raise SetupError(f"line {number} of the file of states is none: {exc}") from exc
            found[None if kept.stream is None else StreamName(kept.stream, kept.namespace)] = bytes(kept.state)
    return found


def state_of(stream: StreamName | None, state: bytes) -> bytes:
    """Returns a state as a line."""
    name, namespace = stream or (None, None)
    return msgspec.json.encode(_State(stream=name, namespace=namespace, state=msgspec.Raw(state)))


class _State(msgspec.Struct, frozen=True, kw_only=True):
    stream: str | None = None
    namespace: str | None = None
    state: msgspec.Raw


def _selected(stream: Stream, *, full: bool) -> Selected:
    incremental = not full and "incremental" in stream.modes and (stream.source_cursor or stream.cursor)
    mode: SyncMode = "incremental" if incremental else "full_refresh"
    return Selected(stream, mode, stream.cursor, stream.primary_key)
