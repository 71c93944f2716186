"""Ending asyncio tasks for certain."""

from __future__ import annotations

import asyncio
from typing import Any

_ASK_AGAIN_S = 3.0  # long enough for what a task does on its way out


async def cancel_and_wait(*tasks: asyncio.Task[Any] | asyncio.Future[Any]) -> None:
    """Cancels until every task has ended; what they raised is left to be read from them.

    One cancel() may be lost: before Python 3.12 asyncio.wait_for returns its result when a result and the cancellation
    arrive together (python/cpython#86296), and redis-py sends each command through it.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_ASK_AGAIN_S)
