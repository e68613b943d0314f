"""One link to the server: questions with small answers, and statements whose rows come as Arrow tables while they arrive.

Importing this module imports the driver.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pymysql.constants import COMMAND
from pymysql.err import MySQLError, OperationalError, raise_mysql_exception

from connector_runner.sources.mysql.decode import Packets, table_of
from connector_runner.sources.mysql.errors import LOST, code_of
from shared.driving.mysql_login import SafeConnection
from shared.tasks import timeout

if TYPE_CHECKING:
    import pyarrow as pa

GIVEN_BYTES = 2 * 1024 * 1024
"""On the wire, of rows that are given together; in Arrow they are at most three times as large."""
_READ_BYTES = 256 * 1024
_LOST = 2013


class Link(SafeConnection):
    """A link. Values come as text.

    Args:
        silence: seconds that the server may be silent.
        options: of `SafeConnection`.
    """

    def __init__(self, *, silence: float, **options: Any) -> None:
        self._silence = silence
        self.idle = True
        """Whether the server works for no statement of this link."""
        super().__init__(conv={}, **options)

    async def ask(self, sql: str) -> list[tuple[str | None, ...]]:
        """Returns the rows of a small answer."""
        with self._working():
            async with timeout(self._silence):
                await self.query(sql)
        result: Any = self._result
        return [tuple(None if each is None else _text(each) for each in row) for row in result.rows or ()]

    async def rows(self, sql: str, fields: Sequence[tuple[str, pa.DataType]]) -> AsyncGenerator[pa.Table, None]:
        """Yields the rows of an answer, which has these fields. A link that is left before the end is of no more use."""
        with self._working():
            packets, over = Packets(), False
            async with timeout(self._silence):
                await self._execute_command(COMMAND.COM_QUERY, sql)
                await self._skip_description()
            while not over:
                async with timeout(self._silence):
                    data = await self._reader.read(_READ_BYTES)
                if not data:
                    raise OperationalError(_LOST, "the server ended the link in the middle of an answer")
                over = packets.feed(data)
                if packets.held >= GIVEN_BYTES or (over and packets.held):
                    yield table_of(*packets.take(), fields)
            if packets.failed is not None:
                raise_mysql_exception(packets.failed)

    @contextmanager
    def _working(self) -> Iterator[None]:
        self.idle = False
        try:
            yield
        except MySQLError as error:
            self.idle = code_of(error) is not None and code_of(error) not in LOST  # the server said so, and waits
            raise
        self.idle = True

    async def _skip_description(self) -> None:
        """Reads what comes before the rows: the number of fields, their descriptions and an end."""
        first = await self._read_packet()
        for _ in range(first.read_length_encoded_integer() + 1):
            await self._read_packet()


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
