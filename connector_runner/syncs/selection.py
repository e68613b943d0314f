"""Which streams of a catalogue a sync reads, how, and into which tables. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from connector_runner.contract import Selected, Stream, SyncMode
from connector_runner.rules.sifting import Rules
from connector_runner.syncs.ruled import check_rules, path_of, rules_of, wanted_of
from shared.errors import ConfigError, SetupError
from shared.project.syncs import OTHERS, Sync, SyncStream
from shared.reading.decode import meant
from shared.syncs.frames import RowStream, Write

Paths = tuple[tuple[str, ...], ...]
ON_KEY: tuple[Write, ...] = ("merge", "insert_only", "history")


class Chosen(NamedTuple):
    """A stream of a run: how it is read, what becomes of its rows on the way, and how they are stored."""

    selected: Selected
    stored: RowStream
    rules: Rules = Rules()


def choose(name: str, sync: Sync, streams: Sequence[Stream], only: Sequence[str] = ()) -> list[Chosen]:
    """Returns the streams of a run.

    Args:
        name: of the sync, for messages.
        streams: the connector's catalogue.
        only: names of streams; empty: all that the sync has.

    Raises:
        SetupError: names every stream that does not fit, with what to write.
    """
    by_name = {str(each.known_as): each for each in streams}
    problems: list[str] = []
    for wanted, how in sync.streams.items():
        if wanted != OTHERS and wanted not in by_name and (how is None or how.enabled):
            problems.append(
                f"syncs.{name}.streams.{wanted}: the connector has no such stream;{meant(wanted, by_name)} "
                f"it has: {', '.join(sorted(by_name)) or 'none'}"
            )
    chosen: list[Chosen] = []
    for stream in streams:
        how = _how(sync, str(stream.known_as))
        if how is None:
            continue
        place = f"syncs.{name}.streams.{stream.known_as}"
        try:
            found = _chosen(stream, how, sync.table_prefix)
        except (ValueError, ConfigError) as exc:
            problems.append(f"{place}: {exc}")
            continue
        wrong = [f"{place}.{problem.path}: {problem.message}" for problem in check_rules(stream, how, _known_by(found))]
        problems.extend(wrong)
        if not wrong:
            chosen.append(found)
    problems.extend(_shared_tables(name, chosen))
    if unknown := [each for each in only if each not in {one.stored.name for one in chosen}]:
        problems.append(f"sync {name} has no stream {', '.join(unknown)}; it has: {', '.join(one.stored.name for one in chosen)}")
    if not chosen and not problems:
        problems.append(f"syncs.{name}.streams: the connector has no stream to read")
    if problems:
        raise SetupError("; ".join(problems))
    return [each for each in chosen if not only or each.stored.name in only]


def _how(sync: Sync, stream: str) -> SyncStream | None:
    """Returns how a stream is wanted; None: it is not."""
    if not sync.streams:
        return SyncStream()
    if stream in sync.streams:
        how = sync.streams[stream] or SyncStream()
    elif OTHERS in sync.streams:
        how = sync.streams[OTHERS] or SyncStream()
    else:
        return None
    return how if how.enabled else None


def _chosen(stream: Stream, how: SyncStream, prefix: str) -> Chosen:
    cursor = _cursor(stream, how)
    key: Paths = tuple(map(path_of, how.primary_key)) if how.primary_key is not None else stream.primary_key
    mode = _mode(stream, how, cursor)
    write = how.write or _write(mode, key, stream)
    if mode == "incremental" and write == "replace":
        raise ValueError("replace needs all rows: write `mode: full_refresh`, or another `write`")
    if write in ON_KEY and not key:
        raise ValueError(f"write: {write} needs `primary_key`: the connector names no key for this stream")
    hard = how.deletes == "hard"
    if hard and not stream.deleted:
        raise ValueError("the connector does not tell which rows were deleted; take `deletes: hard` out")
    if hard and write not in ON_KEY:
        way = "use write: merge" if key else "the connector names none: write `primary_key`, or `deletes: soft` for this stream"
        raise ValueError(f"`deletes: hard` finds rows by their key, and write: {write} has none; {way}")
    deleted = stream.deleted if hard or write == "history" else ()
    rules = rules_of(stream, how, write=write, key=key, cursor=cursor, obeyed=deleted)
    return Chosen(
        Selected(stream=stream, mode=mode, cursor=cursor, primary_key=key, columns=wanted_of(stream, how, rules)),
        RowStream(
            name=str(stream.known_as),
            table=how.table or prefix + stream.name,
            write=write,
            key=key if write in ON_KEY or write == "replace" else (),
            cursor=cursor if write in ON_KEY else (),
            deleted=(rules.mark,) if rules.mark is not None else deleted,
            types=how.column_types,
            marked=stream.deleted if write == "merge" and not hard else (),
        ),
        rules,
    )


def _known_by(chosen: Chosen) -> dict[str, Paths]:
    """Returns what rows are known by where they are stored."""
    stored, stream = chosen.stored, chosen.selected.stream
    cursor, deleted = (tuple([path] if path else []) for path in (stored.cursor, stream.deleted))
    return {"primary_key": stored.key, "cursor": cursor, "deleted": deleted}


def _cursor(stream: Stream, how: SyncStream) -> tuple[str, ...]:
    if how.cursor is None:
        return stream.cursor
    if stream.source_cursor and stream.cursor and path_of(how.cursor) != stream.cursor:
        raise ValueError(f"the connector insists on the cursor {'.'.join(stream.cursor)}; take `cursor` out")
    return path_of(how.cursor)


def _mode(stream: Stream, how: SyncStream, cursor: tuple[str, ...]) -> SyncMode:
    can = "incremental" in stream.modes
    if how.mode == "full_refresh":
        if "full_refresh" not in stream.modes:
            raise ValueError("the connector gives this stream only as changes; write `mode: incremental`")
        return "full_refresh"
    if how.mode == "incremental":
        if not can:
            raise ValueError("the connector reads this stream only whole; write `mode: full_refresh`")
        if not stream.source_cursor and not cursor:
            raise ValueError("incremental needs `cursor`: a field that grows with each change")
        return "incremental"
    if how.write == "replace" and "full_refresh" in stream.modes:
        return "full_refresh"
    if can and (stream.source_cursor or cursor):
        return "incremental"
    return "full_refresh"


def _write(mode: SyncMode, key: Paths, stream: Stream) -> Write:
    if mode == "full_refresh" and not stream.deleted:
        return "replace"
    return "merge" if key else "append"


def _shared_tables(name: str, chosen: Sequence[Chosen]) -> list[str]:
    by_table: dict[str, str] = {}
    problems: list[str] = []
    for _, stored, _ in chosen:
        other = by_table.setdefault(stored.table.lower(), stored.name)
        if other != stored.name:
            problems.append(
                f"syncs.{name}.streams.{stored.name}: the table {stored.table!r} is that of stream {other} too; "
                "give one of them another by `table`"
            )
    return problems
