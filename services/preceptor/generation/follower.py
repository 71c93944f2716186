"""Hearing of newer versions, and bringing the newest into force; versions overtaken meanwhile are skipped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from preceptor.api.learner.v1.weights_pb2 import WeightManifest
from preceptor.common.errors import NotFound, PreceptorError, Unavailable
from preceptor.common.telemetry import get_logger
from preceptor.generation.engine import EngineDead
from preceptor.generation.types import NO_VERSION
from preceptor.generation.updates import WeightUpdater
from preceptor.generation.versions import VersionClock
from preceptor.generation.weights import PolicySource

log = get_logger(__name__)
_MAX_BACKOFF_S = 60.0


class Follower:
    """Follows a run's newest version.

    Args:
        source: the truth, asked every `interval_s`.
        updater: applies.
        clock: the version in force.
        interval_s: between two looks into the source.
        on_applied: called after each version that came into force.
    """

    def __init__(
        self,
        source: PolicySource,
        updater: WeightUpdater,
        clock: VersionClock,
        interval_s: float,
        on_applied: Callable[[], None],
    ) -> None:
        self._source = source
        self._updater = updater
        self._clock = clock
        self._interval_s = interval_s
        self._on_applied = on_applied
        self._offered: WeightManifest | None = None
        self._woken = asyncio.Event()
        self._backoff = _Backoff(interval_s)

    def offer(self, manifest: WeightManifest) -> None:
        """Takes a manifest that the learner announced; it need not wait for the next look into the store."""
        if self._offered is None or manifest.policy_version > self._offered.policy_version:
            self._offered = manifest
            self._woken.set()

    async def first(self) -> WeightManifest:
        """Returns the newest manifest, as soon as there is one."""
        while True:
            try:
                manifest = await self._newest()
            except (PreceptorError, OSError) as error:
                log.warning("the policy store cannot be read", error=str(error))
                manifest = None
            if manifest is not None:
                return manifest
            await self._rest()

    async def run(self) -> None:
        """Follows until cancelled, or until the engine has ended."""
        while True:
            try:
                await self.catch_up()
            except EngineDead:
                return
            except (PreceptorError, OSError) as error:
                log.warning("no newer version for now", error=str(error))
            await self._rest()

    async def catch_up(self) -> None:
        """Brings the newest version into force, unless it failed a moment ago.

        Raises:
            PreceptorError: see WeightUpdater.bring.
        """
        manifest = await self._newest(above=self._clock.version)
        if manifest is None or self._backoff.forbids(manifest):
            return
        try:
            await self._updater.bring(manifest)
        except (NotFound, Unavailable):
            raise  # overtaken while we fetched it, or a passing trouble: the next look tells
        except PreceptorError:
            self._backoff.failed(manifest)
            raise
        self._on_applied()

    async def newest(self) -> WeightManifest:
        """Returns the newest manifest. NotFound before the first."""
        manifest = await self._newest()
        if manifest is None:
            raise NotFound("no policy version of this run is in the store yet", reason="NO_VERSION")
        return manifest

    async def _newest(self, *, above: int = NO_VERSION) -> WeightManifest | None:
        stored = await asyncio.to_thread(self._source.newest_version)
        offered = self._offered
        version = max(NO_VERSION if stored is None else stored, offered.policy_version if offered else NO_VERSION)
        if version <= above:
            return None
        if offered is not None and offered.policy_version == version:
            return offered
        return await asyncio.to_thread(self._source.manifest, version)

    async def _rest(self) -> None:
        try:
            await asyncio.wait_for(self._woken.wait(), self._interval_s)
        except TimeoutError:
            return
        self._woken.clear()


class _Backoff:
    """Does not try a version that failed again and again without pause."""

    def __init__(self, first_s: float) -> None:
        self._first_s = first_s
        self._failures: dict[tuple[int, str], tuple[int, float]] = {}

    def failed(self, manifest: WeightManifest) -> None:
        count = self._failures.get(_key(manifest), (0, 0.0))[0] + 1
        pause_s = min(_MAX_BACKOFF_S, self._first_s * 2**count)
        self._failures = {_key(manifest): (count, asyncio.get_running_loop().time() + pause_s)}

    def forbids(self, manifest: WeightManifest) -> bool:
        return asyncio.get_running_loop().time() < self._failures.get(_key(manifest), (0, 0.0))[1]


def _key(manifest: WeightManifest) -> tuple[int, str]:
    return manifest.policy_version, manifest.content_digest
