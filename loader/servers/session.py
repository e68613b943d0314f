"""Destinations and sessions of a server: one link each, a clock over each call, and a rollback after a failed call.

A session's link has a mark by which the next session finds it on the server and ends it: a loader that was frozen in the middle
of its rows holds locks for as long as its kernel keeps the socket alive, and cannot be asked to let go.

The session waits for a COMMIT that it sent, even if the load is cancelled, because hanging up would leave the outcome unknown. A
cancelled or stalled load closes its link, and then the session raises `NotConnected`. A load that fails on its rows is rolled
back, and the session stays usable.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Any, Generic, Protocol, TypeVar

from loader.contract.warehouse import Session
from loader.servers.errors import Errors
from loader.sql import ledger, refresh
from loader.sql.dialect import Dialect
from loader.sql.ledger import Holder
from loader.sql.load import Bulk
from loader.sql.session import SqlDestination, SqlSession
from loader.sql.steps import Ask, Commit, Hold, Moment, Rollback, Run, Step, Steps
from shared.driving.server import ServerOptions
from shared.driving.steps import drive_waiting
from shared.driving.watch import Watch
from shared.errors import NotConnected, PenstockError, Transient, is_panic
from shared.tasks import timeout, to_the_end

ROLLBACK_SECONDS = 5.0
COMMIT_SECONDS = 60.0
END_SECONDS = 10.0
"""How long ended links may take to disappear; the server rolls back their work."""


class Link(Protocol):
    """A link to the server. It does one thing at a time."""

    lost: Callable[[], None] | None
    """Called when the link ends, if its driver may then wait for ever."""

    @property
    def closed(self) -> bool:
        """Whether it is unusable."""
        ...

    def hang_up(self) -> None:
        """Ends it at once: bytes that the kernel has not taken, perhaps a COMMIT, are never sent."""
        ...

    async def say_goodbye(self) -> None:
        """Ends it in the server's protocol."""
        ...

    async def ask(self, sql: str, values: Sequence[Any]) -> Sequence[Any]:
        """Runs a statement; returns its rows."""
        ...

    async def run(self, sql: str) -> object:
        """Runs what `Dialect` writes for `Run`."""
        ...

    async def perform(self, step: Step, watch: Watch) -> Any:
        """Does a step of the plug-in's own, and tells the watch what moves."""
        ...


L = TypeVar("L", bound=Link)
OptionsT = TypeVar("OptionsT", bound=ServerOptions)
T = TypeVar("T")


class Driver(Generic[L]):
    """Does work over a link, under the clock.

    Args:
        link: an open link.
        options: the time limits.
        errors: the errors of the link's driver.
        answers: asks the server, over another link, whether it answers.
    """

    def __init__(self, link: L, options: ServerOptions, errors: Errors, answers: Callable[[], Awaitable[bool]]) -> None:
        self.link = link
        self._options = options
        self._errors = errors
        self._answers = answers
        self._held: list[str] = []

    async def run(self, what: str, steps: Steps[T]) -> T:
        """Does a piece of work, as `SqlSession._run` says.

        After a failure it sends ROLLBACK if the server answers, else it hangs up.
        """
        link = self.link
        if link.closed:
            raise NotConnected(f"{what}: the link is closed")
        try:
            async with Watch(self._options.stall_timeout, self._options.statement_timeout, self._answers) as watch:
                link.lost = watch.lost
                try:
                    return await drive_waiting(steps, lambda step: self._perform(step, watch))
                finally:
                    link.lost = None
        except BaseException as error:
            ours = self._errors.translate(error, what) if isinstance(error, Exception) or is_panic(error) else None
            await self._abandon(error, ours)
            if ours is not None:
                raise ours from error
            raise

    async def close(self) -> None:
        """Ends the link. Never raises."""
        try:
            async with timeout(ROLLBACK_SECONDS):
                await self.link.say_goodbye()
        except Exception:  # noqa: BLE001 - whatever is wrong with it, it is given up
            self.link.hang_up()

    async def _perform(self, step: Step, watch: Watch) -> Any:
        link = self.link
        if isinstance(step, Moment):
            return perf_counter()
        if isinstance(step, Commit):
            return await to_the_end(self._end("COMMIT"), COMMIT_SECONDS)
        if isinstance(step, Rollback):
            return await self._end("ROLLBACK")
        if isinstance(step, Ask) and not step.long:
            return await link.ask(step.sql, step.values)
        if not isinstance(step, Ask | Run | Hold):
            return await link.perform(step, watch)
        watch.server_works()
        if isinstance(step, Hold):
            self._held.append(step.giving_back)
            came: object = await link.ask(step.taking, ())
        else:
            came = await (link.run(step.sql) if isinstance(step, Run) else link.ask(step.sql, step.values))
        watch.moved()
        return came

    async def _end(self, how: str) -> None:
        while self._held:
            await self.link.ask(self._held.pop(), ())
        await self.link.run(how)

    async def _abandon(self, error: BaseException, ours: PenstockError | None) -> None:
        link = self.link
        if ours is None or isinstance(error, TimeoutError) or isinstance(ours, NotConnected) or link.closed:
            link.hang_up()
            return
        try:
            async with timeout(ROLLBACK_SECONDS):
                await self._end("ROLLBACK")
        except BaseException as failed:
            link.hang_up()
            if not isinstance(failed, Exception):
                raise


class ServerDestination(SqlDestination, Generic[L, OptionsT]):
    """A schema of a database behind a network; there is nothing outside the sessions.

    Args:
        called: as of `SqlSession`.
        options: what the user wrote.
        schema: of the tables.
    """

    errors: Errors
    dialect: Dialect
    """Of all servers, where those do not differ."""
    bulk: Callable[[Any, str], Bulk]
    """Makes the way that rows travel, of the server's dialect and the schema."""

    def __init__(self, called: str, options: OptionsT, schema: str) -> None:
        super().__init__(called, schema)
        self._options = options

    @abstractmethod
    async def connect(self, what: str, connection: str = "", epoch: int = 0) -> L:
        """Opens a link.

        Args:
            what: the purpose, for messages.
            connection: the connection of the session; empty: for no session.
            epoch: of that session.

        Raises:
            NotConnected, Transient, SetupError
        """

    def dialect_of(self, link: L) -> Dialect:  # noqa: ARG002
        """Returns the SQL of the server at the other end."""
        return self.dialect

    @abstractmethod
    def older(self, dialect: Dialect, connection: str, epoch: int, *, claimed: bool) -> Steps[Sequence[int]]:
        """Returns the server's numbers of links of older sessions of a connection; none if none is left.

        `claimed`: whether the ledger has `epoch` already; until then a link of that epoch may be a rival's.

        Raises:
            Fenced: a session with a higher epoch exists.
        """

    @abstractmethod
    def end(self, numbers: Sequence[int]) -> Steps[None]:
        """Asks the server to end links."""

    async def open_session(self, connection: str, epoch: int) -> Session:
        what = f"opening {self._called}"
        link = await self.connect(what, connection, epoch)
        driver, dialect = Driver(link, self._options, self.errors, self.answers), self.dialect_of(link)
        try:
            # first the links that may lock the epoch's row, then, once the epoch is ours, links that came meanwhile
            await self._end_older(driver, dialect, connection, epoch, claimed=False)
            holder = await driver.run(what, ledger.claim(dialect, self._schema, connection, epoch))
            await self._end_older(driver, dialect, connection, epoch, claimed=True)
            await driver.run(what, refresh.sweep(dialect, self._schema, holder))
        except BaseException:
            link.hang_up()
            raise
        return self._session(driver, dialect, holder)

    async def close(self) -> None:
        pass

    async def answers(self) -> bool:
        """Whether the server answers at all."""
        try:
            link = await self.connect("asking whether the server answers")
        except NotConnected:
            return False
        except PenstockError:
            return True  # it answered: perhaps that it takes no more clients
        link.hang_up()
        return True

    def _session(self, driver: Driver[L], dialect: Dialect, holder: Holder) -> ServerSession[L]:
        return ServerSession(
            called=self._called,
            dialect=dialect,
            bulk=self.bulk(dialect, self._schema),
            schema=self._schema,
            holder=holder,
            driver=driver,
        )

    async def _once(self, what: str, work: Callable[[Dialect], Steps[T]]) -> T:
        link = await self.connect(what)
        try:
            return await Driver(link, self._options, self.errors, self.answers).run(what, work(self.dialect_of(link)))
        finally:
            link.hang_up()
            await asyncio.sleep(0)  # then the event loop ends its transport

    async def _end_older(self, driver: Driver[L], dialect: Dialect, connection: str, epoch: int, *, claimed: bool) -> None:
        what = f"opening {self._called}"
        delay = 0.01
        deadline = asyncio.get_running_loop().time() + END_SECONDS
        while numbers := await driver.run(what, self.older(dialect, connection, epoch, claimed=claimed)):
            if asyncio.get_running_loop().time() > deadline:
                raise Transient(f'{what}: the links {numbers} of an older session of connection "{connection}" do not end')
            await driver.run(what, self.end(numbers))
            # the server does not announce the end of a link
            await asyncio.sleep(delay)
            delay = min(2 * delay, 0.2)


class ServerSession(SqlSession, Generic[L]):
    """A connection's right to write, with one link to the server."""

    def __init__(self, called: str, dialect: Dialect, bulk: Bulk, schema: str, holder: Holder, driver: Driver[L]) -> None:
        super().__init__(called=called, dialect=dialect, bulk=bulk, schema=schema, holder=holder)
        self._driver = driver

    @property
    def link(self) -> L:
        """The session's link."""
        return self._driver.link

    async def close(self) -> None:
        await self._driver.close()

    async def _run(self, what: str, steps: Steps[T]) -> T:
        return await self._driver.run(what, steps)
