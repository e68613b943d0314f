"""One read of a stream: walks over its pages, window by window, for each row of its parent; gives rows and states.

A state stands behind each page where the user says that rows come by the cursor, the smallest first; behind each window where there are windows;
else at the end, because a later row may be older than the rows before it. Of a child stream it holds the newest value for each row
of its parent.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import NamedTuple

import msgspec

from connector_runner.contract import Checkpoint, JsonRows, Message, Said, Selected
from connector_runner.sources.http_api.cursor import MOST_PARENTS, Backwards, Kept, Progress, kept_of, parent_hash, read_kept
from connector_runner.sources.http_api.fields import finder, path_of, text_of
from connector_runner.sources.http_api.link import Link
from connector_runner.sources.http_api.options import OPTIONS, ApiStream
from connector_runner.sources.http_api.paging import Pages
from connector_runner.sources.http_api.request import Request, request_of
from shared.errors import SetupError
from shared.reading.wait import http_date

ROWS_TOGETHER = 500
_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Parent(NamedTuple):
    """What a row of the parent gives: texts for the request, and values for columns. Both empty where there is no parent."""

    texts: Mapping[str, str] = {}
    columns: Mapping[str, bytes] = {}


async def parents_of(link: Link, options: OPTIONS, stream: ApiStream) -> AsyncGenerator[Parent, None]:
    """Yields the rows of a stream's parent; one without anything where it has none.

    Raises:
        SetupError, Transient
    """
    if stream.parent is None:
        yield Parent()
        return
    above = options.streams[stream.parent]
    fields = {name: finder(path_of(name)) for name in {*stream.parent_fields, *stream.from_parent.values()}}
    async with aclosing(parents_of(link, options, above)) as grands:
        async for grand in grands:
            progress = Progress(above.cursor, Kept(), time.time(), tied=False)
            for window in progress.windows():
                pages = pages_of(above, progress.asked(request_of(options.base_url, above, grand.texts), window))
                request: Request | None = pages.request
                while request is not None:
                    page = await link.page(request, above)
                    for row in page.rows:
                        yield _parent(stream, fields, row)
                    request = pages.next(page)


def pages_of(stream: ApiStream, request: Request) -> Pages:
    """Returns the pages of a request."""
    return Pages(stream.paging, request, whole="*" not in (stream.records or "").split("."))


def _parent(stream: ApiStream, fields: Mapping[str, Callable[[bytes], bytes | None]], row: msgspec.Raw | bytes) -> Parent:
    found = {name: find(bytes(row)) for name, find in fields.items()}
    for name in stream.parent_fields:
        if found[name] is None:
            raise SetupError(f"a row of the parent {stream.parent} has no `{name}`, which {{parent.{name}}} needs")
    texts = {name: text_of(found[name] or b"null") for name in stream.parent_fields}
    return Parent(texts, {column: found[name] or b"null" for column, name in stream.from_parent.items()})


class Reading:
    """One read of one stream.

    Args:
        stored: the state to go on from.
    """

    def __init__(self, link: Link, options: OPTIONS, selected: Selected, stored: bytes | None) -> None:
        self._link = link
        self._options = options
        self._name = selected.stream.known_as
        self._stream = options.streams[self._name.name]
        self._pick = _picker(selected)
        self._cursor = self._stream.cursor if selected.mode == "incremental" else None
        self._kept, self._forgot = (Kept(), False) if self._cursor is None else read_kept(stored, self._cursor)
        self._began = time.time()
        self._parents: dict[str, msgspec.Raw] = {}
        self._rows = self._weight = 0
        self._all = self._with_cursor = self._older = 0
        self._odd = False

    async def messages(self) -> AsyncGenerator[Message, None]:
        """Yields rows and states.

        Raises:
            SetupError, Transient
        """
        cursor, child = self._cursor, self._stream.parent is not None
        if self._forgot:
            yield Said("warn", f"stream {self._name} has another cursor now: all its rows are read")
        self._parents = dict(self._kept.parents)
        progress = Progress(cursor, self._kept, self._began)
        async with aclosing(parents_of(self._link, self._options, self._stream)) as parents:
            async for parent in parents:
                key = parent_hash(parent.texts) if child else ""
                if child:
                    progress = Progress(cursor, kept_of("", _bytes(self._kept.parents.get(key))), self._began, tied=False)
                async with aclosing(self._of_parent(parent, progress, child=child)) as messages:
                    async for message in messages:
                        yield message
                self._note(progress)
                if child and cursor is not None:
                    self._note_parent(key, progress)
                    if self._weight > 64 * len(self._parents):  # else states outweigh rows
                        yield self._checkpoint(self._of_parents())
        if cursor is not None:
            if self._all and not self._with_cursor:
                raise SetupError(f"no row has the field `{cursor.field}`; check `cursor.field`")
            yield self._checkpoint(self._of_parents() if child else progress.kept())
        if self._older and cursor is not None and cursor.param is not None:
            words = f"{self._older} rows are older than the API was asked for; does it know the parameter `{cursor.param}`?"
            yield Said("warn", f"stream {self._name}: {words}")
        if self._odd:
            yield Said("warn", f"stream {self._name}: some answers have bytes that are no text; they are U+FFFD in the rows")

    async def _of_parent(self, parent: Parent, progress: Progress, *, child: bool) -> AsyncGenerator[Message, None]:
        cursor, first = self._cursor, True
        windows = progress.windows()  # millions, where a first value is old and a window short
        following = next(windows, None)
        while (window := following) is not None:
            following = next(windows, None)
            asked = progress.asked(request_of(self._options.base_url, self._stream, parent.texts), window)
            pages = pages_of(self._stream, asked)
            request: Request | None = pages.request
            while request is not None:
                page = await self._link.page(request, self._stream)
                if first and (told := http_date(page.headers.get("Date", ""))) is not None:
                    progress.server_time(told)
                first = False
                self._odd = self._odd or page.odd
                try:
                    rows = progress.take(page.rows)
                except Backwards as exc:
                    if not child:  # states behind pages may be ahead of rows that come later
                        yield self._checkpoint(self._kept)
                    words = f"{exc}; take `order: ascending` out"
                    raise SetupError(f"the API does not sort its rows by `{self._field()}`: {words}") from exc
                for begin in range(0, len(rows), ROWS_TOGETHER):
                    yield JsonRows(self._name, [self._pick(row, parent.columns) for row in rows[begin : begin + ROWS_TOGETHER]])
                self._rows += len(rows)
                self._weight += len(page.body)
                request = None if progress.over else pages.next(page)
                if request is not None and cursor is not None and cursor.order == "ascending" and not child:
                    yield self._checkpoint(progress.kept())
            progress.end(window, last=following is None)
            if following is not None and not child:
                yield self._checkpoint(progress.kept())

    def _field(self) -> str:
        return self._cursor.field if self._cursor is not None else ""

    def _note(self, progress: Progress) -> None:
        self._all += progress.rows
        self._with_cursor += progress.rows - progress.without
        self._older += progress.older

    def _note_parent(self, key: str, progress: Progress) -> None:
        newest = progress.kept().newest
        self._parents.pop(key, None)
        if newest is not None:
            self._parents[key] = msgspec.Raw(newest)
        if len(self._parents) > MOST_PARENTS:
            del self._parents[next(iter(self._parents))]

    def _of_parents(self) -> Kept:
        return Kept(field=self._field(), parents=self._parents)

    def _checkpoint(self, kept: Kept) -> Checkpoint:
        count, self._rows, self._weight = self._rows, 0, 0
        return Checkpoint(self._name, msgspec.json.encode(kept), count)


def _bytes(raw: msgspec.Raw | None) -> bytes | None:
    return None if raw is None else bytes(raw)


def _picker(selected: Selected) -> Callable[[msgspec.Raw | bytes, Mapping[str, bytes]], bytes]:
    """Returns what makes a row ready: with the columns of its parent, without unwanted ones."""
    wanted: frozenset[str] | None = None
    if selected.columns is not None:
        paths = (*selected.columns, *selected.primary_key, selected.cursor)
        wanted = frozenset(path[0] for path in paths if path)

    def pick(row: msgspec.Raw | bytes, columns: Mapping[str, bytes]) -> bytes:
        if not columns and wanted is None:
            return bytes(row)
        own = {name: msgspec.Raw(value) for name, value in columns.items()} | _object(row)
        return msgspec.json.encode(own if wanted is None else {name: own[name] for name in own if name in wanted})

    return pick
