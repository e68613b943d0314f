"""Reads the table of a lookup from a database: the options are those of a destination or connector of the project.

Every session can only read, and the rows come in parts, so that a table beyond its bounds is refused before it is in memory.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import field

from functions_runtime.rules.joining import Builder, Table
from shared.driving import duckdb as duck
from shared.driving.clickhouse import words_of
from shared.driving.mysql import MySQLOptions, address, login_of, must_encrypt, tls_of
from shared.driving.network import tls_context, translate_socket
from shared.driving.server import ServerOptions
from shared.errors import ConfigError, NotConnected, PenstockError, SetupError
from shared.project.lookups import Lookup
from shared.reading.decode import decode
from shared.reading.mask import Mask
from shared.reading.units import ByteSize, Duration
from shared.tasks import timeout

if TYPE_CHECKING:
    import duckdb

PART_ROWS = 1000
LONGEST_LINE = 1 << 24
LOCK_SECONDS = 10.0
SILENCE_SECONDS = 60.0
READ_SECONDS = 600.0
"""How long the reading of a table may take."""
DUCKDB_SECONDS = 300.0
"""How long a server may be silent before its next rows."""
_SECRET = ("dsn", "password")
_INTO_FILE = re.compile(r"\binto(?:\s|/\*.*?\*/|--[^\n]*\n|#[^\n]*\n)+(?:outfile|dumpfile)\b", re.IGNORECASE | re.DOTALL)

Rows = AsyncGenerator[tuple[Sequence[str], Sequence[Sequence[Any]]], None]
"""The names of the columns, with some rows."""


class _Postgres(ServerOptions, frozen=True, kw_only=True, forbid_unknown_fields=False):
    ssl: str | None = None
    schema: str = ""


class _MySQL(MySQLOptions, frozen=True, kw_only=True, forbid_unknown_fields=False):
    pass


class _ClickHouse(msgspec.Struct, frozen=True, kw_only=True):
    url: str
    user: str = "default"
    password: str | None = None
    database: str = "default"
    connect_timeout: Duration = field(default_factory=lambda: Duration(10))


class _DuckDB(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    schema: str = ""
    read_copy: str | None = None
    memory_limit: ByteSize | None = None


async def read_database(lookup: Lookup, place: Mapping[str, Any], what: str) -> Table:
    """Returns the table of a lookup.

    Args:
        place: the options of the destination or connector, secrets put in.
        what: the lookup, for messages.

    Raises:
        SetupError: a person must act: a password, a permission, a table that is not there or is larger than its bounds.
        NotConnected: the server does not answer.
    """
    builder: Builder | None = None
    asked = _ASKED[str(place.get("type"))](lookup, place, what)
    try:
        async with timeout(READ_SECONDS), aclosing(asked):
            async for names, rows in asked:
                builder = builder or Builder(lookup, what, names)
                for row in rows:
                    builder.add(row)
                await asyncio.sleep(0)
    except PenstockError:
        raise
    except TimeoutError as exc:
        raise NotConnected(f"{what}: the database does not give its rows within {READ_SECONDS:g} s, or is silent") from exc
    except Exception as exc:
        known = translate_socket(exc, what)
        if known is not None:
            raise known from exc
        if (
            "dsn" in place and isinstance(exc, ValueError) and not getattr(exc, "sqlstate", None)
        ):  # its text may quote the dsn, and with it the password
            raise SetupError(f"{what}: the address of the server is not readable; check `dsn`") from None
        words = Mask([place.get(each) for each in _SECRET]).text(str(exc))
        raise SetupError(f"{what}: {type(exc).__name__}: {words}") from exc
    if builder is None:
        raise SetupError(f"{what}: the statement gives no columns; expected one that selects rows")
    return builder.made()


def _options(type_: type[Any], place: Mapping[str, Any], what: str) -> Any:
    given = {key: value for key, value in place.items() if key in type_.__struct_fields__}
    try:
        return decode(given, type_)
    except ConfigError as exc:
        raise SetupError(f"{what}: {exc}") from exc


def statement(lookup: Lookup, schema: str = "", quote: str = '"', *, escapes: bool = False) -> str:
    """Returns the statement that reads a lookup's rows; the names of a table stand in quotes.

    Args:
        escapes: whether a backslash inside of quotes takes the meaning of what follows.
    """
    if lookup.query is not None:
        return re.sub(r"[;\s]+\Z", "", lookup.query)

    def quoted(name: str) -> str:
        return quote + (name.replace("\\", "\\\\") if escapes else name).replace(quote, quote * 2) + quote

    parts = (lookup.table or "").split(".")
    if len(parts) == 1 and schema:
        parts.insert(0, schema)
    columns = list(dict.fromkeys((lookup.key, *lookup.columns))) if lookup.columns else []
    return f"SELECT {', '.join(map(quoted, columns)) or '*'} FROM {'.'.join(map(quoted, parts))}"  # noqa: S608  # names in quotes


async def _postgres(lookup: Lookup, place: Mapping[str, Any], what: str) -> Rows:
    import asyncpg

    options: _Postgres = _options(_Postgres, place, what)
    tls: Any = options.ssl
    if options.ssl_root_certificate is not None:
        tls = tls_context(what, options.ssl_root_certificate, proven=True, named=options.ssl != "verify-ca")
    settings = {"application_name": "penstock lookup", "timezone": "UTC"}
    driver = await asyncpg.connect(
        options.dsn,
        **options.login,
        ssl=tls,
        timeout=float(options.connect_timeout),
        command_timeout=float(options.statement_timeout) + SILENCE_SECONDS,  # a server that froze ends no statement itself
        server_settings=settings,
    )
    try:
        for kind in ("json", "jsonb"):
            await driver.set_type_codec(kind, schema="pg_catalog", encoder=str, decoder=msgspec.json.decode)
        await driver.execute(f"SET statement_timeout = {max(1, int(options.statement_timeout * 1000))}")
        async with driver.transaction(readonly=True):
            prepared = await driver.prepare(statement(lookup, options.schema))
            names = [each.name for each in prepared.get_attributes()]
            cursor = await prepared.cursor()
            yield names, []
            while rows := await cursor.fetch(PART_ROWS, timeout=float(options.statement_timeout)):
                yield names, [tuple(row) for row in rows]
    finally:
        driver.terminate()


async def _mysql(lookup: Lookup, place: Mapping[str, Any], what: str) -> Rows:
    from aiomysql.cursors import SSCursor
    from pymysql.err import OperationalError

    from shared.driving.mysql_login import SafeConnection

    options: _MySQL = _options(_MySQL, place, what)
    seconds = float(options.connect_timeout)
    link = SafeConnection(
        encrypted=must_encrypt(options), ssl=tls_of(options, what), connect_timeout=seconds, autocommit=None, **login_of(options)
    )
    try:
        try:
            async with timeout(seconds):
                await link.open()
        except OperationalError as exc:
            if exc.args and exc.args[0] in (2003, 2013, 1040):
                raise NotConnected(f"{what} at {address(options)}: {exc.args[-1]}") from exc
            raise
        cursor = SSCursor(link)
        async with timeout(float(options.statement_timeout)):
            await cursor.execute("SET time_zone = '+00:00'")
            await cursor.execute("SET SESSION TRANSACTION READ ONLY")
            await cursor.execute("START TRANSACTION READ ONLY")
            await cursor.execute(_no_file(statement(lookup, quote="`"), what))
        names = [each[0] for each in cursor.description or ()]
        if names:
            yield names, []
        while names:
            async with timeout(SILENCE_SECONDS):
                rows = await cursor.fetchmany(PART_ROWS)
            if not rows:
                break
            yield names, rows
    finally:
        link.hang_up()


def _no_file(text: str, what: str) -> str:
    """Returns a statement of MySQL that writes no file on the server, which a transaction that can only read may do."""
    if _INTO_FILE.search(text):
        raise SetupError(f"{what}: `query` writes a file of the server; expected a statement that selects rows")
    return text


async def _clickhouse(lookup: Lookup, place: Mapping[str, Any], what: str) -> Rows:
    import aiohttp

    options: _ClickHouse = _options(_ClickHouse, place, what)
    settings = {
        "database": options.database,
        "readonly": "2",
        "output_format_json_quote_64bit_integers": "0",
        "date_time_output_format": "iso",
        "wait_end_of_query": "1",
        "max_execution_time": str(int(READ_SECONDS)),
        "max_result_rows": str(2 * lookup.max_rows + 1),
    }
    headers = {"X-ClickHouse-User": options.user, "X-ClickHouse-Key": options.password or ""}
    limits = aiohttp.ClientTimeout(total=None, sock_connect=float(options.connect_timeout), sock_read=SILENCE_SECONDS)
    # on a line of its own, since a query may end in a comment
    query = f"{statement(lookup, escapes=True)}\nFORMAT JSONCompactEachRowWithNames"
    try:
        async with (
            aiohttp.ClientSession(timeout=limits, read_bufsize=LONGEST_LINE) as session,
            session.post(options.url, params=settings, data=query.encode(), headers=headers, allow_redirects=False) as answer,
        ):
            if answer.status != 200:
                raise SetupError(f"{what}: {words_of((await answer.content.read(65_536)).decode(errors='replace'))}")
            names: list[str] = []
            rows: list[Sequence[Any]] = []
            async for line in answer.content:
                row = msgspec.json.decode(line)
                if not names:
                    names = row
                    yield names, []
                    continue
                rows.append(row)
                if len(rows) >= PART_ROWS:
                    yield names, rows
                    rows = []
            if rows:
                yield names, rows
    except aiohttp.ClientError as exc:
        raise NotConnected(
            f"{what}: the server does not answer: {type(exc).__name__}; check `url`, and that the server runs"
        ) from exc
    except msgspec.DecodeError as exc:
        raise SetupError(f"{what}: the server's answer ends in the middle of a row; look at its log") from exc


async def _duckdb(lookup: Lookup, place: Mapping[str, Any], what: str) -> Rows:
    options: _DuckDB = _options(_DuckDB, place, what)
    opened: list[duckdb.DuckDBPyConnection] = []
    stop = threading.Event()
    reading = asyncio.create_task(asyncio.to_thread(_of_duckdb, lookup, options, what, opened, stop), name="lookup-duckdb")
    try:
        async with timeout(DUCKDB_SECONDS):
            names, parts = await asyncio.shield(reading)
    except TimeoutError as exc:
        raise SetupError(f"{what}: the query takes longer than {DUCKDB_SECONDS:g} s; read less with it") from exc
    finally:
        stop.set()
        while not reading.done():  # an interrupt that comes before the query begins interrupts nothing
            for link in opened:
                with suppress(Exception):  # it may be closed by now
                    link.interrupt()
            await asyncio.wait({reading}, timeout=0.02)
        if not reading.cancelled():
            reading.exception()  # heard
    for part in parts:
        yield names, part


def _of_duckdb(
    lookup: Lookup, options: _DuckDB, what: str, opened: list[duckdb.DuckDBPyConnection], stop: threading.Event
) -> tuple[list[str], list[list[tuple[Any, ...]]]]:
    """Returns columns and rows, and the connection in `opened`; blocks. While the file is open no loader writes to it, so the rows are taken out at once."""
    import duckdb

    path = Path(options.read_copy or options.path)
    if not path.is_file():
        raise SetupError(
            f"{what}: there is no file {path} on the machine of functions_runtime; check `path`, or load something first"
        )
    until = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            link = duckdb.connect(str(path), read_only=True)
            break
        except duckdb.Error as exc:
            if not duck.is_locked(exc):
                raise SetupError(f"{what}: {duck.describe(exc)}") from exc
            if time.monotonic() > until or stop.is_set():
                raise NotConnected(f"{what}: {path} is in use{duck.holder_of(exc)}; the next try comes by itself") from exc
            time.sleep(0.02)
    try:
        link.execute("SET python_enable_replacements = false; SET TimeZone = 'UTC'; SET autoinstall_known_extensions = false")
        # a query reads the database and no other files, and writes none: `read_only` alone lets COPY write
        link.execute("SET enable_external_access = false; SET threads = 1")
        if options.memory_limit is not None:
            link.execute(f"SET memory_limit = '{int(options.memory_limit)}B'")
        link.execute("SET lock_configuration = true")
        text = statement(lookup, options.schema)
        if len(link.extract_statements(text)) != 1:
            raise SetupError(f"{what}: `query` has several statements; expected one that selects rows")
        opened.append(link)
        if stop.is_set():
            raise SetupError(f"{what}: the reader gave it up")
        link.execute(text)
        names = [each[0] for each in link.description or ()]
        parts: list[list[tuple[Any, ...]]] = []
        count = size = 0
        while rows := link.fetchmany(PART_ROWS):
            parts.append(rows)
            count += len(rows)
            size += sum(len(value) for row in rows for value in row if isinstance(value, (str, bytes)))
            if count > 2 * lookup.max_rows or size > 2 * lookup.max_bytes:
                raise SetupError(
                    f"{what}: the query gives more than {count} rows or {size} bytes; read fewer, or raise `max_rows` and `max_bytes`"
                )
        return names, parts or [[]]
    except duckdb.Error as exc:
        raise SetupError(f"{what}: {duck.describe(exc)}") from exc
    finally:
        link.close()


_ASKED: Mapping[str, Callable[[Lookup, Mapping[str, Any], str], Rows]] = {
    "postgres": _postgres,
    "mysql": _mysql,
    "clickhouse": _clickhouse,
    "duckdb": _duckdb,
}
