"""Telling others that this generator is here, by a record that expires unless renewed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from preceptor.common.discovery import KIND_GENERATION, AsyncRegistry, Record
from preceptor.common.errors import PreceptorError
from preceptor.common.telemetry import get_logger

log = get_logger(__name__)
_TTL_INTERVALS = 3.5
_WITHDRAW_TIMEOUT_S = 2.0


class Announcer:
    """Keeps one discovery record alive.

    Args:
        registry: where records live.
        generator_id: the record's id.
        interval_s: between renewals.
        describe: returns the record's content as of now.
    """

    def __init__(
        self, registry: AsyncRegistry, generator_id: str, interval_s: float, describe: Callable[[], Record]
    ) -> None:
        self._registry = registry
        self._id = generator_id
        self._interval_s = interval_s
        self._describe = describe
        self._changed = asyncio.Event()

    def refresh(self) -> None:
        """Renews at once: the record's content has changed."""
        self._changed.set()

    async def run(self) -> None:
        """Announces until cancelled. Redis may be away meanwhile."""
        away = False
        while True:
            try:
                await self._registry.announce(
                    KIND_GENERATION, self._id, self._describe(), self._interval_s * _TTL_INTERVALS
                )
                away = False
            except PreceptorError as error:
                if not away:
                    log.warning("cannot announce this generator", error=error.message)
                away = True
            await self._wait()

    async def withdraw(self) -> None:
        """Removes the record, if Redis answers soon; else it expires."""
        try:
            await asyncio.wait_for(self._registry.withdraw(KIND_GENERATION, self._id), _WITHDRAW_TIMEOUT_S)
        except (PreceptorError, TimeoutError) as error:
            log.warning("cannot withdraw this generator's record", error=str(error))

    async def _wait(self) -> None:
        try:
            await asyncio.wait_for(self._changed.wait(), self._interval_s)
        except TimeoutError:
            return
        self._changed.clear()
