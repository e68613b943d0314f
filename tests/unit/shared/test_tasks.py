"""Tasks that live and die together: what a failure leaves behind, and what nobody may miss."""

from __future__ import annotations

import asyncio

import pytest

from shared.errors import Transient
from shared.tasks import end, task_group, timeout, together


async def fail(seconds: float = 0.0) -> None:
    await asyncio.sleep(seconds)
    raise ValueError("on purpose")


async def outstanding() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


async def test_a_failure_ends_the_others_and_is_raised_by_itself() -> None:
    ended = asyncio.Event()

    async def other() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    with pytest.raises(ValueError, match="on purpose"):
        await together(other(), fail(0.01))
    assert ended.is_set()


async def test_who_survives_a_failure_is_not_marked_as_cancelled_and_can_wait() -> None:
    for _ in range(3):
        with pytest.raises(ValueError, match="on purpose"):
            await together(asyncio.sleep(60), fail(0.01))
        assert await outstanding() == 0
        with pytest.raises(TimeoutError):
            async with timeout(0.01):
                await asyncio.sleep(60)


async def test_a_failure_in_the_body_of_a_group_leaves_no_mark_either() -> None:
    with pytest.raises(ExceptionGroup):
        async with task_group() as group:
            group.create_task(fail())
            await asyncio.sleep(60)
    assert await outstanding() == 0


async def test_a_cancellation_from_outside_goes_through_and_stays_counted() -> None:
    started = asyncio.Event()
    seen: list[int] = []

    async def work() -> None:
        try:
            started.set()
            await together(asyncio.sleep(60), asyncio.sleep(60))
        finally:
            seen.append(await outstanding())

    task = asyncio.create_task(work())
    await started.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == [1]


async def test_a_cancellation_that_meets_a_failure_is_not_taken_back() -> None:
    seen: list[int] = []

    async def stubborn() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError("while ending")

    async def work() -> None:
        try:
            await together(stubborn())
        except ValueError:
            seen.append(await outstanding())

    task = asyncio.create_task(work())
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait({task})
    assert seen == [1]


async def test_a_clean_up_that_takes_too_long_is_a_timeout_also_while_being_cancelled() -> None:
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            try:
                async with timeout(0.01):
                    await asyncio.sleep(60)
            except TimeoutError:
                seen.append("timeout")

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["timeout"]


async def test_a_task_cancelled_by_nobody_is_a_failure_of_all() -> None:
    async def driver() -> None:
        broken = asyncio.get_running_loop().create_future()
        broken.cancel()
        await broken

    with pytest.raises(Transient, match="driver was cancelled from inside"):
        await together(asyncio.sleep(60), driver())


async def test_a_task_that_is_ended_does_not_take_the_cancellation_of_its_caller() -> None:
    leaves, may_leave, went_on = asyncio.Event(), asyncio.Event(), False

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            leaves.set()
            await may_leave.wait()

    task = asyncio.create_task(slow())
    await asyncio.sleep(0)

    async def call() -> None:
        nonlocal went_on
        await end(task)
        went_on = True

    caller = asyncio.create_task(call())
    await leaves.wait()
    caller.cancel()
    may_leave.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert not went_on


async def test_ending_a_task_raises_what_it_ended_with() -> None:
    task = asyncio.create_task(fail())
    await asyncio.wait([task])
    with pytest.raises(ValueError, match="on purpose"):
        await end(task)
