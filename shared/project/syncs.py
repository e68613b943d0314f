"""The `syncs` of a project file: which streams of a connector go into which destination, when, and how."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta, field

from shared.devices.registry import is_device
from shared.errors import Problem
from shared.project.functions import PrivacyRule, check_rules_of_rows
from shared.reading.decode import meant
from shared.reading.units import ByteSize, Duration
from shared.syncs.frames import Write
from shared.syncs.schedule import Schedule

if TYPE_CHECKING:
    from shared.project.model import Project

OTHERS = "*"
"""Stands for all streams that are not named."""

_ON_KEY: tuple[Write, ...] = ("merge", "insert_only", "history")


class SyncStream(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one stream is read and stored. What is left out comes from the connector's catalogue."""

    mode: Annotated[
        Literal["full_refresh", "incremental"] | None,
        Meta(
            description="full_refresh: all rows each time. incremental: new and changed ones. Default: incremental where the connector can"
        ),
    ] = None
    write: Annotated[
        Write | None,
        Meta(
            description="replace: the rows take the place of all others, in one moment. append: they are added. merge: a newer row of a key replaces the older. insert_only: rows of a known key are left out. history: each version of a row stays, with the times between which it was true. Default: replace for a full refresh; for incremental merge where there is a key, else append"
        ),
    ] = None
    table: Annotated[
        Annotated[str, Meta(min_length=1)] | None, Meta(description="name of the table; default: the stream's name")
    ] = None
    primary_key: Annotated[
        Annotated[list[str], Meta(min_length=1)] | None,
        Meta(description="fields that identify a row, `a.b` for one inside another"),
    ] = None
    cursor: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(description="field whose larger value is the newer row, `a.b` for one inside another"),
    ] = None
    columns: Annotated[
        Annotated[list[str], Meta(min_length=1)] | None,
        Meta(description="fields to read, `a.b` for one inside another; others are neither asked for nor stored"),
    ] = None
    where: Annotated[
        Any, Meta(description="conditions a row must meet, in the language of docs/routing.md; others do not leave the runner")
    ] = None
    unmatched: Annotated[
        Literal["remove", "keep"],
        Meta(
            description="what becomes of a stored row when its newer version does not meet `where`, with write: merge or history. remove: it goes, or its version ends. keep: it stays as it is"
        ),
    ] = "remove"
    privacy: Annotated[
        list[PrivacyRule], Meta(description="rules for fields of every row, applied in this order before rows leave the runner")
    ] = []
    deletes: Annotated[
        Literal["soft", "hard"],
        Meta(description="what becomes of rows that the source says were deleted. soft: they stay and are marked. hard: they go"),
    ] = "soft"
    column_types: Annotated[dict[str, str], Meta(description="column name to SQL type, forced when the column is created")] = {}
    enabled: Annotated[bool, Meta(description="false: the stream is left out")] = True


class Sync(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A link from a connector to a destination."""

    connector: Annotated[str, Meta(description="name of the connector")]
    destination: Annotated[str, Meta(description="name of the destination")]
    enabled: Annotated[bool, Meta(description="false: it does not run, and what waits for its destination stays")] = True
    schedule: Annotated[
        str,
        Meta(description='`every 15m`, or five fields of cron such as `"*/15 * * * *"`; empty: it runs when a person says so'),
    ] = ""
    time_zone: Annotated[str, Meta(description="time zone of a cron schedule, such as `Europe/Berlin`")] = "UTC"
    jitter: Annotated[
        Duration, Meta(description="syncs of one schedule start spread over this time, each always at the same place in it")
    ] = field(default_factory=lambda: Duration(0))
    streams: Annotated[
        dict[str, SyncStream | None],
        Meta(description="streams to read, by name with namespace; `*` stands for all others. Empty: all streams"),
    ] = {}
    table_prefix: Annotated[str, Meta(description="put before the name of each table that `table` does not give")] = ""
    timeout: Annotated[Duration, Meta(description="longest run; it ends with what is loaded until then")] = field(
        default_factory=lambda: Duration(86_400)
    )
    retries: Annotated[
        int, Meta(ge=0, le=100, description="how often a run begins again after a failure that may pass, from where it stopped")
    ] = 3
    max_rows: Annotated[int, Meta(ge=1, le=1_000_000, description="rows that are loaded together")] = 100_000
    max_bytes: Annotated[ByteSize, Meta(description="bytes of rows that are loaded together, at most 32 MiB")] = field(
        default_factory=lambda: ByteSize(16 * 1024 * 1024)
    )
    period: Annotated[Duration, Meta(description="how long rows wait for others to be loaded together; 100ms to 1h")] = field(
        default_factory=lambda: Duration(10)
    )

    def clock(self, name: str) -> Schedule:
        """Returns when the sync of this name runs.

        Raises:
            ValueError: schedule or time zone are wrong.
        """
        return Schedule(self.schedule, self.time_zone, self.jitter, name)


def check_syncs(project: Project) -> Iterator[Problem]:
    """Yields everything that is wrong, each with its path and what to write instead."""
    for name, sync in project.syncs.items():
        path = f"syncs.{name}"
        yield from check_sync_references(
            path,
            connector=sync.connector,
            destination=sync.destination,
            connectors=project.connectors,
            destinations=project.destinations,
        )
        try:
            sync.clock(name)
        except ValueError as exc:
            yield Problem(f"{path}.schedule", str(exc))
        if not 0.1 <= sync.period <= 3600:
            yield Problem(f"{path}.period", f"expected 100ms to 1h, got {sync.period:g}s")
        if not 1024 <= sync.max_bytes <= 32 * 1024 * 1024:
            yield Problem(f"{path}.max_bytes", f"expected 1KiB to 32MiB, got {int(sync.max_bytes)} bytes")
        for stream, how in sync.streams.items():
            if how is not None:
                yield from _check_stream(f"{path}.streams.{stream}", stream, how)


def _check_stream(path: str, name: str, how: SyncStream) -> Iterator[Problem]:
    if how.write == "replace" and how.mode == "incremental":
        yield Problem(f"{path}.write", "replace needs all rows: write mode: full_refresh, or another `write`")
    if how.deletes == "hard" and how.write not in (None, *_ON_KEY):
        yield Problem(f"{path}.deletes", f"rows are found by their key, and write: {how.write} has none; use write: merge")
    if how.unmatched == "keep" and (how.where is None or how.write not in (None, "merge", "history")):
        yield Problem(f"{path}.unmatched", "means something with `where` and write: merge or history; take it out")
    yield from check_rules_of_rows(f"{path}.", how.privacy, _known_by(how))
    if name == OTHERS:
        for option in ("table", "primary_key", "cursor", "columns", "column_types"):
            if getattr(how, option):
                yield Problem(f"{path}.{option}", "means one stream; write it under the stream's name")


def _known_by(how: SyncStream) -> dict[str, list[tuple[str, ...]]]:
    """Returns what the rows of a stream are known by, as far as the project file says it."""
    if how.write not in (None, *_ON_KEY):
        return {}
    cursor = [tuple(how.cursor.split("."))] if how.cursor is not None else []
    return {"primary_key": [tuple(each.split(".")) for each in how.primary_key or ()], "cursor": cursor}


def check_sync_references(
    path: str, connector: object, destination: object, connectors: Mapping[str, object], destinations: Mapping[str, object]
) -> Iterator[Problem]:
    """Yields the references of a sync that lead nowhere."""
    for what, name, known in (("connector", connector, connectors), ("destination", destination, destinations)):
        if isinstance(name, str) and name not in known:
            hint = f"known: {', '.join(sorted(known)) or 'none'}"
            yield Problem(f"{path}.{what}", f"no {what} is named {name!r};{meant(name, known)} {hint}")
        elif isinstance(name, str) and what == "destination" and is_device(known[name]):
            yield Problem(f"{path}.{what}", f"{name!r} runs in the browser and takes no rows; name a warehouse")
