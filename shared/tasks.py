"""Task groups and timeouts of `asyncio`, without two of its faults.

Up to Python 3.12, if a task of a `TaskGroup` fails, the group leaves a request for cancellation on the task that waited for it
(https://github.com/python/cpython/issues/116720). Up to Python 3.11.2, Debian 12's version, `asyncio.timeout` in a task with such
a request raises `CancelledError` instead of `TimeoutError` (https://github.com/python/cpython/issues/102780). Together they end a
task without a word: it waits to try again, and takes the end of the wait for a cancellation. So all our code uses `task_group`
and `timeout` of this module; a test holds that.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from shared.errors import Transient

T = TypeVar("T")


@contextlib.asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """Opens an `asyncio.TaskGroup`; a task that survives its failure is not marked as cancelled."""
    task, group, left = _current_task(), asyncio.TaskGroup(), False
    outstanding = task.cancelling()
    try:
        async with group:
            yield group
            left = True
    except BaseExceptionGroup:
        # the group cancels the task that waits for it; interrupted in its body it takes that back, waiting at its end it forgets
        if left and task.cancelling() > outstanding and getattr(group, "_parent_cancel_requested", False):
            task.uncancel()
        raise


@contextlib.asynccontextmanager
async def timeout(seconds: float | None) -> AsyncIterator[asyncio.Timeout]:
    """Opens an `asyncio.timeout`, which also works in a task that is being cancelled and cleans up.

    Raises:
        TimeoutError: the body took longer.
    """
    task = _current_task()
    outstanding = task.cancelling()
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield limit
    except asyncio.CancelledError as exc:
        if limit.expired() and task.cancelling() <= outstanding:
            raise TimeoutError from exc
        raise


async def together(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Runs coroutines until all return; when one fails, cancels the others and raises its exception, not a group of it.

    Raises:
        Transient: a coroutine ended as cancelled without being cancelled, as drivers do when their link breaks. A `TaskGroup` would
            go on without it.
    """
    try:
        async with task_group() as group:
            for coroutine in coroutines:
                group.create_task(_heard(coroutine), name=getattr(coroutine, "__qualname__", None))
    except BaseExceptionGroup as exc:
        raise first_of(exc) from exc


async def to_the_end(coroutine: Coroutine[Any, Any, T], seconds: float) -> T:
    """Runs a coroutine whose outcome must be known: a cancellation first waits for it, up to so many seconds, and then goes on."""
    task = asyncio.ensure_future(coroutine)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=seconds)
        if task.done() and not task.cancelled():
            task.exception()  # the cancellation goes on, whatever the outcome was
        raise


async def end(task: asyncio.Task[Any]) -> None:
    """Cancels a task of the caller and waits until it has ended; raises what it ended with, unless that is the cancellation.

    Raises:
        CancelledError: the caller itself was cancelled meanwhile. Awaiting the task would take that for the task's own end, and the
            caller would go on.
    """
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


async def _heard(coroutine: Coroutine[Any, Any, None]) -> None:
    try:
        await coroutine
    except asyncio.CancelledError as exc:
        if _current_task().cancelling():
            raise
        raise Transient(f"{_current_task().get_name()} was cancelled from inside") from exc


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Returns the first exception of a group, also from a group inside it."""
    inner: BaseException = group
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    return inner


def _current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  # we run
    return task
