"""Work as steps: rules say what comes next, and a driver does it, waiting or blocking.

A piece of work is a generator. It yields a step, and the driver sends the result back or throws the error in, so that the work
can decide what the error means. The rules neither wait nor block, so one text of them serves drivers of both kinds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")


class Step:
    """One thing that a driver does for a piece of work."""

    __slots__ = ()


Steps: TypeAlias = Generator[Step, Any, T]


def drive(steps: Steps[T], perform: Callable[[Step], Any]) -> T:
    """Does a piece of work with calls that block; returns its result or raises its error."""
    try:
        step = next(steps)
        while True:
            try:
                came = perform(step)
            except Exception as error:  # noqa: BLE001 - the work raises it again, or knows what to do
                step = steps.throw(error)
            else:
                step = steps.send(came)
    except StopIteration as done:
        result: T = done.value
        return result


async def drive_waiting(steps: Steps[T], perform: Callable[[Step], Awaitable[Any]]) -> T:
    """Does a piece of work with calls that are awaited, as `drive` does. A cancellation ends it; the work does not see it."""
    try:
        step = next(steps)
        while True:
            try:
                came = await perform(step)
            except Exception as error:  # noqa: BLE001 - the work raises it again, or knows what to do
                step = steps.throw(error)
            else:
                step = steps.send(came)
    except StopIteration as done:
        result: T = done.value
        return result
