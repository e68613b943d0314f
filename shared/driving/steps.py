"""Work as steps: rules that say what comes next, and a driver that does it, waiting or blocking.

A piece of work is a generator. It yields steps and is sent what came of each; an error is thrown in where its step stands, so that
the work can decide what it means. So one text of the rules, which itself neither waits nor blocks, serves drivers of both kinds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")


class Step:
    """Something that is done for a piece of work."""

    __slots__ = ()


Steps: TypeAlias = Generator[Step, Any, T]


def drive(steps: Steps[T], perform: Callable[[Step], Any]) -> T:
    """Does a piece of work with calls that block; returns its result or raises what it raises."""
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
    """Does a piece of work with calls that are awaited; as `drive`. A cancellation ends it without a word to the work."""
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
