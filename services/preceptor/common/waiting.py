"""Waiting for a condition, with a deadline."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

from preceptor.common.errors import DeadlineExceeded


def wait_until(predicate: Callable[[], Any], timeout_s: float, what: str, *, interval_s: float = 0.05) -> None:
    """Returns once `predicate()` is true.

    Args:
        predicate: cheap and free of side effects; called at least once, also with a timeout of 0.
        timeout_s: how long to wait.
        what: completes "waited 5 s for ...".
        interval_s: pause between two calls.

    Raises:
        DeadlineExceeded: naming what was waited for.
    """
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not predicate():
        if time.monotonic() >= deadline:
            raise _late(timeout_s, what)
        pause.wait(interval_s)


async def wait_until_aio(
    predicate: Callable[[], Any | Awaitable[Any]], timeout_s: float, what: str, *, interval_s: float = 0.05
) -> None:
    """As `wait_until`, without blocking the event loop; the predicate may be a coroutine function."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = predicate()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return
        if time.monotonic() >= deadline:
            raise _late(timeout_s, what)
        await asyncio.sleep(interval_s)


def _late(timeout_s: float, what: str) -> DeadlineExceeded:
    return DeadlineExceeded(f"waited {timeout_s:g} s for {what}", reason="WAIT_TIMEOUT")
