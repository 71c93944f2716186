import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from preceptor.api.learner.v1.weights_pb2 import WeightManifest
from preceptor.common.errors import DataLoss, NotFound, PreceptorError
from preceptor.generation.follower import Follower
from preceptor.generation.updates import WeightUpdater
from preceptor.generation.versions import VersionClock
from preceptor.generation.weights import StagedPolicy


class Versions:
    """A store whose newest version a test sets."""

    def __init__(self, newest: int | None = None) -> None:
        self.newest = newest
        self.read: list[int] = []

    def newest_version(self) -> int | None:
        return self.newest

    def manifest(self, version: int) -> WeightManifest:
        self.read.append(version)
        return WeightManifest(policy_version=version, run_id="stored")


class Applied(WeightUpdater):
    """Puts versions into force without an engine; `errors` go first."""

    def __init__(self, clock: VersionClock, *errors: PreceptorError) -> None:
        self.clock = clock
        self.errors = list(errors)
        self.manifests: list[WeightManifest] = []

    async def bring(self, manifest: WeightManifest) -> None:
        self.manifests.append(manifest)
        if self.errors:
            raise self.errors.pop(0)
        self.clock.advance(manifest.policy_version)

    def adopt(self, staged: StagedPolicy) -> None:
        raise NotImplementedError(Path())


def follower(source: Versions, *errors: PreceptorError) -> tuple[Follower, Applied]:
    clock = VersionClock()
    updater = Applied(clock, *errors)
    return Follower(source, updater, clock, 0.02, lambda: None), updater


async def test_the_first_version_is_waited_for() -> None:
    source = Versions()
    made, _ = follower(source)
    waiting = asyncio.ensure_future(made.first())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    source.newest = 4
    assert (await waiting).policy_version == 4


async def test_versions_overtaken_meanwhile_are_skipped() -> None:
    source = Versions(1)
    made, updater = follower(source)
    await made.catch_up()
    source.newest = 7
    await made.catch_up()
    await made.catch_up()
    assert [manifest.policy_version for manifest in updater.manifests] == [1, 7]
    assert source.read == [1, 7]


async def test_an_offer_newer_than_the_store_is_taken_as_it_is() -> None:
    source = Versions(1)
    made, updater = follower(source)
    made.offer(WeightManifest(policy_version=5, run_id="offered"))
    made.offer(WeightManifest(policy_version=3, run_id="late"))
    await made.catch_up()
    assert [manifest.run_id for manifest in updater.manifests] == ["offered"]
    source.newest = 6
    await made.catch_up()
    assert [manifest.run_id for manifest in updater.manifests] == ["offered", "stored"]


async def test_an_offer_wakes_the_follower() -> None:
    clock = VersionClock()
    updater = Applied(clock)
    made = Follower(Versions(), updater, clock, 60, lambda: None)
    running = asyncio.ensure_future(made.run())
    await asyncio.sleep(0.02)
    made.offer(WeightManifest(policy_version=2))
    await clock.reach(2, 2)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_a_version_that_failed_is_not_tried_again_at_once_but_a_newer_one_is() -> None:
    source = Versions(2)
    made, updater = follower(source, DataLoss("broken"))
    with pytest.raises(DataLoss):
        await made.catch_up()
    await made.catch_up()
    assert len(updater.manifests) == 1
    source.newest = 3
    await made.catch_up()
    assert [manifest.policy_version for manifest in updater.manifests] == [2, 3]


async def test_a_failed_version_is_tried_again_later() -> None:
    made, updater = follower(Versions(2), DataLoss("broken"), DataLoss("broken"))
    running = asyncio.ensure_future(made.run())
    await updater.clock.reach(2, 5)
    running.cancel()
    assert len(updater.manifests) == 3


async def test_one_that_vanished_while_it_was_fetched_is_no_failure() -> None:
    made, updater = follower(Versions(2), NotFound("collected"))
    with pytest.raises(NotFound):
        await made.catch_up()
    await made.catch_up()
    assert len(updater.manifests) == 2


async def test_newest_says_when_there_is_none() -> None:
    made, _ = follower(Versions())
    with pytest.raises(NotFound):
        await made.newest()
