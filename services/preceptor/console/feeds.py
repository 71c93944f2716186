"""Keeps the events of the loops that somebody looks at, so that a page can draw curves at once.

A loop is watched from the first look on; nobody looking for `idle_s` ends it, and at most `max_loops` are kept: the one
looked at longest ago goes first. A broken stream is taken up again where it broke, with a growing pause.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from contextlib import suppress
from datetime import datetime

from preceptor.common.errors import NotFound, PreceptorError
from preceptor.common.tasks import cancel_and_wait
from preceptor.console.curves import CurveBook
from preceptor.console.ports import LoopPort
from preceptor.console.types import Event

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0
RECENT_EVENTS = 60


class LoopFeed:
    """The events of one loop, kept up to date by a task."""

    def __init__(self, port: LoopPort, loop_id: str, *, idle_s: float, points_per_curve: int) -> None:
        self.curves = CurveBook(points_per_curve)
        self.recent: deque[Event] = deque(maxlen=RECENT_EVENTS)
        self.problem: PreceptorError | None = None
        self._port = port
        self._loop_id = loop_id
        self._idle_s = idle_s
        self._until = 0.0
        self._timeout: asyncio.Timeout | None = None
        self._after = 0
        self._began: datetime | None = None
        self._answered = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def watching(self) -> bool:
        """True while the stream is followed."""
        return self._task is not None and not self._task.done()

    def ensure_running(self) -> None:
        """Watches for `idle_s` more, again if the stream had ended (a loop may be started anew)."""
        self._until = asyncio.get_running_loop().time() + self._idle_s
        if self._timeout is not None:
            self._timeout.reschedule(self._until)
        if not self.watching:
            self._task = asyncio.create_task(self._follow_until_idle(), name=f"watch {self._loop_id}")

    async def first_answer(self, timeout_s: float) -> None:
        """Returns once the first event or error came, or after `timeout_s`."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._answered.wait(), timeout_s)

    async def close(self) -> None:
        """Ends the task."""
        if self._task is not None:
            await cancel_and_wait(self._task)

    async def _follow_until_idle(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._until) as self._timeout:
                await self._follow()
        self._timeout = None

    async def _follow(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            before = self._after
            try:
                async for event in self._port.watch(self._loop_id, self._after):
                    self._take(event)
                self._answered.set()
                return
            except NotFound as error:
                self._note(error)
                return
            except PreceptorError as error:
                self._note(error)
            pause_s = FIRST_PAUSE_S if self._after > before else min(2 * pause_s, LONGEST_PAUSE_S)
            await asyncio.sleep(pause_s)

    def _take(self, event: Event) -> None:
        self.problem = None
        self._after = max(self._after, event.sequence)
        self.curves.add(event.stage, self._minutes(event), event.values)
        if event.message and event.kind != "metric":
            self.recent.append(event)
        self._answered.set()

    def _minutes(self, event: Event) -> float:
        if event.time is None:
            return 0.0
        self._began = self._began or event.time
        return (event.time - self._began).total_seconds() / 60

    def _note(self, error: PreceptorError) -> None:
        self.problem = error
        self._answered.set()


class LoopFeeds:
    """The feeds of the loops in view."""

    def __init__(self, port: LoopPort, *, max_loops: int, idle_s: float, points_per_curve: int) -> None:
        self._port = port
        self._max_loops = max_loops
        self._idle_s = idle_s
        self._points_per_curve = points_per_curve
        self._feeds: OrderedDict[str, LoopFeed] = OrderedDict()

    async def look(self, loop_id: str, first_answer_s: float = 0.5) -> LoopFeed:
        """The loop's feed, watched from now on."""
        feed = self._feeds.pop(loop_id, None) or LoopFeed(
            self._port, loop_id, idle_s=self._idle_s, points_per_curve=self._points_per_curve
        )
        self._feeds[loop_id] = feed
        if len(self._feeds) > self._max_loops:
            _, oldest = self._feeds.popitem(last=False)
            await oldest.close()
        feed.ensure_running()
        await feed.first_answer(first_answer_s)
        return feed

    async def close(self) -> None:
        """Ends every feed."""
        await asyncio.gather(*(feed.close() for feed in self._feeds.values()))
        self._feeds.clear()

    def __len__(self) -> int:
        return len(self._feeds)
