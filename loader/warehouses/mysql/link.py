"""One link to the server: statements, and `LOAD DATA LOCAL` whose bytes come from memory, never from a file.

In the protocol the *server* names the file that it wants after a `LOAD DATA LOCAL`, and a hostile one may name any file after any
statement. aiomysql and asyncmy both open it. So this link opens none: it answers with the bytes that were given to `load_local`,
once, for the name it chose itself, and hangs up on every other request. aiomysql is the driver because it is Python: its
answers can be read by a class of ours, where asyncmy's are compiled.

https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_com_query_response_local_infile_request.html
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from aiomysql.connection import MySQLResult
from pymysql.connections import LoadLocalPacketWrapper
from pymysql.constants import CLIENT, FIELD_TYPE
from pymysql.err import OperationalError

from loader.sql.steps import Step
from loader.warehouses.mysql.bulk import Send
from loader.warehouses.mysql.dialect import PLACE, SQL
from loader.warehouses.mysql.encode import encode
from shared.driving.mysql_login import SafeConnection
from shared.driving.watch import Watch

PACKET_BYTES = 512 * 1024
"""Of one packet of rows; servers take at least a megabyte (`max_allowed_packet`)."""

MALFORMED = 2027

_NUMBERS = dict.fromkeys((FIELD_TYPE.TINY, FIELD_TYPE.SHORT, FIELD_TYPE.INT24, FIELD_TYPE.LONG, FIELD_TYPE.LONGLONG), int)

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server says of a statement: rows that it found or changed, and how many warnings it has."""

    columns: Sequence[str] = ()
    rows: Sequence[Row] = ()
    changed: int = 0
    warnings: int = 0


class Link(SafeConnection):
    """A link that reads no files and runs one statement at a time. Arguments as those of `SafeConnection`."""

    def __init__(self, **options: Any) -> None:
        self._source: tuple[str, Iterable[bytes | memoryview], Callable[[], None], Callable[[], None]] | None = None
        self.lost: Callable[[], None] | None = None
        super().__init__(conv=_NUMBERS, **options)
        self.client_flag |= CLIENT.LOCAL_FILES

    async def open(self) -> None:
        await super().open()
        _end_with_the_peer(self._writer.transport)

    async def ask(self, sql: str, values: Sequence[Any] = ()) -> Sequence[Row]:
        first, *parts = sql.split(PLACE)
        written = (str(value) if isinstance(value, int) else SQL.literal(value) for value in values)
        return (await self.run(first + "".join(value + part for value, part in zip(written, parts, strict=True)))).rows

    async def perform(self, step: Step, watch: Watch) -> tuple[Answer, int]:
        assert isinstance(step, Send)  # noqa: S101 - there are no others
        sent = 0

        def counted(chunk: memoryview) -> memoryview:
            nonlocal sent
            sent += len(chunk)
            return chunk

        answer = await self.load_local(step.statement, map(counted, encode(step.rows)), watch.moved, watch.server_works)
        watch.moved()
        return answer, sent

    async def run(self, statement: str) -> Answer:
        """Runs one statement; values of rows are text, whole numbers, or None."""
        await self.query(statement)
        result: Any = self._result
        columns = [column[0] for column in result.description or ()]
        return Answer(columns, result.rows or (), result.affected_rows or 0, result.warning_count or 0)

    async def load_local(
        self, statement: str, chunks: Iterable[bytes | memoryview], moved: Callable[[], None], sent: Callable[[], None]
    ) -> Answer:
        """Runs a `LOAD DATA LOCAL INFILE {name} …`, and sends these bytes as the file.

        Args:
            statement: with `{name}` where the name of the file stands.
            chunks: the file.
            moved: called for each packet that is on its way.
            sent: called when all are.
        """
        name = f"penstock-{secrets.token_hex(8)}"
        self._source = (name, chunks, moved, sent)
        try:
            return await self.run(statement.replace("{name}", f"'{name}'", 1))
        finally:
            self._source = None

    async def send_file(self, name: str) -> None:
        """Answers a request for a file: with our bytes, or by hanging up.

        Raises:
            OperationalError: the server asks for a file that the loader did not offer.
            the errors of the chunks; the link stays usable after them.
        """
        source, self._source = self._source, None
        if source is None or name != source[0]:
            self.hang_up()
            raise OperationalError(MALFORMED, "the server asked for a file that it was not offered; the link was closed")
        _, chunks, moved, sent = source
        try:
            for chunk in chunks:
                view = memoryview(chunk)
                for start in range(0, len(view), PACKET_BYTES):
                    self.write_packet(bytes(view[start : start + PACKET_BYTES]))
                    await self._writer.drain()
                    moved()
                # a fast server would never let the loop's other tasks run
                await asyncio.sleep(0)
        except OSError:
            raise
        except Exception:
            self.write_packet(b"")
            await self._read_packet()
            raise
        self.write_packet(b"")
        await self._writer.drain()
        sent()

    async def _read_query_result(self, unbuffered: bool = False) -> None:  # noqa: ARG002 - aiomysql's
        self._result = None
        result = _Result(self)
        await result.read()
        self._result = result
        self._affected_rows = result.affected_rows
        if result.server_status is not None:
            self.server_status = result.server_status


def _end_with_the_peer(transport: Any) -> None:
    """Ends a transport when the other end says that it sends no more.

    asyncio goes on writing then, and a server that ended our link while rows travelled takes no more of them and says no more:
    the write would wait for ever.
    """
    protocol = transport.get_protocol()
    received = protocol.eof_received

    def eof_received() -> bool:
        received()
        transport.abort()
        return False

    protocol.eof_received = eof_received


class _Result(MySQLResult):  # type: ignore[misc]
    """An answer whose requests for files go to the link."""

    async def _read_load_local_packet(self, first_packet: Any) -> None:
        name = LoadLocalPacketWrapper(first_packet).filename
        await self.connection.send_file(name.decode("utf-8", "replace"))
        answer = await self.connection._read_packet()
        if not answer.is_ok_packet():
            raise OperationalError(MALFORMED, "the server did not answer a file with its count of rows")
        self._read_ok_packet(answer)
