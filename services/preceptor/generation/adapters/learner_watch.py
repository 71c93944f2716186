"""Listening to the learner of a run, where there is one, for versions the moment they are published."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from preceptor.api.learner.v1.weight_service_pb2 import WatchRequest
from preceptor.api.learner.v1.weights_pb2 import WeightManifest
from preceptor.clients.learner import AsyncWeightClient
from preceptor.common.discovery import KIND_LEARNER, AsyncRegistry
from preceptor.common.errors import PreceptorError
from preceptor.common.telemetry import get_logger

log = get_logger(__name__)
_LOOK_AGAIN_S = 2.0
_WATCH_S = 3600.0


class LearnerWatch:
    """Offers what WeightService.Watch sends. It only speeds things up: the store is the truth.

    Args:
        registry: says where the run's learner is.
        run_id: whose learner.
        offer: gets each manifest.
    """

    def __init__(self, registry: AsyncRegistry, run_id: str, offer: Callable[[WeightManifest], None]) -> None:
        self._registry = registry
        self._run_id = run_id
        self._offer = offer

    async def run(self) -> None:
        """Watches until cancelled; a learner that leaves is looked for again."""
        while True:
            try:
                address = await self._find()
                if address:
                    await self._watch(address)
            except PreceptorError as error:
                log.debug("no learner to watch for now", error=error.message)
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def _find(self) -> str:
        records = await self._registry.list(KIND_LEARNER)
        return next((str(record["address"]) for record in records if record.get("run_id") == self._run_id), "")

    async def _watch(self, address: str) -> None:
        async with AsyncWeightClient(address) as client:
            async for response in client.watch(WatchRequest(run_id=self._run_id), timeout_s=_WATCH_S):
                self._offer(response.manifest)
