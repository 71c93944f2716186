"""Waiting ends with the condition or with a deadline that says what was waited for."""

import time

import pytest

from preceptor.common.errors import DeadlineExceeded
from preceptor.common.waiting import wait_until, wait_until_aio


def test_a_true_condition_returns_at_once_even_without_time() -> None:
    wait_until(lambda: True, 0, "nothing")


def test_the_condition_ends_the_wait() -> None:
    until = time.monotonic() + 0.1
    wait_until(lambda: time.monotonic() > until, 5, "0.1 s", interval_s=0.01)
    assert time.monotonic() - until < 1


def test_the_deadline_names_what_was_waited_for() -> None:
    with pytest.raises(DeadlineExceeded, match=r"waited 0\.1 s for the moon"):
        wait_until(lambda: False, 0.1, "the moon", interval_s=0.01)


async def test_asyncio_takes_plain_and_coroutine_conditions() -> None:
    calls = 0

    async def third_time() -> bool:
        nonlocal calls
        calls += 1
        return calls == 3

    await wait_until_aio(third_time, 5, "three calls", interval_s=0.01)
    await wait_until_aio(lambda: calls == 3, 0, "nothing")
    with pytest.raises(DeadlineExceeded, match="for the moon"):
        await wait_until_aio(lambda: False, 0.05, "the moon", interval_s=0.01)
