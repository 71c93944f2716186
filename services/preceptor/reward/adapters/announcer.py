"""Tells others that this server is here, by a record that expires unless renewed."""

import asyncio
import contextlib
from collections.abc import Callable

from preceptor.common.discovery import KIND_REWARD, AsyncRegistry, Record
from preceptor.common.errors import PreceptorError
from preceptor.common.tasks import cancel_and_wait
from preceptor.common.telemetry import get_logger

log = get_logger(__name__)
_INTERVAL_S = 3.0
_TTL_S = 10.0
_WITHDRAW_TIMEOUT_S = 2.0


class Announcer:
    """Keeps one discovery record alive from `start` to `stop`; scoring does not depend on it.

    Args:
        describe: the record's content as of now.
    """

    def __init__(self, registry: AsyncRegistry, server_id: str, describe: Callable[[], Record]) -> None:
        self._registry = registry
        self._id = server_id
        self._describe = describe
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Removes the record, if Redis answers soon; else it expires."""
        if self._task is None:
            return
        await cancel_and_wait(self._task)
        with contextlib.suppress(PreceptorError, TimeoutError):
            await asyncio.wait_for(self._registry.withdraw(KIND_REWARD, self._id), _WITHDRAW_TIMEOUT_S)

    async def _run(self) -> None:
        away = False
        while True:
            try:
                await self._registry.announce(KIND_REWARD, self._id, self._describe(), _TTL_S)
                away = False
            except PreceptorError as error:
                if not away:
                    log.warning("not announced in discovery", error=error.message)
                away = True
            await asyncio.sleep(_INTERVAL_S)
