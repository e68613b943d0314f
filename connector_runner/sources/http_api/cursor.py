"""How far an incremental read of a stream is: the newest value of its cursor, and the rows at it. Pure.

The API is asked for rows from the newest value on, that value included, because another row may have come with it. Rows of it that were given before
are known again by their hashes and left out; where there are more than `MOST_SEEN`, the oldest come again.

A value later than the beginning of the read is not kept as the newest: rows that changed while the pages were read may have moved to a page
that was read before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from connector_runner.sources.http_api.fields import (
    Value,
    as_date,
    as_moment,
    comparable,
    finder,
    moment_of,
    path_of,
    seconds_of,
    text_of,
)
from connector_runner.sources.http_api.request import Request
from shared.errors import UNREADABLE
from shared.reading.units import Duration

MOST_SEEN = 1000
MOST_PARENTS = 5000
"""Rows of a parent stream whose newest values are kept, each for its child rows."""
_HASH_CHARACTERS = 20


class Cursor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How new and changed rows are found."""

    field: Annotated[str, Meta(min_length=1, description="path of the field that grows with each change, such as `updated_at`")]
    param: Annotated[
        str | None,
        Meta(description="parameter with the value from which rows are wanted; none: all rows are read, and old ones left out"),
    ] = None
    end_param: Annotated[str | None, Meta(description="parameter with the value up to which rows are wanted")] = None
    format: Annotated[
        Literal["text", "iso", "date", "epoch", "epoch_ms"],
        Meta(description="of the parameters: `text` is the field's own value; the others are times, in any form of the field"),
    ] = "text"
    start: Annotated[str | int | None, Meta(description="where the first read begins; none: at the beginning")] = None
    lookback: Annotated[Duration, Meta(description="how much of the time before the newest value is asked for again")] = (
        msgspec.field(default_factory=lambda: Duration(0))
    )
    step: Annotated[Duration | None, Meta(description="length of the windows of time that are asked for one after the other")] = (
        None
    )
    order: Annotated[
        Literal["none", "ascending", "descending"],
        Meta(
            description="how the API sorts the rows by the field; ascending: a state stands behind each page; descending, without `param`: "
            "a read ends at the first page with old rows"
        ),
    ] = "none"
    send_in: Annotated[Literal["query", "body"], Meta(description="where the parameters go; in a body their names are paths")] = (
        "query"
    )

    def __post_init__(self) -> None:
        timed = self.format != "text"
        if not timed and (self.lookback or self.step or self.end_param):
            raise ValueError("cursor: `lookback`, `step` and `end_param` need a `format` that is a time")
        if self.step is not None and (self.step <= 0 or self.param is None or self.end_param is None or self.start is None):
            raise ValueError("cursor: `step` is more than 0 and needs `param`, `end_param` and `start`")
        if timed and self.start is not None and _seconds(self.start) is None:
            raise ValueError("cursor: `start` is a date or a moment such as 2026-01-01T00:00:00Z, or seconds since 1970")


class Kept(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The state of a stream. `seen`: how many rows of a hash were given. `parents`: newest values by hash of the parent's row."""

    field: str = ""
    since: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    seen: dict[str, int] = {}
    parents: dict[str, msgspec.Raw] = {}

    @property
    def newest(self) -> bytes | None:
        """The newest value of the cursor, as JSON; None: there is none yet."""
        return None if self.since is msgspec.UNSET else bytes(self.since)


def kept_of(field: str, newest: bytes | None, seen: Mapping[str, int] | None = None) -> Kept:
    """Returns a state with a newest value of the cursor, as JSON."""
    since = msgspec.UNSET if newest is None else msgspec.Raw(newest)
    return Kept(field=field, since=since, seen=dict(seen or {}))


class Window(NamedTuple):
    """What one walk over pages asks for: seconds since 1970; None: no bound."""

    begin: Decimal | None
    end: Decimal | None


class Backwards(Exception):
    """Rows that the user declared as ascending are not."""


class Progress:
    """How far one stream is, or the rows of one parent.

    Args:
        cursor: as the user writes it; None: every read gives all rows.
        kept: the state that the read begins at.
        now: seconds since 1970.
        tied: whether rows are known again.
    """

    def __init__(self, cursor: Cursor | None, kept: Kept, now: float, *, tied: bool = True) -> None:
        self._cursor = cursor
        self._tied = tied
        self._now = Decimal(str(now))
        self._find = finder(path_of(cursor.field)) if cursor is not None else None
        self.since = kept.newest
        self._before = dict(kept.seen)
        self._seen: dict[str, tuple[Value, int]] = {}
        self._lower = None if self.since is None or cursor is None else self._less(self._value(self.since))
        if self._lower is not None:
            self._seen = {each: (self._lower, count) for each, count in kept.seen.items()}
        self._newest = None if self.since is None else self._value(self.since)
        self._last: Value | None = None
        self.over = False
        """Whether only old rows follow."""
        self.without = 0
        """Rows that have no value of the cursor."""
        self.older = 0
        """Rows that are older than what the API was asked for."""
        self.rows = 0

    def server_time(self, seconds: float) -> None:
        """Takes the time of the API's clock when the read began; the earlier of both counts."""
        self._now = min(self._now, Decimal(str(seconds)))

    def windows(self) -> Iterator[Window]:
        """Yields the windows to ask for, in their order."""
        cursor = self._cursor
        if cursor is None or cursor.format == "text":
            yield Window(None, None)
            return
        begin = self._begin()
        end = self._now if cursor.end_param is not None else None
        if cursor.step is not None and begin is not None and end is not None:
            while begin + Decimal(cursor.step) < end:
                yield Window(begin, begin + Decimal(cursor.step))
                begin += Decimal(cursor.step)
        yield Window(begin, end)

    def asked(self, request: Request, window: Window) -> Request:
        """Returns a request with the parameters of a window."""
        cursor = self._cursor
        if cursor is None or cursor.param is None:
            return request
        if cursor.format == "text":
            first = cursor.start if self.since is None else text_of(self.since)
            return request if first is None else request.put(cursor.param, first, cursor.send_in)
        if window.begin is not None:
            request = request.put(cursor.param, written(window.begin, cursor.format, ROUND_FLOOR), cursor.send_in)
        if window.end is not None and cursor.end_param is not None:
            request = request.put(cursor.end_param, written(window.end, cursor.format, ROUND_CEILING), cursor.send_in)
        return request

    def take(self, rows: Sequence[msgspec.Raw | bytes]) -> Sequence[msgspec.Raw | bytes]:
        """Returns the rows of a page that did not come before.

        Raises:
            Backwards: they are not in the order that is declared.
        """
        if self._find is None:
            return rows
        cursor, given, near = self._cursor, [], []
        assert cursor is not None  # noqa: S101  # it has a field to find
        self.rows += len(rows)
        for row in rows:
            raw = self._find(row)
            value = None if raw is None else self._value(raw)
            if raw is None or value is None:
                self.without += 1
                given.append(row)
                continue
            if cursor.order == "ascending" and self._last is not None and value < self._last:
                raise Backwards(f"{text_of(raw)!r} comes after a larger value")
            self._last = value
            if self._lower is not None:
                if value < self._lower:
                    self.older += 1
                    if cursor.param is None:
                        self.over = cursor.order == "descending"
                        continue
                elif self._before and self._came_before(value, row):
                    continue
            if self._newest is None or value > self._newest:
                self._newest, self.since = value, raw
            near.append((value, row))
            given.append(row)
        self._remember(near)
        return given

    def end(self, window: Window, *, last: bool) -> None:
        """Takes the end of a window."""
        self._last = None
        if not last and window.end is not None and (self._newest is None or self._newest < (0, window.end)):
            self._newest, self.since = (0, window.end), _moment(window.end)

    def kept(self) -> Kept:
        """Returns the state behind the rows so far."""
        cursor = self._cursor
        assert cursor is not None  # noqa: S101  # nobody keeps a state without one
        since = _moment(self._now) if self._edge() != self._newest else self.since
        oldest = self._less(self._edge())
        seen = {each: count for each, (value, count) in self._seen.items() if oldest is None or value >= oldest}
        return kept_of(cursor.field, since, seen if self._tied else {})

    def _begin(self) -> Decimal | None:
        cursor = self._cursor
        assert cursor is not None  # noqa: S101  # only asked with one
        since = None if self.since is None else seconds_of(self.since)
        if since is not None:
            return since - Decimal(cursor.lookback)
        return None if cursor.start is None else _seconds(cursor.start)

    def _value(self, raw: bytes) -> Value | None:
        if self._cursor is None or self._cursor.format == "text":
            return comparable(raw)
        seconds = seconds_of(raw)
        return None if seconds is None else (0, seconds)

    def _edge(self) -> Value | None:
        """Returns the newest value, at most that of the time when the read began."""
        newest = self._newest
        if newest is None or self._cursor is None or self._cursor.format == "text":
            return newest
        return min(newest, (0, self._now))

    def _less(self, value: Value | None) -> Value | None:
        """Returns a value less what is looked back."""
        if value is None or self._cursor is None or not self._cursor.lookback:
            return value
        return 0, Decimal(value[1]) - Decimal(self._cursor.lookback)

    def _came_before(self, value: Value, row: msgspec.Raw | bytes) -> bool:
        key = _hash(row)
        left = self._before.get(key, 0)
        if left:
            self._before[key] = left - 1
            self._seen[key] = value, self._seen[key][1] if key in self._seen else 1
        return left > 0

    def _remember(self, near: list[tuple[Value, msgspec.Raw | bytes]]) -> None:
        """Keeps the hashes of the newest rows."""
        if not self._tied:
            return
        oldest = self._less(self._edge())
        if oldest is None:
            return
        for value, row in [each for each in near if each[0] >= oldest][-MOST_SEEN:]:
            key = _hash(row)
            self._seen[key] = value, self._seen.get(key, (value, 0))[1] + 1
        if len(self._seen) > MOST_SEEN:
            newest = sorted(self._seen.items(), key=lambda each: each[1][0], reverse=True)
            self._seen = {key: each for key, each in newest[:MOST_SEEN] if each[0] >= oldest}


def read_kept(state: bytes | None, cursor: Cursor) -> tuple[Kept, bool]:
    """Returns a stored state, and whether it is of another cursor and so of no use."""
    if state is None:
        return Kept(field=cursor.field), False
    try:
        kept = msgspec.json.decode(state, type=Kept)
    except UNREADABLE:
        return Kept(field=cursor.field), True
    return (kept, False) if kept.field == cursor.field else (Kept(field=cursor.field), True)


def written(seconds: Decimal, format_: str, rounding: str) -> str | int:
    """Returns a time as a parameter."""
    match format_:
        case "epoch":
            return int(seconds.to_integral_value(rounding))
        case "epoch_ms":
            return int((seconds * 1000).to_integral_value(rounding))
        case "date":
            days = (seconds / 86_400).to_integral_value(rounding)
            return as_date(days * 86_400).isoformat()
        case _:
            moment = as_moment((seconds * 1_000_000).to_integral_value(rounding) / 1_000_000).astimezone(UTC)
            return moment.isoformat(timespec="microseconds" if moment.microsecond else "seconds").replace("+00:00", "Z")


def _moment(seconds: Decimal) -> bytes:
    return msgspec.json.encode(written(seconds, "iso", ROUND_FLOOR))


def _seconds(start: str | int) -> Decimal | None:
    return moment_of(start) if isinstance(start, str) else Decimal(start)


def _hash(row: msgspec.Raw | bytes) -> str:
    return hashlib.sha256(row).hexdigest()[:_HASH_CHARACTERS]


def parent_hash(values: Any) -> str:
    """Returns the name of a parent's row in the state."""
    return hashlib.sha256(msgspec.json.encode(values)).hexdigest()[:12]
