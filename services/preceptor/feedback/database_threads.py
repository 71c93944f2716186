"""Database calls off the event loop: a bounded pool of threads with a bounded queue."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from preceptor.common.errors import Overloaded

P = ParamSpec("P")
R = TypeVar("R")


class DatabaseThreads:
    def __init__(self, threads: int, queue: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="database")
        self._limit = threads + queue
        self._pending = 0

    async def run(self, call: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """What `call` returns, from a thread. Once started it goes on to its end even if the caller goes away.

        Raises:
            Overloaded: the queue is full; nothing was started.
        """
        if self._pending >= self._limit:
            raise Overloaded(f"{self._limit} calls wait for the votes database already", reason="DATABASE_QUEUE_FULL")
        context = contextvars.copy_context()
        self._pending += 1
        future = self._executor.submit(context.run, partial(call, *args, **kwargs))
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._one_less))
        return await asyncio.wrap_future(future)

    def _one_less(self) -> None:
        self._pending -= 1

    def close(self) -> None:
        """Returns when the calls in progress have ended."""
        self._executor.shutdown(wait=True)
