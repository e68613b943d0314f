"""Tasks that live and die together."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def together(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Runs coroutines until all return; when one fails, cancels the others and raises its exception, not a group of it."""
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in coroutines:
                group.create_task(coroutine)
    except BaseExceptionGroup as exc:
        raise first_of(exc) from exc


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Returns the first exception of a group, groups inside it opened."""
    inner: BaseException = group
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    return inner
