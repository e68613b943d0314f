"""Asks a destination a question in SQL, reading only: `penstock query`.

A DuckDB file has one user at a time, mostly the loader while events flow. The loader closes the file between loads, so the
question waits for a gap. While it runs the file is open, and the loader waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from itertools import chain, count
from pathlib import Path
from typing import Any

import msgspec

from loader import registry
from loader.warehouses.clickhouse.connect import Link as ClickHouseLink
from loader.warehouses.clickhouse.connect import Options as ClickHouseOptions
from loader.warehouses.mysql.connect import Options as MySQLOptions
from loader.warehouses.mysql.connect import connect as connect_mysql
from loader.warehouses.postgres.connect import Options as PostgresOptions
from loader.warehouses.postgres.connect import connect
from penstock.control.data.tables import open_file, quoted
from shared.errors import ConfigError, NotConnected, PenstockError, Permanent, Problem, SetupError

TYPES = ("clickhouse", "duckdb", "mysql", "postgres")


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of an answer. `more`: the destination had more rows than the limit."""

    destination: str
    columns: list[str]
    rows: list[list[Any]]
    more: bool = False

    @property
    def objects(self) -> list[dict[str, Any]]:
        """Returns the rows as objects. If columns share a name, the second is `name_2`, and so on."""
        names: list[str] = []
        for column in self.columns:
            spellings = chain([column], (f"{column}_{number}" for number in count(2)))
            names.append(next(name for name in spellings if name not in names))
        return [dict(zip(names, row, strict=True)) for row in self.rows]


def choose(destinations: Mapping[str, dict[str, Any]], name: str | None) -> str:
    """Returns the destination to ask: the named one, or the only one that can be asked.

    Raises:
        ConfigError: no such destination, not one of these types, or several to choose from.
    """
    if name is not None and name not in destinations:
        known = ", ".join(sorted(destinations)) or "none"
        raise ConfigError([Problem("destinations", f"no destination is named {name!r}; known: {known}")])
    if name is not None:
        if destinations[name].get("type") not in TYPES:
            raise ConfigError(
                [
                    Problem(
                        f"destinations.{name}",
                        f"a destination of type {destinations[name].get('type')} takes no SQL; "
                        f"`penstock query` asks those of type {', '.join(TYPES[:-1])} and {TYPES[-1]}",
                    )
                ]
            )
        return name
    able = [each for each, options in destinations.items() if options.get("type") in TYPES]
    if not able:
        raise ConfigError(
            [Problem("destinations", f"none is of type {', '.join(TYPES[:-1])} or {TYPES[-1]}, which `penstock query` can ask")]
        )
    # two destinations may share a file, in two schemas: either gives the same answer
    places = {str(destinations[each].get("path") or each) for each in able}
    if len(places) > 1:
        raise ConfigError([Problem("destinations", f"there are several: say which with --destination: {', '.join(able)}")])
    return able[0]


async def ask(name: str, document: dict[str, Any], sql: str, limit: int) -> Answer:
    """Runs one statement.

    Args:
        document: the destination's part of a resolved project.
        limit: most rows to return; 0: all.

    Raises:
        Permanent: the database refuses the statement; in its words.
        PenstockError: the destination does not answer.
    """
    try:
        columns, rows = await _ask(name, document, sql, limit)
    except PenstockError as error:
        registry.mask_of(document).error(error)
        raise
    more = bool(limit) and len(rows) > limit
    return Answer(destination=name, columns=columns, rows=rows[:limit] if more else rows, more=more)


async def _ask(name: str, document: dict[str, Any], sql: str, limit: int) -> tuple[list[str], list[list[Any]]]:
    _, options = registry.parse_options(name, document)
    if isinstance(options, PostgresOptions):
        return await _ask_postgres(name, options, sql, limit)
    if isinstance(options, MySQLOptions):
        return await _ask_mysql(name, options, sql, limit)
    if isinstance(options, ClickHouseOptions):
        link = ClickHouseLink(name, options, "penstock query")
        try:
            return await link.ask(sql, limit)
        finally:
            await link.close()
    return await asyncio.to_thread(_ask_duckdb, name, str(document["path"]), str(document.get("schema", "main")), sql, limit)


def _ask_duckdb(name: str, path: str, schema: str, sql: str, limit: int) -> tuple[list[str], list[list[Any]]]:
    import duckdb

    from shared.driving.duckdb import describe

    if not Path(path).exists():
        raise SetupError(f"{name}: there is no file {path}; the next load makes it")
    try:
        with open_file(Path(path)) as database:
            if database.execute("SELECT 1 FROM duckdb_schemas() WHERE schema_name = ?", [schema]).fetchone():
                database.execute(f"USE {quoted(schema)}")
            cursor = database.execute(sql)
            columns = [str(each[0]) for each in cursor.description or ()]
            found = cursor.fetchmany(limit + 1) if limit else cursor.fetchall()
    except duckdb.Error as exc:
        raise Permanent(f"{name}: {describe(exc)}") from exc
    return columns, [list(row) for row in found]


async def _ask_mysql(name: str, options: MySQLOptions, sql: str, limit: int) -> tuple[list[str], list[list[Any]]]:
    from loader.warehouses.mysql.errors import ERRORS

    what = f'asking mysql destination "{name}"'
    link = await connect_mysql(options, what)
    try:
        from pymysql.converters import decoders

        link.decoders = decoders
        if limit:
            await link.run(f"SET SESSION sql_select_limit = {limit + 1}")
        await link.run("SET SESSION TRANSACTION READ ONLY")  # DDL would commit a single transaction and go on
        answer = await link.run(sql)
    except Exception as exc:
        translated = ERRORS.translate(exc, what)
        if ERRORS.code(exc) is None or isinstance(translated, NotConnected):
            raise translated from exc
        raise Permanent(f"{name}: {ERRORS.describe(exc)}") from exc
    finally:
        link.hang_up()
        await asyncio.sleep(0)
    return list(answer.columns), [list(row) for row in answer.rows]


async def _ask_postgres(name: str, options: PostgresOptions, sql: str, limit: int) -> tuple[list[str], list[list[Any]]]:
    import asyncpg

    from loader.warehouses.postgres.errors import ERRORS

    what = f'asking postgres destination "{name}"'
    link = await connect(options, "penstock/query", what)
    try:
        await link.driver.execute(f"SET search_path TO {quoted(options.schema)}, public")
        async with link.driver.transaction(readonly=True):
            statement = await link.driver.prepare(sql)
            columns = [each.name for each in statement.get_attributes()]
            found = await (await statement.cursor()).fetch(limit + 1) if limit else await statement.fetch()
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as exc:  # the latter for `$1`, which has no value here
        raise Permanent(f"{name}: {exc}") from exc
    except OSError as exc:
        raise ERRORS.translate(exc, what) from exc
    finally:
        link.hang_up()
    return columns, [list(row) for row in found]
