"""How much work a generator takes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from preceptor.common.errors import Overloaded, Unavailable
from preceptor.common.telemetry import BusyClock


class Admission:
    """Counts the completions that run or wait, and refuses past a bound.

    Args:
        max_requests: the bound.
        busy: runs while there is any.
    """

    def __init__(self, max_requests: int, busy: BusyClock) -> None:
        self.max_requests = max_requests
        self._busy = busy
        self._active = 0
        self._open = False
        self._why_closed = "it is starting"
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def active(self) -> int:
        return self._active

    def open(self) -> None:
        """Admits from now on."""
        self._open = True

    def close(self, why: str) -> None:
        """Admits nothing from now on. `why` completes "this generator takes no requests: ..."."""
        self._open, self._why_closed = False, why

    @contextmanager
    def hold(self, completions: int) -> Iterator[None]:
        """Counts `completions` as active within the block.

        Raises:
            Unavailable: while closed.
            Overloaded: the bound would be passed.
        """
        if not self._open:
            raise Unavailable(f"this generator takes no requests: {self._why_closed}", retry_after_s=1.0)
        if self._active + completions > self.max_requests:
            raise Overloaded(
                f"{self._active} completions run or wait and at most {self.max_requests} may: retry later, "
                "or raise PRECEPTOR_GENERATION_MAX_REQUESTS",
                reason="QUEUE_FULL",
                metadata={"active": str(self._active), "max_requests": str(self.max_requests)},
            )
        self._active += completions
        self._idle.clear()
        try:
            with self._busy:
                yield
        finally:
            self._active -= completions
            if not self._active:
                self._idle.set()

    async def idle(self) -> None:
        """Returns once nothing is active."""
        await self._idle.wait()
