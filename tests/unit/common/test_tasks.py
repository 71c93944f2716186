"""Ending asyncio tasks for certain."""

import asyncio

import pytest

from preceptor.common import tasks
from preceptor.common.tasks import cancel_and_wait


async def test_a_task_that_lost_the_first_cancellation_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_ASK_AGAIN_S", 0.01)
    asked = 0

    async def deaf() -> None:
        nonlocal asked
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                asked += 1
                if asked == 2:
                    raise

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    await cancel_and_wait(task)
    assert task.cancelled()
    assert asked == 2


async def test_what_a_task_does_on_its_way_out_is_waited_for() -> None:
    done = []

    async def tidy() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.02)
            done.append("tidied")

    task = asyncio.create_task(tidy())
    await asyncio.sleep(0)
    await cancel_and_wait(task)
    assert done == ["tidied"]


async def test_ended_and_failed_tasks_are_left_alone() -> None:
    async def fail() -> None:
        raise ValueError("its own")

    task = asyncio.create_task(fail())
    await asyncio.wait([task])
    await cancel_and_wait(task)
    await cancel_and_wait()
    with pytest.raises(ValueError, match="its own"):
        task.result()
