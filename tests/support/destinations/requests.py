"""A process that dies, or stands still, at a request to S3."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from shared.errors import NotConnected
from shared.stores.s3 import S3Store

T = TypeVar("T")


class Requests:
    """Stands between a store and its client, and sees each request; `before` and `after` may raise or wait.

    A process that is killed makes no further request: `die` sees to that. Steps that are no request of the store pass through `step`.
    """

    def __init__(self, store: S3Store) -> None:
        self.made: list[str] = []
        self.dead = False
        self.before: Callable[[str, int], Awaitable[None]] = self._nothing
        self.after: Callable[[str, int], Awaitable[None]] = self._nothing
        self._client = store._client
        store._client = self

    def __getattr__(self, operation: str) -> Callable[..., Awaitable[Any]]:
        async def request(**parameters: Any) -> Any:
            return await self.step(operation, getattr(self._client, operation), **parameters)

        return request

    async def step(self, name: str, call: Callable[..., Awaitable[T]], *arguments: Any, **named: Any) -> T:
        """Makes one step."""
        if self.dead:
            raise NotConnected("the process is dead")
        self.made.append(name)
        position = len(self.made)
        await self.before(name, position)
        try:
            return await call(*arguments, **named)
        finally:
            await self.after(name, position)

    def live(self) -> None:
        """Begins a new process."""
        self.dead = False
        self.made.clear()

    def die(self) -> None:
        """Ends the process."""
        self.dead = True
        raise NotConnected("the process is dead")

    async def _nothing(self, operation: str, position: int) -> None:
        return
