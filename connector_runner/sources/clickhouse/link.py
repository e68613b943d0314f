"""Talks to a server over HTTP: questions as JSON, rows as an Arrow stream that is read while it arrives.

A statement that is left or cancelled is ended on the server: the setting below lets it notice that we went away, and KILL QUERY tells
it at once.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from connector_runner.sources.clickhouse.errors import translate
from connector_runner.sources.clickhouse.options import OPTIONS
from connector_runner.sources.clickhouse.stream import ArrowPieces
from connector_runner.sources.clickhouse.types import without_null
from connector_runner.sql.numbers import texts_of, whole_numbers
from connector_runner.sql.tables import Column
from shared.driving.clickhouse import ServerError
from shared.errors import UNREADABLE, Permanent, SetupError
from shared.tasks import timeout, to_the_end

if TYPE_CHECKING:
    import aiohttp
    import pyarrow as pa

END_SECONDS = 5.0
"""How long it may take to end a statement on the server."""
_OK = 200
_READ_BYTES = 256 * 1024
_SETTINGS: Mapping[str, str | int] = {
    "readonly": 2,
    "session_timezone": "UTC",
    # a condition means the column, and not what it is cast to for us under its own name
    "prefer_column_name_to_alias": 1,
    "cancel_http_readonly_queries_on_client_close": 1,
    "max_query_size": 4 * 1024 * 1024,
    "max_block_size": 16_384,
    "output_format_arrow_string_as_string": 1,
    "output_format_arrow_low_cardinality_as_dictionary": 0,
    "output_format_arrow_compression_method": "lz4_frame",
}
_WIDE = frozenset(("Int128", "UInt128"))


class Link:
    """One server. `what`: the source, for messages."""

    def __init__(self, what: str, options: OPTIONS) -> None:
        self._what = what
        self._options = options
        self._opened: aiohttp.ClientSession | None = None

    async def ask(self, sql: str) -> Sequence[Sequence[str | None]]:
        """Returns the few rows that a question finds, as texts."""
        async with self._answer(f"{sql} FORMAT JSONCompact") as response:
            async with timeout(self._options.statement_timeout):
                answer = await response.read()
            try:
                return msgspec.json.decode(answer, type=_Answer).data
            except UNREADABLE as exc:
                raise ServerError(answer[-4096:].decode(errors="replace")) from exc

    async def rows(self, sql: str, columns: Sequence[Column]) -> AsyncGenerator[pa.Table, None]:
        """Yields the rows of a statement as they come."""
        import pyarrow as pa

        async with self._answer(f"{sql} FORMAT ArrowStream") as response:
            pieces = ArrowPieces()
            while not pieces.ended:
                async with timeout(self._options.statement_timeout):
                    data = await response.content.read(_READ_BYTES)
                if not data:
                    # an error in the middle stands behind the rows that came before it
                    raise ServerError(pieces.rest.decode(errors="replace") or "the answer broke off")
                try:
                    for batch in pieces.feed(data):
                        yield _typed(pa.Table.from_batches([batch]), columns)
                except Permanent as exc:
                    raise ServerError(pieces.rest.decode(errors="replace")) from exc

    async def close(self) -> None:
        """Closes its connections. Never raises."""
        opened, self._opened = self._opened, None
        if opened is not None:
            with contextlib.suppress(Exception):
                await opened.close()

    @contextlib.asynccontextmanager
    async def _answer(self, sql: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yields the answer to a statement, once it begins. Left before its end, the statement is ended on the server."""
        number, over = secrets.token_hex(16), False
        try:
            async with timeout(self._options.statement_timeout):
                response = await self._post(sql, {**_SETTINGS, "query_id": number})
            async with response:
                if response.status != _OK or "X-ClickHouse-Exception-Code" in response.headers:
                    over = True
                    answer = (await response.read()).decode(errors="replace").strip()
                    raise ServerError(answer or f"status {response.status} without words")
                yield response
                over = True
        except Exception as error:
            over = over or isinstance(error, ServerError)
            raise translate(error, self._what) from error
        finally:
            if not over:
                await to_the_end(self._end(number), END_SECONDS)

    async def _post(self, sql: str, settings: Mapping[str, str | int]) -> aiohttp.ClientResponse:
        import aiohttp

        options = self._options
        if self._opened is None:
            self._opened = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=options.connect_timeout), trust_env=False
            )
        return await self._opened.post(
            options.url,
            params={"database": options.database, **settings},
            headers={"X-ClickHouse-User": options.user, "X-ClickHouse-Key": options.password or ""},
            data=sql.encode(),
        )

    async def _end(self, number: str) -> None:
        with contextlib.suppress(Exception):  # it ended by itself, or the user may not, or the server is gone
            async with timeout(END_SECONDS), await self._post(f"KILL QUERY WHERE query_id = '{number}' ASYNC", {}) as response:
                await response.read()


class _Answer(msgspec.Struct):
    data: list[list[str | None]]


def _typed(table: pa.Table, columns: Sequence[Column]) -> Any:
    """Returns rows whose texts are UTF-8, which the server does not promise, with numbers where it sent their digits.

    Raises:
        SetupError: texts inside of lists and tuples are none.
    """
    import pyarrow as pa

    for place, (column, values) in enumerate(zip(columns, table.columns, strict=True)):
        made = values
        try:
            values.validate(full=True)
        except pa.ArrowInvalid as exc:
            if not pa.types.is_string(values.type):
                raise SetupError(
                    f'column "{column.name}" ({column.native}) holds texts that are no UTF-8; leave it out, or read a view that has them as hex()'
                ) from exc
            made = texts_of(values.cast(pa.binary()))
        if without_null(column.native)[0] in _WIDE:
            made = whole_numbers(made)
        if made is not values:
            table = table.set_column(place, column.name, made)
    return table
