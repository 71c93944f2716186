import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from preceptor.api.learner.v1.weights_pb2 import WeightManifest
from preceptor.common.errors import DataLoss
from preceptor.generation.engine import EngineDead, LoadError
from preceptor.generation.updates import WeightUpdater
from preceptor.generation.versions import VersionClock
from preceptor.generation.weights import StagedPolicy
from tests.unit.generation.scripted import ScriptedWeights


class FolderStager:
    """Stages version v as the folder v<v>; versions in `broken` fail their check."""

    def __init__(self, *broken: int) -> None:
        self.broken = set(broken)
        self.kept: set[int] = {0}

    def stage(self, manifest: WeightManifest) -> StagedPolicy:
        if manifest.policy_version in self.broken:
            raise DataLoss("tensor x has other bytes")
        self.kept.add(manifest.policy_version)
        return staged(manifest.policy_version)

    def discard(self, policies: Sequence[StagedPolicy]) -> None:
        self.kept -= {policy.policy_version for policy in policies}


def staged(version: int) -> StagedPolicy:
    return StagedPolicy(version, Path(f"v{version}"), manifest(version))


def manifest(version: int) -> WeightManifest:
    return WeightManifest(policy_version=version)


def updater(weights: ScriptedWeights, stager: FolderStager, timeout_s: float = 5) -> tuple[WeightUpdater, VersionClock]:
    clock = VersionClock()
    clock.advance(0)
    made = WeightUpdater(weights, stager, clock, timeout_s)
    made.adopt(staged(0))
    return made, clock


async def test_where_it_is_asked_for_kv_goes_once_the_new_weights_are_in_and_not_after_a_failure() -> None:
    weights, clock = ScriptedWeights(Path("v4")), VersionClock()
    clock.advance(0)
    made = WeightUpdater(weights, FolderStager(), clock, 5, drop_kv=True)
    made.adopt(staged(0))
    await made.bring(manifest(3))
    assert weights.log == ["pause", "load v3", "commit 3", "release_unstarted", "drop_kv", "resume"]
    weights.log.clear()
    with pytest.raises(LoadError):
        await made.bring(manifest(4))
    assert weights.log == ["pause", "load v4", "load v3", "resume"], "old weights, and KV that they computed"


async def test_a_version_is_loaded_between_pause_and_resume_and_labelled_before_anything_runs() -> None:
    weights, stager = ScriptedWeights(), FolderStager()
    made, clock = updater(weights, stager)
    await made.bring(manifest(3))
    assert weights.log == ["pause", "load v3", "commit 3", "release_unstarted", "resume"]
    assert clock.version == 3
    [record] = made.recent
    assert (record.policy_version, record.previous_version, record.rolled_back, record.error) == (3, 0, False, "")
    assert 0 < record.stall_s <= record.apply_s
    assert stager.kept == {3}


async def test_nothing_is_paused_for_a_version_that_fails_its_check() -> None:
    weights, stager = ScriptedWeights(), FolderStager(1)
    made, clock = updater(weights, stager)
    with pytest.raises(DataLoss):
        await made.bring(manifest(1))
    assert weights.log == []
    assert clock.version == 0
    [record] = made.recent
    assert (record.stall_s, record.rolled_back, record.error) == (0.0, False, "tensor x has other bytes")


async def test_a_failed_load_brings_the_last_good_version_back_before_resuming() -> None:
    weights, stager = ScriptedWeights(Path("v2")), FolderStager()
    made, clock = updater(weights, stager)
    await made.bring(manifest(1))
    weights.log.clear()
    with pytest.raises(LoadError):
        await made.bring(manifest(2))
    assert weights.log == ["pause", "load v2", "load v1", "resume"]
    assert clock.version == 1
    assert made.recent[-1].rolled_back
    assert made.recent[-1].error == "v2 is bad"
    assert stager.kept == {1}
    await made.bring(manifest(3))
    assert clock.version == 3


async def test_without_a_way_back_the_engine_is_given_up_and_stays_paused() -> None:
    weights, stager = ScriptedWeights(Path("v0"), Path("v1")), FolderStager()
    made, _ = updater(weights, stager)
    with pytest.raises(EngineDead):
        await made.bring(manifest(1))
    assert "resume" not in weights.log
    assert "v0 is bad" in weights.given_up


async def test_versions_already_overtaken_are_skipped() -> None:
    weights, stager = ScriptedWeights(), FolderStager()
    made, _ = updater(weights, stager)
    await made.bring(manifest(5))
    weights.log.clear()
    await made.bring(manifest(4))
    await made.bring(manifest(5))
    assert weights.log == []


async def test_updates_do_not_overlap() -> None:
    weights, stager = ScriptedWeights(), FolderStager()
    made, clock = updater(weights, stager)
    await asyncio.gather(*(made.bring(manifest(version)) for version in (1, 2, 3)))
    assert clock.version == 3
    assert [entry for entry in weights.log if entry in ("pause", "resume")] == ["pause", "resume"] * (
        len(weights.log) // 5
    )


async def test_a_caller_that_goes_away_does_not_leave_the_engine_paused() -> None:
    weights, stager = ScriptedWeights(), FolderStager()
    made, clock = updater(weights, stager)
    loading = asyncio.Event()
    weights.on_load = lambda folder: loading.set()
    call = asyncio.ensure_future(made.bring(manifest(1)))
    await loading.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await made.bring(manifest(1))  # waits for the update in progress
    assert weights.log[-1] == "resume"
    assert clock.version == 1


async def test_a_load_that_hangs_is_given_up() -> None:
    weights, stager = ScriptedWeights(), FolderStager()
    made, _ = updater(weights, stager, timeout_s=0.05)

    async def hang(folder: Path) -> None:
        await asyncio.Event().wait()

    weights.load = hang  # type: ignore[method-assign]
    with pytest.raises(EngineDead):
        await made.bring(manifest(1))
    assert "took over 0.05 s" in weights.given_up
