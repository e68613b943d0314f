"""An API as a `Source`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from connector_runner.contract import Checked, Ended, Environment, Message, NewOptions, Said, Selected, Stream, StreamName
from connector_runner.sources.http_api.cursor import Kept, Progress
from connector_runner.sources.http_api.fields import path_of
from connector_runner.sources.http_api.link import CONNECTIONS, Link
from connector_runner.sources.http_api.options import OPTIONS, ApiKey, ApiStream, Basic, Bearer, OAuth2
from connector_runner.sources.http_api.page import Page
from connector_runner.sources.http_api.reading import Reading, pages_of, parents_of
from connector_runner.sources.http_api.request import request_of
from connector_runner.sources.http_api.schema import of_columns, of_rows
from shared.errors import NotConnected, SetupError, Transient
from shared.reading.decode import json_schema
from shared.reading.mask import Mask
from shared.tasks import first_of, task_group

MOST_PARENTS_LOOKED_AT = 3
"""Rows of a parent whose child rows are asked for until there are some, to tell their columns."""


class HttpApiSource:
    """An API; see the contract of `Source`."""

    def __init__(self, name: str, options: OPTIONS, environment: Environment) -> None:
        self._what = f'connector "{name}"'
        self._options = options
        self._mask = Mask(_secrets(options))
        self._heard = environment.heard
        self._link = Link(options, self._tell, self._mask)

    async def spec(self) -> Mapping[str, Any]:
        """Returns the JSON Schema of its options."""
        return json_schema(OPTIONS)

    async def check(self) -> Checked:
        """Asks for one page of each stream without a parent."""
        try:
            await self._each([name for name, each in self._options.streams.items() if each.parent is None], self._sample)
        except (SetupError, Transient) as exc:
            return Checked(False, str(exc))
        return Checked(True)

    async def discover(self) -> Sequence[Stream]:
        """Returns the streams, with the written columns, else with the columns of one page."""
        schemas: dict[str, dict[str, Any]] = {}

        async def look(name: str) -> None:
            stream = self._options.streams[name]
            if stream.columns:
                schemas[name] = of_columns(stream.columns)
                return
            try:
                page = await self._sample(name)
            except NotConnected:
                raise
            except (SetupError, Transient) as exc:  # reading will say it; the other streams can be read
                self._tell(Said("warn", f"its columns are not known: {exc}"))
                page = None
            schemas[name] = of_rows(page.rows if page is not None else ())

        await self._each(list(self._options.streams), look)
        return [_stream(name, each, schemas[name]) for name, each in self._options.streams.items()]

    async def read(
        self, selected: Sequence[Selected], states: Mapping[StreamName | None, bytes]
    ) -> AsyncGenerator[Message, None]:
        """Yields rows and states; a stream that fails does not keep the others back."""
        failures: list[SetupError | Transient] = []
        for each in selected:
            name, failed = each.stream.known_as, len(failures)
            try:
                if name.name not in self._options.streams:
                    raise SetupError("it is not among `streams` any more")
                async with aclosing(Reading(self._link, self._options, each, states.get(name)).messages()) as messages:
                    async for message in messages:
                        if (changed := self._changed()) is not None:
                            yield changed
                        yield message
            except (SetupError, Transient) as exc:
                failures.append(self._named(exc, name.name))
            if len(failures) > failed:
                if isinstance(failures[-1], NotConnected):  # the other streams would wait for nothing
                    break
                yield Said("error", str(failures[-1]))
            yield Ended(name, complete=len(failures) == failed)
        if (changed := self._changed()) is not None:
            yield changed
        if failures:
            raise next((each for each in failures if isinstance(each, Transient)), failures[0])

    async def close(self) -> None:
        """Closes the connections."""
        if self._changed() is not None:
            words = "the service gave another refresh token, which only a sync keeps; if the old one is refused, log in again"
            self._tell(Said("warn", words))
        await self._link.close()

    async def _sample(self, name: str) -> Page | None:
        """Returns a page of a stream, with rows if they are easily found; None: its parent has no rows."""
        stream, found, count = self._options.streams[name], None, 0
        try:
            async with aclosing(parents_of(self._link, self._options, stream)) as parents:
                async for parent in parents:
                    progress = Progress(stream.cursor, Kept(), time.time())
                    request = progress.asked(request_of(self._options.base_url, stream, parent.texts), next(progress.windows()))
                    found = await self._link.page(pages_of(stream, request).request, stream)
                    count += 1
                    if found.rows or count == MOST_PARENTS_LOOKED_AT:
                        break
        except (SetupError, Transient) as exc:
            raise self._named(exc, name) from exc
        return found

    def _named(self, error: SetupError | Transient, stream: str) -> SetupError | Transient:
        """Returns an error with the names of connector and stream, and without secrets."""
        return type(error)(f"{self._what}, stream {stream}: {self._mask.text(str(error))}")

    async def _each(self, names: Sequence[str], call: Any) -> None:
        """Calls with each name, some at once; raises the first error."""
        gate = asyncio.Semaphore(CONNECTIONS)

        async def one(name: str) -> None:
            async with gate:
                await call(name)

        try:
            async with task_group() as group:
                for name in names:
                    group.create_task(one(name))
        except BaseExceptionGroup as exc:
            raise first_of(exc) from exc

    def _changed(self) -> NewOptions | None:
        changed, self._link.login.changed = self._link.login.changed, None
        return None if changed is None else NewOptions(changed)

    def _tell(self, said: Said) -> None:
        self._heard(Said(said.level, self._mask.text(said.text)))


def _stream(name: str, stream: ApiStream, schema: dict[str, Any]) -> Stream:
    cursor = stream.cursor
    for column in stream.from_parent:
        schema["properties"].setdefault(column, {})
    return Stream(
        name=name,
        json_schema=schema,
        modes=("full_refresh",) if cursor is None else ("full_refresh", "incremental"),
        source_cursor=cursor is not None,
        cursor=() if cursor is None else path_of(cursor.field),
        primary_key=tuple(path_of(each) for each in stream.primary_key),
    )


def _secrets(options: OPTIONS) -> Iterator[Any]:
    yield options.headers
    for each in options.streams.values():
        yield each.headers
        yield {name: value for name, value in each.params.items() if isinstance(value, str) and len(value) > 12}
    match options.auth:
        case Bearer(token=token):
            yield token
        case Basic(password=password):
            yield password
        case ApiKey(value=value):
            yield value
        case OAuth2(client_secret=secret, refresh_token=token, params=params):
            yield [secret, token or "", params]
