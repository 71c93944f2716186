"""The check with learning rate 0: an update that must change nothing, on the run's own models and first rollouts."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from preceptor.common.errors import FailedPrecondition
from preceptor.learner.run_configs.guards import SelfCheckConfig
from preceptor.learner.types import Experience, StepResult

_FIRST_RATIO, _MISMATCH = "mismatch/ratio_max_dev_first_minibatch", "mismatch/logprob_abs_mean"
_LOSSES = "loss/"


class CheckedTrainer(Protocol):
    """A trainer that can be run with learning rate 0."""

    def step(self, batch: Sequence[Experience], *, policy_version: int, critic_only: bool = False) -> StepResult: ...
    def save(self, directory: Path) -> None: ...
    def load(self, directory: Path) -> None: ...
    def weight_digests(self) -> dict[str, str]:
        """Digest by tensor name, of everything that is trained."""
        ...

    def freeze(self, frozen: bool) -> None:
        """frozen: from now on every update is made with learning rate 0."""
        ...


def self_check(
    trainer: CheckedTrainer,
    batch: Sequence[Experience],
    scratch: Path,
    *,
    policy_version: int,
    config: SelfCheckConfig,
) -> dict[str, float]:
    """Makes the update twice with learning rate 0 and puts the trainer back; returns the first one's metrics.

    scratch: an empty folder that the trainer's state is kept in meanwhile.

    Raises:
        FailedPrecondition: something is not as it must be; names everything that differs.
    """
    trainer.save(scratch)
    before = trainer.weight_digests()
    trainer.freeze(True)
    try:
        first = trainer.step(batch, policy_version=policy_version)
        after = trainer.weight_digests()
        trainer.load(scratch)
        second = trainer.step(batch, policy_version=policy_version)
    finally:
        trainer.freeze(False)
        trainer.load(scratch)
    problems = [
        *_changed(before, after),
        *_skips(first),
        *_ratios(first.metrics, config),
        *_losses(first.metrics, second.metrics, config.tolerance),
    ]
    if problems:
        raise FailedPrecondition(
            f"the self-check with learning rate 0 failed, so the run does not start: {'; '.join(problems)}",
            reason="SELF_CHECK_FAILED",
            field="self_check",
        )
    return first.metrics


def _changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return [f"{len(names)} weights changed, {names[0]} among them"] if names else []


def _skips(result: StepResult) -> list[str]:
    return [f"part of the update was skipped: {'; '.join(result.reasons)}"] if result.skipped else []


def _ratios(metrics: dict[str, float], config: SelfCheckConfig) -> list[str]:
    """Against old_logprobs every ratio is 1 at learning rate 0, so nothing is clipped; against the engine nearly so."""
    problems = []
    for name, wanted in (("val/ratio", 1.0), ("policy/approxkl_avg", 0.0), ("policy/clipfrac_avg", 0.0)):
        value = metrics.get(name, wanted)
        if not abs(value - wanted) <= config.tolerance:
            problems.append(f"{name} is {value:.6g}, not {wanted:g}")
    if _MISMATCH not in metrics:
        problems.append("no rollout was written by the present policy version, so the engine cannot be compared")
    elif not metrics[_MISMATCH] <= config.max_mismatch:
        problems.append(
            f"engine and learner disagree: {_MISMATCH} is {metrics[_MISMATCH]:.4g}, above "
            f"{config.max_mismatch:g} (self_check.max_mismatch; first ratio off by {metrics.get(_FIRST_RATIO, 0):.4g})"
        )
    return problems


def _losses(first: dict[str, float], second: dict[str, float], tolerance: float) -> list[str]:
    """Finite, and the same when the update is made again."""
    problems = []
    for name in sorted(name for name in first if name.startswith(_LOSSES)):
        one, other = first[name], second.get(name, math.nan)
        if not math.isfinite(one):
            problems.append(f"{name} is {one}")
        elif not abs(one - other) <= tolerance * max(1.0, abs(one)):
            problems.append(f"{name} is {one:.6g}, and {other:.6g} when the same update is made again")
    return problems
