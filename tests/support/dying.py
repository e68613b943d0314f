"""A session that dies between two steps of its work, as a killed loader does: what it had begun is hung up on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from loader.contract.warehouse import Session
from loader.sql.session import SqlSession
from loader.sql.steps import Step, Steps
from loader.warehouses.clickhouse.session import ClickHouseSession

T = TypeVar("T")


class Killed(BaseException):
    """The end of the loader; nothing in it catches this."""


class Death:
    """Comes after so many steps. `steps`: how many were made; `happened`: whether it came."""

    def __init__(self, left: int) -> None:
        self._left = left
        self.steps = 0
        self.happened = False

    def pass_by(self) -> None:
        """Counts a moment between two steps, or kills in it."""
        if self.steps == self._left:
            self.happened = True
            raise Killed
        self.steps += 1

    def over(self, steps: Steps[T]) -> Steps[T]:
        """Returns the same work, in which it may come before each step and behind the last."""
        came: Any = None
        error: Exception | None = None
        while True:
            try:
                step: Step = steps.send(came) if error is None else steps.throw(error)
            except StopIteration as done:
                self.pass_by()
                result: T = done.value
                return result
            self.pass_by()
            came = error = None
            try:
                came = yield step
            except Exception as raised:  # noqa: BLE001 - it belongs to the work
                error = raised


@contextmanager
def dying(session: Session, left: int) -> Iterator[Death]:
    """Lets the session's calls within the context make `left` steps, and no more.

    A step is a statement of the SQL kit, or a request to ClickHouse: there, before it is sent, and when it is done but not answered.
    """
    death = Death(left)
    if isinstance(session, SqlSession):
        run = session._run

        def dies(what: str, steps: Steps[Any]) -> Any:
            return run(what, death.over(steps))

        session._run = dies  # type: ignore[method-assign]
        yield death
        session._run = run  # type: ignore[method-assign]
        return
    assert isinstance(session, ClickHouseSession)
    link: Any = session._link
    before: dict[str, Callable[..., Awaitable[Any]]] = {name: getattr(link, name) for name in ("run", "insert", "fetch")}

    def mortal(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def made(*args: Any, **kwargs: Any) -> Any:
            death.pass_by()
            came = await call(*args, **kwargs)
            death.pass_by()
            return came

        return made

    for name, call in before.items():
        setattr(link, name, mortal(call))
    yield death
    for name, call in before.items():
        setattr(link, name, call)
