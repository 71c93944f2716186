"""Bringing a version into force while the engine writes."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence

from preceptor.api.learner.v1.weights_pb2 import WeightManifest
from preceptor.common.errors import InternalError, PreceptorError
from preceptor.common.telemetry import get_logger
from preceptor.generation import metrics
from preceptor.generation.engine import EngineDead, LiveWeights, LoadError
from preceptor.generation.types import NO_VERSION, WeightUpdateRecord
from preceptor.generation.versions import VersionClock
from preceptor.generation.weights import StagedPolicy, Stager

log = get_logger(__name__)
RECENT_UPDATES = 512


class WeightUpdater:
    """Applies versions one at a time; the last good one stays on the host until the next is in force.

    Args:
        engine: whose weights change.
        stager: fetches and verifies.
        clock: says which version is in force.
        load_timeout_s: after which a pause or a load counts as the engine's death.
        drop_kv: whether completions in progress compute their KV anew with the new weights.
    """

    def __init__(
        self,
        engine: LiveWeights,
        stager: Stager,
        clock: VersionClock,
        load_timeout_s: float,
        *,
        drop_kv: bool = False,
    ) -> None:
        self._engine = engine
        self._stager = stager
        self._clock = clock
        self._load_timeout_s = load_timeout_s
        self._drop_kv = drop_kv
        self._lock = asyncio.Lock()
        self._good: StagedPolicy | None = None
        self._previous = NO_VERSION
        self._recent: deque[WeightUpdateRecord] = deque(maxlen=RECENT_UPDATES)

    @property
    def recent(self) -> Sequence[WeightUpdateRecord]:
        """The newest records, newest last."""
        return tuple(self._recent)

    def adopt(self, staged: StagedPolicy) -> None:
        """Takes the version that the engine was started with as the last good one."""
        self._good = staged

    async def bring(self, manifest: WeightManifest) -> None:
        """Returns once the manifest's version, or a newer one, is in force.

        Everything is checked on a host copy before anything is paused. A version that fails its check, or fails to
        load, leaves the version in force as it was. Once begun, an update goes on when the caller is cancelled.

        Raises:
            DataLoss, FailedPrecondition, NotFound, Unavailable: see Stager.stage; nothing was paused.
            LoadError: the engine refused the weights and serves the previous version again.
            EngineDead: the engine has ended.
        """
        # A caller that goes away between pause and resume must not leave the engine paused.
        await asyncio.shield(asyncio.ensure_future(self._bring(manifest)))

    async def _bring(self, manifest: WeightManifest) -> None:
        started = time.monotonic()
        async with self._lock:
            if manifest.policy_version <= self._clock.version:
                return
            try:
                staged = await asyncio.to_thread(self._stager.stage, manifest)
            except PreceptorError as error:
                self._record(manifest.policy_version, started, 0.0, error)
                raise
            await self._apply(staged, started)

    async def _apply(self, staged: StagedPolicy, started: float) -> None:
        paused = time.monotonic()
        failure: LoadError | None = None
        try:
            async with asyncio.timeout(self._load_timeout_s):
                await self._engine.pause()
                try:
                    await self._engine.load(staged.folder)
                    await self._engine.commit(staged.policy_version)
                except LoadError as error:
                    failure = error
                    await self._roll_back()
                else:
                    self._put_in_force(staged)
                    await self._engine.release_unstarted()
                    if self._drop_kv:
                        await self._engine.drop_kv()
                await self._engine.resume()
        except TimeoutError as error:
            self._engine.give_up(f"loading a version took over {self._load_timeout_s:g} s")
            raise EngineDead from error
        self._record(staged.policy_version, started, time.monotonic() - paused, failure)
        outdated = staged if failure else self._good
        if failure is None:
            self._good = staged
        if outdated is not None:
            await asyncio.to_thread(self._stager.discard, [outdated])
        if failure is not None:
            raise failure

    def _put_in_force(self, staged: StagedPolicy) -> None:
        self._previous = self._clock.version
        self._clock.advance(staged.policy_version)
        metrics.POLICY_VERSION.set(staged.policy_version)

    async def _roll_back(self) -> None:
        # A load that failed halfway leaves a mixture; nothing may run on it.
        try:
            if self._good is None:
                raise LoadError("there is no host copy of it")
            await self._engine.load(self._good.folder)
        except LoadError as error:
            self._engine.give_up(f"the last good version cannot be loaded back: {error.message}")
            raise EngineDead from error

    def _record(self, version: int, started: float, stall_s: float, error: PreceptorError | None) -> None:
        now = self._clock.version
        previous = self._previous if error is None else now
        apply_s = time.monotonic() - started
        record = WeightUpdateRecord(
            policy_version=version,
            previous_version=previous,
            apply_s=apply_s,
            stall_s=stall_s,
            rolled_back=isinstance(error, InternalError),
            error="" if error is None else error.message,
        )
        self._recent.append(record)
        if error is None:
            metrics.UPDATES.labels("applied").inc()
            metrics.APPLY_SECONDS.observe(apply_s)
            metrics.STALL_SECONDS.observe(stall_s)
            log.info(
                "policy version in force", policy_version=version, apply_s=round(apply_s, 3), stall_s=round(stall_s, 3)
            )
        else:
            metrics.UPDATES.labels("rolled_back" if record.rolled_back else "refused").inc()
            log.error("policy version refused", policy_version=version, in_force=now, error=error.message)
