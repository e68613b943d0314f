"""Talks to a server over HTTP: questions through `aiochclient`, everything else over its `aiohttp` session directly.

`aiochclient` reads an answer's rows. It cannot do the rest: its `sqlparse` refuses statements of more than 10,000 tokens, which a
table of 1,000 columns has, and it takes no settings for one statement. So statements and inserts go to the same interface as they
are. Values are bound as the server's own query parameters (`{name:String}`); names are quoted by `statements.py`.

An insert answers when all of it is done (`wait_end_of_query`), so no error can come behind a status of 200.

https://clickhouse.com/docs/interfaces/http
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, field

from loader.warehouses.clickhouse.errors import translate
from shared.driving.clickhouse import ServerError, check_url
from shared.errors import Permanent
from shared.reading.units import Duration
from shared.stores.staging.options import LocalStaging, S3Staging
from shared.tasks import timeout

KEPT_SECONDS = 2.5
"""How long an unused connection is kept: servers close theirs after 3 seconds or more (`keep_alive_timeout`)."""
MOST_QUERY = 4 * 1024 * 1024
"""Bytes of an insert's statement; it names each column three times."""
END_SECONDS = 30.0
"""How long statements of an older session may take to end once they are killed."""
_OK = 200
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\0": "\\0"})

Value = str | int | Sequence[str]


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a ClickHouse destination."""

    url: Annotated[str, Meta(description="address of the HTTP interface, such as http://host:8123 or https://host:8443")]
    user: Annotated[str, Meta(min_length=1, description="user name")] = "default"
    password: Annotated[
        str | None, Meta(description="password; write ${NAME} and set the environment variable", extra={"secret": True})
    ] = None
    database: Annotated[str, Meta(min_length=1, description="database of the tables; must exist")] = "default"
    engine: Annotated[
        Literal["MergeTree", "ReplicatedMergeTree", "SharedMergeTree"],
        Meta(description="family of new tables' engines; tables that merge get its Replacing form"),
    ] = "MergeTree"
    cluster: Annotated[str | None, Meta(description="cluster whose servers all get the tables, by ON CLUSTER")] = None
    partition_by: Annotated[
        Literal["month", "day", "none"], Meta(description="partitions of new tables that are appended to, by their time")
    ] = "month"
    final_view: Annotated[
        str | None,
        Meta(description='name of the view that shows final rows of a merging table, with {table} in it; "" makes none'),
    ] = "{table}_final"
    deduplication_window: Annotated[
        int, Meta(ge=100, le=1_000_000, description="inserts of a table whose tokens the server remembers, to know a repeat")
    ] = 10_000
    fsync: Annotated[
        bool | None,
        Meta(description="new tables sync each insert to disk; default: where engine is MergeTree, which keeps one copy"),
    ] = None
    async_rows: Annotated[
        int,
        Meta(
            ge=0,
            description="loads of fewer rows are asynchronous inserts, which the server gathers from many clients; 0: none are",
        ),
    ] = 0
    staging: Annotated[
        S3Staging | LocalStaging | None,
        Meta(description="store from which the server pulls large loads as Parquet; default: the loader sends all rows itself"),
    ] = None
    staged_rows: Annotated[
        int, Meta(ge=1, description="inserts of so many rows or more go by way of `staging`, smaller ones straight to the server")
    ] = 5_000
    null_as_default: Annotated[
        bool,
        Meta(
            description="true: a row without a value gets 0 or an empty text where a column of yours takes no nulls and has no DEFAULT; "
            "false: it becomes a dead letter"
        ),
    ] = False
    connect_timeout: Annotated[Duration, Meta(description="how long opening a connection may take")] = field(
        default_factory=lambda: Duration(10)
    )
    statement_timeout: Annotated[
        Duration, Meta(description="how long one statement, such as the insert of a batch, may take")
    ] = field(default_factory=lambda: Duration(600))

    def __post_init__(self) -> None:
        check_url(self.url)
        if self.final_view and "{table}" not in self.final_view:
            raise ValueError("final_view must contain {table}, or all tables would share a view")

    @property
    def syncs(self) -> bool:
        """Whether new tables sync each insert."""
        return self.engine == "MergeTree" if self.fsync is None else self.fsync


class Link:
    """One server, for one session or for the destination itself.

    Args:
        name: of the destination, for messages.
        options: where it is.
        comment: the server shows it with every query of this link, and a successor finds them by it.
    """

    def __init__(self, name: str, options: Options, comment: str) -> None:
        import aiohttp

        self._name = name
        self._options = options
        self._comment = comment
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(keepalive_timeout=KEPT_SECONDS, limit=8),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=options.connect_timeout),
            # the connector's own, which no proxy variables change
            trust_env=False,
        )

    async def fetch(self, doing: str, query: str, **parameters: Value) -> list[Mapping[str, Any]]:
        """Returns what a query finds, by column.

        Raises:
            NotConnected, Transient, SetupError, Permanent
        """
        from aiochclient import ChClient
        from aiohttp import ServerDisconnectedError

        settings = {"log_comment": self._comment, "output_format_json_quote_64bit_integers": 1, **_bound(parameters)}
        options = self._options
        client = ChClient(self._http, options.url, options.user, options.password or "", options.database, **settings)
        with self._translated(doing):
            async with timeout(options.statement_timeout):
                # as JSON, because its reading of tab-separated text takes a NUL for a space
                try:
                    rows = await client.fetch(query, json=True)
                except ServerDisconnectedError:  # it had closed a connection that nobody used, or was restarted
                    rows = await client.fetch(query, json=True)
                return [dict(row) for row in rows]

    async def ask(self, sql: str, limit: int) -> tuple[list[str], list[list[Any]]]:
        """Returns names and rows of what a person's question finds, one row more than `limit` at most (0: all). It cannot write.

        Raises:
            as `fetch`.
        """
        settings: dict[str, Value] = {"readonly": 2, "default_format": "JSONCompactEachRowWithNames"}
        if limit:
            settings["limit"] = limit + 1
        with self._translated("asking"):
            answer = await self._post(settings, sql.encode())
        try:
            names, *rows = [msgspec.json.decode(line, type=list[Any]) for line in answer.splitlines()] or [[]]
        except msgspec.DecodeError as error:
            raise Permanent(f'clickhouse destination "{self._name}": leave out FORMAT, rows are printed here') from error
        return names, rows

    async def run(
        self,
        doing: str,
        statement: str,
        table: str | None = None,
        *,
        parameters: Mapping[str, Value] | None = None,
        settings: Mapping[str, Value] | None = None,
        data: bool = False,
    ) -> None:
        """Runs a statement that answers nothing; `data`: it brings rows into `table`.

        Raises:
            as `fetch`; of `table`, where it is given; with `data` also RowsRejected.
        """
        with self._translated(doing, table, data=data):
            asked = {"max_query_size": MOST_QUERY, **(settings or {}), **_bound(parameters or {})}
            await self._post(asked, statement.encode())

    async def insert(
        self,
        doing: str,
        statement: str,
        body: AsyncIterator[bytes],
        settings: Mapping[str, Value],
        parameters: Mapping[str, Value],
        table: str,
    ) -> None:
        """Sends an insert and its data; returns when the server has it.

        Raises:
            as `fetch`; and RowsRejected, TableChanged, TableBusy of `table`.
        """
        with self._translated(doing, table, data=True):
            # in front of the data, as the interface allows: in the URL a table of many columns is too long for most proxies
            asked = {"max_query_size": MOST_QUERY, **settings, **_bound(parameters)}
            await self._post(asked, _behind(statement, body))

    async def close(self) -> None:
        """Closes its connections. Never raises."""
        with contextlib.suppress(Exception):
            await self._http.close()

    async def _post(self, parameters: Mapping[str, Value], data: bytes | AsyncIterator[bytes]) -> bytes:
        options = self._options
        asked: dict[str, Any] = {
            "database": options.database, "log_comment": self._comment, "wait_end_of_query": 1, **parameters
        }  # fmt: skip
        headers = {"X-ClickHouse-User": options.user, "X-ClickHouse-Key": options.password or ""}
        async with (
            timeout(options.statement_timeout),
            self._http.post(options.url, params=asked, headers=headers, data=data) as response,
        ):
            answer = await response.read()
            if response.status != _OK or "X-ClickHouse-Exception-Code" in response.headers:
                raise ServerError(answer.decode(errors="replace").strip() or f"status {response.status} without words")
            return answer

    @contextlib.contextmanager
    def _translated(self, doing: str, table: str | None = None, *, data: bool = False) -> Any:
        try:
            yield
        except Exception as error:
            raise translate(error, f'{doing} clickhouse destination "{self._name}"', table, data=data) from error


async def _behind(statement: str, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield statement.encode() + b"\n"
    async for part in body:
        yield part


def _bound(parameters: Mapping[str, Value]) -> dict[str, str]:
    """Returns values as the interface takes query parameters: text escaped as in its tab-separated format, lists quoted."""
    return {f"param_{name}": _written(value) for name, value in parameters.items()}


def _written(value: Value) -> str:
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return value.translate(_ESCAPES)
    return "[" + ",".join("'" + each.translate(_ESCAPES).replace("'", "\\'") + "'" for each in value) + "]"
