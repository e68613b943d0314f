"""MySQL and MariaDB as a `Source`: one link for all that a call asks; what is left unfinished is ended on the server."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from connector_runner.contract import Checked, Message, Selected, Stream, StreamName
from connector_runner.sources.mysql.catalogue import SQL, read_tables
from connector_runner.sources.mysql.errors import translate
from connector_runner.sources.mysql.options import OPTIONS
from connector_runner.sources.mysql.types import arrow_of
from connector_runner.sql.reading import Reader
from connector_runner.sql.tables import Column, Table, stream_of
from shared.driving.mysql import address, database_of, login_of, must_encrypt, tls_of
from shared.driving.network import keep_alive
from shared.errors import NotConnected, SetupError
from shared.reading.decode import json_schema
from shared.tasks import timeout, to_the_end

if TYPE_CHECKING:
    import pyarrow as pa

    from connector_runner.sources.mysql.link import Link

END_SECONDS = 5.0
"""How long it may take to end a statement on the server."""
_WAITS = 7 * 86_400
"""Seconds that the server waits for us while a destination takes its time."""


class MySQLSource:
    """One database of a server; see the contract of `Source`."""

    def __init__(self, name: str, options: OPTIONS) -> None:
        self._name = name
        self._options = options
        self._link: Link | None = None

    async def spec(self) -> Mapping[str, Any]:
        """Returns the JSON Schema of its options."""
        return json_schema(OPTIONS)

    async def check(self) -> Checked:
        """Logs in and looks for tables."""
        try:
            tables = await self._tables()
        except (SetupError, NotConnected) as exc:
            return Checked(ok=False, message=str(exc))
        if tables:
            return Checked(ok=True)
        database = database_of(self._options)
        return Checked(
            ok=False,
            message=f'the user may read no table of database "{database}" that is included; grant SELECT, or check `include`',
        )

    async def discover(self) -> Sequence[Stream]:
        """Returns the tables and views."""
        return [stream_of(each) for each in await self._tables()]

    async def read(
        self, selected: Sequence[Selected], states: Mapping[StreamName | None, bytes]
    ) -> AsyncGenerator[Message, None]:
        """Yields the rows of tables; see the contract."""
        reader = Reader(self, SQL, self._options.page_rows, self._options.lookback)
        async with aclosing(reader.read(selected, await self._tables(), states)) as messages:
            async for message in messages:
                yield message

    async def close(self) -> None:
        """Ends the link."""
        link, self._link = self._link, None
        if link is not None:
            try:
                async with timeout(END_SECONDS):
                    await link.say_goodbye()
            except Exception:  # noqa: BLE001 - whatever is wrong with it, it is given up
                link.hang_up()

    async def ask(self, sql: str) -> Sequence[Sequence[str | None]]:
        """Returns the rows of a small answer, as texts."""
        async with self._over_link("asking") as link:
            return await link.ask(sql)

    async def rows(self, sql: str, columns: Sequence[Column]) -> AsyncGenerator[pa.Table, None]:
        """Yields the rows of a statement as they come."""
        fields = [(each.name, arrow_of(each)) for each in columns]
        async with self._over_link("reading") as link, aclosing(link.rows(sql, fields)) as tables:
            async for table in tables:
                yield table

    async def _tables(self) -> list[Table]:
        async with self._over_link("asking") as link:
            mariadb = link.is_mariadb
        options = self._options
        return await read_tables(
            self.ask, database_of(options), options.include, options.exclude, booleans=options.booleans, mariadb=mariadb
        )

    @contextlib.asynccontextmanager
    async def _over_link(self, doing: str) -> AsyncGenerator[Link, None]:
        """Yields the link; translates what is raised. Ends what the server still does then, and the link with it."""
        what = f'{doing} mysql connector "{self._name}" at {address(self._options)}'
        if self._link is None:
            self._link = await self._open(what)
        link = self._link
        try:
            yield link
        except Exception as error:
            raise translate(error, what) from error
        finally:
            if not link.idle:
                self._link = None
                link.hang_up()
                await to_the_end(self._end(link.server_thread_id[0]), END_SECONDS)

    async def _open(self, what: str) -> Link:
        try:
            from connector_runner.sources.mysql.link import Link
        except ImportError as error:
            raise SetupError(f"{what}: the driver is not installed ({error}); pip install 'penstock[mysql]'") from error
        options = self._options
        login = login_of(options)
        if not login["user"]:
            raise SetupError(f"{what}: the connector names no user; set `user`, or write it into the dsn")
        link = Link(
            silence=options.statement_timeout,
            encrypted=must_encrypt(options),
            ssl=tls_of(options, what),
            connect_timeout=float(options.connect_timeout),
            autocommit=None,
            **login,
        )
        try:
            async with timeout(options.connect_timeout):
                await link.open()
                await self._set(link)
        except BaseException as error:
            link.hang_up()
            if isinstance(error, Exception):
                raise translate(error, what, door=True) from error
            raise
        keep_alive(link.plug, options.stall_timeout)
        return link

    async def _set(self, link: Link) -> None:
        settings = {
            # backslashes escape, as the dialect writes them, and dates that are none may be compared
            "sql_mode": "''",
            "time_zone": "'+00:00'",
            "autocommit": "1",
            "sql_select_limit": "DEFAULT",
            "sql_big_selects": "1",
            "lock_wait_timeout": str(max(1, round(self._options.lock_timeout))),
            "net_write_timeout": str(_WAITS),
        }
        await link.ask("SET " + ", ".join(f"SESSION {name} = {value}" for name, value in settings.items()))
        await link.ask("SET SESSION TRANSACTION READ ONLY")

    async def _end(self, number: int) -> None:
        """Ends what a link that was left does on the server, which would notice only when it sends the next row."""
        with contextlib.suppress(Exception):  # it ended by itself, or the server is gone
            async with timeout(END_SECONDS):
                link = await self._open("ending a statement")
                try:
                    await link.ask(f"KILL CONNECTION {int(number)}")
                finally:
                    link.hang_up()
