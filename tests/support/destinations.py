"""Destinations under test: each plug-in with the options of a fresh place, and a way to look at that place without the plug-in.

A subject reads rows back with a driver or reader of its own, so that no plug-in vouches for itself.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from loader import registry
from loader.contract.warehouse import (
    Capabilities,
    Column,
    Destination,
    Environment,
    Kind,
    LoadPlan,
    Session,
    TableLoad,
    TablePatch,
)
from loader.types.lattice import ARROW
from shared.threads import ThreadGate
from tests.support.clickhouse import Place, ask
from tests.support.s3 import S3Server

Row = dict[str, Any]
Shape = Mapping[str, Kind]


def can(type_name: str, capability: str) -> bool:
    """Tells whether destinations of a type can do something: `merge` also where it becomes true later."""
    return getattr(registry.plugin(type_name).CAPABILITIES, capability) not in (False, "no")


class Subject(Protocol):
    """A plug-in under test."""

    label: str
    document: dict[str, Any]

    async def rows(self, table: str, shape: Shape) -> list[Row]:
        """Returns all rows of a table, in any order, values as Python's own types; [] where there is no table."""
        ...

    async def run(self, statement: str) -> None:
        """Runs SQL behind the plug-in's back; `{}` stands for the schema."""
        ...


class Open:
    """A subject with its destination open."""

    def __init__(self, subject: Subject, destination: Destination, capabilities: Capabilities, environment: Environment) -> None:
        self.subject = subject
        self.destination = destination
        self.capabilities = capabilities
        self.environment = environment
        self._stack = AsyncExitStack()

    async def session(self, connection: str = "shop-wh", epoch: int = 1, destination: Destination | None = None) -> Session:
        """Opens a session that is closed at the end of the test."""
        session = await (destination or self.destination).open_session(connection, epoch)
        self._stack.push_async_callback(session.close)
        return session

    async def another(self, **options: Any) -> Destination:
        """Opens the same place a second time, as another loader would."""
        document = {**self.subject.document, **options}
        destination = await registry.open_destination("other", document, self.environment)
        self._stack.push_async_callback(destination.close)
        return destination

    async def rows(self, table: str, shape: Shape, order: str = "id") -> list[Row]:
        """Returns the rows of a table, sorted by one column, with the columns of `shape` only."""
        found = await self.subject.rows(table, shape)
        return sorted(({name: row.get(name) for name in shape} for row in found), key=lambda row: str(row[order]).rjust(20))

    async def close(self) -> None:
        """Closes the sessions and destinations opened here."""
        await self._stack.aclose()


@asynccontextmanager
async def opened(subject: Subject) -> AsyncIterator[Open]:
    """Opens a subject's destination."""
    gate = ThreadGate(4, "test")
    environment = Environment(gate)
    try:
        destination = await registry.open_destination("wh", subject.document, environment)
        one = Open(subject, destination, destination.capabilities, environment)
        try:
            yield one
        finally:
            await one.close()
            await destination.close()
    finally:
        gate.close()


def columns(shape: Shape) -> tuple[Column, ...]:
    """Returns the columns of a patch that makes a table of this shape."""
    return tuple(Column(name, kind) for name, kind in shape.items())


def arrow(shape: Shape, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Returns rows as the core would hand them over."""
    listed = list(rows)
    return pa.table({name: pa.array([row.get(name) for row in listed], ARROW[kind]) for name, kind in shape.items()})


def plan(sequence: int, last: int | None = None, connection: str = "shop-wh", lane: str = "live-1") -> LoadPlan:
    """Returns a plan of one or more sequences."""
    return LoadPlan(connection, lane, sequence, sequence if last is None else last)


async def make(session: Session, table: str, shape: Shape, key: Sequence[str] | None = None, cursor: str | None = None) -> None:
    """Makes a table of a shape."""
    await session.patch(TablePatch(table, add=columns(shape), primary_key=None if key is None else tuple(key), cursor=cursor))


async def append(session: Session, sequence: int, table: str, shape: Shape, *rows: Row) -> None:
    """Loads rows by appending."""
    await session.load(plan(sequence), [TableLoad(table, arrow(shape, rows))])


async def merge(
    session: Session, sequence: int, table: str, shape: Shape, *rows: Row, key: Sequence[str] = ("id",), cursor: str | None = None,
    coalesce: bool = False,
) -> None:  # fmt: skip
    """Loads rows by merging."""
    load = TableLoad(table, arrow(shape, rows), "merge", tuple(key), cursor, coalesce)
    await session.load(plan(sequence), [load])


class PostgresSubject:
    """A schema of its own in a real server."""

    label = "postgres"

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.schema = f"t_{secrets.token_hex(6)}"
        self.document: dict[str, Any] = {"type": "postgres", "dsn": dsn, "schema": self.schema}

    async def rows(self, table: str, shape: Shape) -> list[Row]:
        """See `Subject.rows`."""
        import asyncpg

        link = await asyncpg.connect(self.dsn)
        try:
            # a name as the tests wrote it: quoted here, by other code than the plug-in's
            quoted = await link.fetchval("SELECT format('%I.%I', $1::text, $2::text)", self.schema, table)
            if await link.fetchval("SELECT to_regclass($1)", quoted) is None:
                return []
            return [dict(row) for row in await link.fetch(f"SELECT * FROM {quoted}")]
        finally:
            await link.close()

    async def run(self, statement: str) -> None:
        """See `Subject.run`."""
        import asyncpg

        link = await asyncpg.connect(self.dsn)
        try:
            await link.execute(statement.replace("{}", self.schema))
        finally:
            await link.close()

    async def fetch(self, query: str) -> list[Row]:
        """Returns what a query finds; `{}` stands for the schema."""
        import asyncpg

        link = await asyncpg.connect(self.dsn)
        try:
            return [dict(row) for row in await link.fetch(query.replace("{}", self.schema))]
        finally:
            await link.close()

    async def drop(self) -> None:
        """Drops the schema."""
        await self.run('DROP SCHEMA IF EXISTS "{}" CASCADE')


class MySQLSubject:
    """A database of its own in a real server."""

    label = "mysql"

    def __init__(self, dsn: str) -> None:
        self.server = dsn.rpartition("/")[0]
        self.schema = f"t_{secrets.token_hex(6)}"
        self.document: dict[str, Any] = {"type": "mysql", "dsn": f"{self.server}/{self.schema}"}

    async def rows(self, table: str, shape: Shape) -> list[Row]:
        """See `Subject.rows`."""
        columns, _ = await self._run(
            "SELECT column_name, column_type FROM information_schema.columns "
            f"WHERE table_schema = '{self.schema}' AND table_name = {_my_text(table)}"
        )
        exact = {str(name): str(native) for name, native in columns}
        if not exact:
            return []
        # the text of a FLOAT has fewer digits than the value; as a double it has all
        wanted = ", ".join(f"{_my_name(name)} + 0e0" if native == "float" else _my_name(name) for name, native in exact.items())
        found, _ = await self._run(f"SELECT {wanted} FROM {_my_name(table)}")
        return [
            {name: _from_mysql(value, exact[name], shape.get(name)) for name, value in zip(exact, row, strict=True)}
            for row in found
        ]

    async def run(self, statement: str) -> None:
        """See `Subject.run`; types that the server calls otherwise are called so."""
        for pattern, replacement in _MY_WORDS:
            statement = re.sub(pattern, replacement, statement)
        await self._run(statement.replace("{}", self.schema))

    async def fetch(self, query: str) -> list[Row]:
        """Returns what a query finds; `{}` stands for the schema."""
        rows, described = await self._run(query.replace("{}", self.schema))
        return [dict(zip(described, row, strict=True)) for row in rows]

    async def create(self) -> None:
        """Makes the database."""
        await self._run(f"CREATE DATABASE `{self.schema}`", database=None)

    async def drop(self) -> None:
        """Drops the database."""
        await self._run(f"DROP DATABASE IF EXISTS `{self.schema}`", database=None)

    async def _run(self, statement: str, database: str | None = "") -> tuple[list[Any], list[str]]:
        import aiomysql

        parts = urlsplit(self.server)
        link = await aiomysql.connect(
            host=parts.hostname, port=parts.port, user=parts.username, password=parts.password,
            db=self.schema if database == "" else database, charset="utf8mb4", autocommit=True,
            init_command="SET sql_mode = 'ANSI_QUOTES,STRICT_ALL_TABLES,PIPES_AS_CONCAT', time_zone = '+00:00'",
        )  # fmt: skip
        try:
            async with link.cursor() as cursor:
                await cursor.execute(statement)
                described = [column[0] for column in cursor.description or ()]
                return list(await cursor.fetchall()) if described else [], described
        finally:
            await link.ensure_closed()
            await asyncio.sleep(0)  # asyncio ends its transport then


_MY_WORDS = (
    (r"\bvarchar\b(?!\()", "varchar(255) COLLATE utf8mb4_bin"),
    (r"\btimestamptz\b", "datetime(6)"),
    (r"\btimestamp\b(?![(\"])", "datetime(6)"),
    (r"\breal\b", "float"),
    (r"\btime\b(?![( ]+NOT|\()", "time(6)"),
    (r"ALTER COLUMN (\w+) TYPE", r"MODIFY COLUMN \1"),
    (r"\+00'", "'"),
    (r"nextval\('(\{\}\.\w+)'\)", r"nextval(\1)"),
)


def _my_name(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _my_text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def _from_mysql(value: Any, native: str, kind: Kind | None) -> Any:
    if value is None:
        return None
    if native == "tinyint(1)":
        return bool(value)
    if native == "float":
        return float(str(np.float32(value)))
    if native.startswith("bit"):
        return int.from_bytes(value, "big")
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC)
    if kind is Kind.DATE and isinstance(value, str):
        return date.fromisoformat(value)
    return value


class DuckDBSubject:
    """A database file of its own."""

    label = "duckdb"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "warehouse.duckdb"
        # closed after every load, so that the tests can look into it
        self.document: dict[str, Any] = {"type": "duckdb", "path": str(self.path), "linger": 0}

    async def rows(self, table: str, shape: Shape) -> list[Row]:
        """See `Subject.rows`."""
        import duckdb

        with duckdb.connect(str(self.path)) as link:
            found = link.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = ?", [table]).fetchone()
            if not found or not found[0]:
                return []
            link.execute("SET TimeZone = 'UTC'")
            quoted = table.replace('"', '""')
            rows: list[Row] = link.sql(f'SELECT * FROM main."{quoted}"').to_arrow_table().to_pylist()
            return rows

    async def run(self, statement: str) -> None:
        """See `Subject.run`."""
        import duckdb

        with duckdb.connect(str(self.path)) as link:
            link.execute(statement.replace("{}", "main"))


_CLICKHOUSE_WORDS = {
    "timestamptz": "DateTime64(6, 'UTC')", "uuid": "UUID", "json": "String", "TYPE varchar": "TYPE Nullable(String)", "PRIMARY KEY": "",
}  # fmt: skip
"""What the tests call a type, and the server otherwise."""
_CLICKHOUSE_WIDE = (
    "SELECT name || if(type LIKE '%DateTime%', ' at', '') FROM system.columns WHERE database = {database:String} AND table = {table:String}"
    " AND match(type, 'Int(128|256)|UUID|IPv|Enum|DateTime[(]?$|DateTime[^6]|Decimal\\\\(76')"
)
"""Columns of types that Arrow has not, which are read as text."""


class ClickHouseSubject:
    """A database of its own in a server; rows of merging tables are read as they are in the end."""

    label = "clickhouse"

    def __init__(self, place: Place, **options: Any) -> None:
        self.place = place
        self.database = f"t_{secrets.token_hex(6)}"
        self.document: dict[str, Any] = {
            "type": "clickhouse", "url": place.url, "user": place.user, "password": place.password, "database": self.database,
            "fsync": False, **options,
        }  # fmt: skip
        ask(place, f"CREATE DATABASE {self.database}")

    async def rows(self, table: str, shape: Shape) -> list[Row]:
        """See `Subject.rows`."""
        return await asyncio.to_thread(self._rows, table)

    def _rows(self, table: str) -> list[Row]:
        quoted = "`" + table.replace("\\", "\\\\").replace("`", "\\`") + "`"
        escaped = table.replace("\\", "\\\\").replace("\n", "\\n")
        parameters: dict[str, Any] = {"param_database": self.database, "param_table": escaped}
        wide = ask(self.place, _CLICKHOUSE_WIDE, **parameters).decode().splitlines()
        star = "*" + (f" REPLACE ({', '.join(_clickhouse_read(name) for name in wide)})" if wide else "")
        try:
            answer = ask(
                self.place, f"SELECT {star} FROM {quoted}", database=self.database, default_format="ArrowStream", final=1,
                asterisk_include_materialized_columns=1,
                output_format_arrow_string_as_string=1, output_format_arrow_low_cardinality_as_dictionary=0,
            )  # fmt: skip
        except RuntimeError as error:
            if "UNKNOWN_TABLE" in str(error):
                return []
            raise
        rows: list[Row] = pa.ipc.open_stream(answer).read_all().to_pylist() if answer else []
        return rows

    async def run(self, statement: str) -> None:
        """See `Subject.run`."""
        for word, own in _CLICKHOUSE_WORDS.items():
            statement = re.sub(rf"\b{word}\b", own, statement)
        # as everywhere else, a column may be null unless it says NOT NULL
        await self.ask(statement, data_type_default_nullable=1)

    async def ask(self, query: str, **settings: Any) -> str:
        """Returns what a query answers, tab-separated; `{}` stands for the database."""
        query = query.replace("{}", self.database)
        return (await asyncio.to_thread(ask, self.place, query, database=self.database, **settings)).decode()

    async def drop(self) -> None:
        """Drops the database."""
        await self.run("DROP DATABASE {} SYNC")


def _clickhouse_read(name: str) -> str:
    name, at, _ = name.partition(" at")
    return f"toDateTime64(`{name}`, 0, 'UTC') AS `{name}`" if at else f"toString(`{name}`) AS `{name}`"


class FilesSubject:
    """Objects in one format, somewhere."""

    def __init__(self, label: str, format_: str) -> None:
        self.label = f"{label}-{format_}"
        self.document: dict[str, Any] = {"type": label, "format": format_}
        self._format = format_

    async def rows(self, table: str, shape: Shape) -> list[Row]:
        """See `Subject.rows`."""
        from loader.objects.names import segment

        rows: list[Row] = []
        for name in self.files():
            if name.split("/")[0] == segment(table):
                rows += self._read(self.content(name), shape)
        return rows

    async def run(self, statement: str) -> None:
        """See `Subject.run`."""
        raise AssertionError(f"files know no SQL: {statement}")

    def files(self) -> list[str]:
        """Returns the objects, as paths below the destination."""
        raise NotImplementedError

    def content(self, name: str) -> bytes:
        """Returns what is in an object."""
        raise NotImplementedError

    def _read(self, data: bytes, shape: Shape) -> list[Row]:
        if self._format == "parquet":
            from pyarrow import parquet

            rows: list[Row] = parquet.ParquetFile(io.BytesIO(data)).read().to_pylist()
            return rows
        if self._format == "ndjson":
            return [_from_json(line, shape) for line in gzip.decompress(data).splitlines()]
        from pyarrow import csv

        convert = csv.ConvertOptions(
            column_types={name: ARROW[kind] for name, kind in shape.items()},
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
        )
        with pa.input_stream(io.BytesIO(data), compression="gzip") as stream:
            table = csv.read_csv(stream, parse_options=csv.ParseOptions(newlines_in_values=True), convert_options=convert)
        listed: list[Row] = table.to_pylist()
        return listed


class LocalSubject(FilesSubject):
    """A directory of its own, in one format."""

    def __init__(self, folder: Path, format_: str) -> None:
        super().__init__("local", format_)
        self.root = folder / "lake"
        self.document["path"] = str(self.root)

    def files(self) -> list[str]:
        """See `FilesSubject.files`."""
        found = (path.relative_to(self.root) for path in self.root.rglob("*") if path.is_file())
        return sorted(str(path) for path in found if path.parts[0] != "_penstock")

    def content(self, name: str) -> bytes:
        """See `FilesSubject.content`."""
        return (self.root / name).read_bytes()


class S3Subject(FilesSubject):
    """A bucket of its own, in one format, read by boto3."""

    def __init__(self, server: S3Server, format_: str) -> None:
        super().__init__("s3", format_)
        self.server = server
        self.bucket = server.new_bucket()
        self.document |= server.document(self.bucket)
        self.client = server.client()

    def files(self) -> list[str]:
        """See `FilesSubject.files`."""
        return [key for key in self.all_keys() if not key.startswith("_penstock/")]

    def all_keys(self) -> list[str]:
        """Returns all keys, those of the store itself too."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        return [each["Key"] for page in pages for each in page.get("Contents", ())]

    def uploads(self) -> list[str]:
        """Returns the keys of uploads that are neither complete nor ended."""
        return [key for key, _ in self.upload_ids()]

    def upload_ids(self) -> list[tuple[str, str]]:
        """Returns key and id of each such upload."""
        found = self.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", ())
        return [(each["Key"], each["UploadId"]) for each in found]

    def content(self, name: str) -> bytes:
        """See `FilesSubject.content`."""
        data: bytes = self.client.get_object(Bucket=self.bucket, Key=name)["Body"].read()
        return data


def _from_json(line: bytes, shape: Shape) -> Row:
    reading: dict[Kind, Callable[[Any], Any]] = {
        Kind.TIMESTAMP: datetime.fromisoformat,
        Kind.DATE: date.fromisoformat,
        Kind.DECIMAL: Decimal,
    }
    return {name: reading.get(shape[name], lambda value: value)(value) for name, value in json.loads(line).items()}
