"""Pauses raters who fall below their project's thresholds, on its own."""

from __future__ import annotations

import asyncio

from preceptor.common.errors import PreceptorError
from preceptor.common.telemetry import counter, get_logger
from preceptor.feedback.database_threads import DatabaseThreads
from preceptor.feedback.rater_service import RaterService

log = get_logger(__name__)
pauses = counter("preceptor_feedback_raters_paused_total", "Raters paused by the service.", ("project",))


class RaterWatch:
    """Several servers may watch at once: pausing is setting one row."""

    def __init__(self, raters: RaterService, threads: DatabaseThreads, interval_s: float) -> None:
        self._raters = raters
        self._threads = threads
        self._interval_s = interval_s

    async def run(self) -> None:
        """Looks every interval until cancelled; a database that is away is asked again the next time."""
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self.look()
            except PreceptorError as error:
                log.warning("raters were not looked at", error=error.message)

    async def look(self) -> None:
        """Once, over all projects that pause raters."""
        for project in await self._threads.run(self._raters.projects_that_pause):
            for state in await self._threads.run(self._raters.pause_unreliable, project):
                pauses.labels(project.project_id).inc()
                log.warning("rater paused", project_id=project.project_id, rater_id=state.rater_id, why=state.reason)
