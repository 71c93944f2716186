"""The life of a generator process: wait for weights, load, serve and follow, drain, end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preceptor.api.learner.v1.weights_pb2 import WeightManifest
from preceptor.common.errors import FailedPrecondition
from preceptor.common.health import Health
from preceptor.common.tasks import cancel_and_wait
from preceptor.common.telemetry import get_logger
from preceptor.generation import metrics
from preceptor.generation.adapters.announcer import Announcer
from preceptor.generation.adapters.learner_watch import LearnerWatch
from preceptor.generation.adapters.staging import StagingFolder
from preceptor.generation.adapters.vllm_engine import VllmEngine
from preceptor.generation.follower import Follower
from preceptor.generation.server import SERVICE_NAME
from preceptor.generation.service import Drained, Generation
from preceptor.generation.types import State
from preceptor.generation.updates import WeightUpdater
from preceptor.generation.versions import VersionClock
from preceptor.generation.weights import Stager

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RunParts:
    """What following a run takes."""

    follower: Follower
    updater: WeightUpdater
    stager: Stager
    watch: LearnerWatch
    staging: StagingFolder


class GeneratorProcess:
    """Moves a generator through its states.

    Args:
        generation: the service.
        engine: to be started.
        clock: the version in force.
        announcer: of the discovery record.
        health: of the process.
        source: a run to follow, or a model folder to serve as it is.
        drain_timeout_s: where a caller gives none.
    """

    def __init__(
        self,
        generation: Generation,
        engine: VllmEngine,
        clock: VersionClock,
        announcer: Announcer,
        health: Health,
        source: RunParts | Path,
        drain_timeout_s: float,
    ) -> None:
        self._generation = generation
        self._engine = engine
        self._clock = clock
        self._announcer = announcer
        self._health = health
        self._source = source
        self._drain_timeout_s = drain_timeout_s
        self._tasks: list[asyncio.Task[None]] = []
        self._draining = asyncio.Lock()

    async def start(self) -> None:
        """Returns once this generator serves the version that was the newest when its weights were asked for.

        Raises:
            PreceptorError: the model cannot be loaded.
        """
        await self._engine.warm_imports()
        if isinstance(self._source, Path):
            await self._load(self._source, 0)
        else:
            await self._load_run(self._source)
            self._spawn(self._source.follower.run(), self._source.watch.run())
        self._generation.enter(State.SERVING, "serving")
        self._spawn(self._announcer.run())

    async def _load_run(self, run: RunParts) -> None:
        run_id = self._generation.identity.run_id
        self._generation.enter(State.WAITING_FOR_WEIGHTS, f"no policy version of run {run_id} is in the store yet")
        manifest = await run.follower.first()
        self._generation.enter(State.LOADING, f"fetching policy version {manifest.policy_version}")
        staged = await asyncio.to_thread(run.stager.stage, manifest)
        await self._load(staged.folder, manifest.policy_version)
        run.updater.adopt(staged)

    async def _load(self, folder: Path, version: int) -> None:
        self._generation.enter(State.LOADING, f"loading policy version {version}")
        await self._engine.start(folder, version)
        self._clock.advance(version)
        metrics.POLICY_VERSION.set(version)
        log.info("model loaded", policy_version=version)

    async def update(self, manifest: WeightManifest | None) -> int:
        """Brings a manifest, or the newest in the store, into force. Returns the version then in force.

        Raises:
            FailedPrecondition: a model folder is served, or nothing is loaded yet.
            PreceptorError: see WeightUpdater.bring.
        """
        if isinstance(self._source, Path):
            raise FailedPrecondition("this generator serves a model folder: it takes no updates", field="manifest")
        if self._generation.state is not State.SERVING:
            raise FailedPrecondition(f"this generator takes no updates: it is {self._generation.state.value}")
        await self._source.updater.bring(manifest or await self._source.follower.newest())
        self._announcer.refresh()
        return self._clock.version

    async def drain(self, timeout_s: float) -> Drained:
        """Turns NOT_SERVING, withdraws the record, and returns once nothing runs here any more."""
        self._health.set_serving(SERVICE_NAME, False)
        self._health.set_ready(False)
        async with self._draining:
            await cancel_and_wait(*self._tasks)
            await self._announcer.withdraw()
            return await self._generation.drain(timeout_s or self._drain_timeout_s)

    async def on_drain(self, timeout_s: float) -> None:
        """The last act before the server stops."""
        drained = await self.drain(timeout_s)
        log.info("drained", finished=drained.finished, handed_back=drained.handed_back)

    async def fail(self, why: str) -> None:
        """Says that this generator is of no use any more."""
        self._generation.enter(State.FAILED, why)
        self._health.set_serving(SERVICE_NAME, False)
        self._health.set_ready(False)
        await cancel_and_wait(*self._tasks)
        await self._announcer.withdraw()

    async def close(self) -> None:
        """Ends what is left: tasks, the engine's processes, host copies."""
        await cancel_and_wait(*self._tasks)
        await self._engine.close()
        if not isinstance(self._source, Path):
            await asyncio.to_thread(self._source.staging.remove)

    def _spawn(self, *coroutines: Coroutine[Any, Any, None]) -> None:
        self._tasks += [asyncio.ensure_future(coroutine) for coroutine in coroutines]
