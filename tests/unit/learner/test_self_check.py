"""The self-check with learning rate 0, and what else lets a trainer be changed while it runs."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from preceptor.common.errors import FailedPrecondition
from preceptor.learner.algorithms.ppo import Ppo
from preceptor.learner.guards.self_check import self_check
from preceptor.learner.run_configs.guards import SelfCheckConfig
from preceptor.learner.training.rl_trainer import RlTrainer
from tests.unit.learner.test_ppo import config, rollouts

CHECK = SelfCheckConfig(enabled=True)


@pytest.fixture
def trainer(model_dir: Path) -> RlTrainer:
    return RlTrainer(Ppo(config()), model_dir, reference_dir=model_dir, seed=7)


def folder(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def test_check_passes_and_leaves_everything_as_it_was(trainer, model_dir, tmp_path):
    twin = RlTrainer(Ppo(config()), model_dir, reference_dir=model_dir, seed=7)
    batch = rollouts(model_dir)
    before = trainer.weight_digests()
    metrics = self_check(trainer, batch, folder(tmp_path), policy_version=0, config=CHECK)
    assert trainer.weight_digests() == before
    assert metrics["val/ratio"] == pytest.approx(1.0, abs=1e-5)
    ours, theirs = (one.step(batch, policy_version=0).metrics for one in (trainer, twin))
    same = {name for name in ours if "time" not in name and "per_second" not in name}
    assert {name: ours[name] for name in same} == {name: theirs[name] for name in same}
    assert trainer.weight_digests() == twin.weight_digests() != before


def test_engine_that_disagrees_is_named(trainer, model_dir, tmp_path):
    batch = [
        dataclasses.replace(e, sampling_logprobs=tuple(value - 0.5 for value in e.sampling_logprobs))
        for e in rollouts(model_dir)
    ]
    with pytest.raises(FailedPrecondition, match=r"engine and learner disagree: mismatch/logprob_abs_mean is 0\.5"):
        self_check(trainer, batch, folder(tmp_path), policy_version=0, config=CHECK)


def test_weights_that_change_at_learning_rate_zero_are_named(trainer, model_dir, tmp_path):
    step = trainer.step

    def moving(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        with torch.no_grad():
            trainer.models.policy.model.norm.weight.add_(1e-3)
        return result

    trainer.step = moving
    before = trainer.weight_digests()
    with pytest.raises(FailedPrecondition, match=r"1 weights changed, policy\.model\.norm\.weight among them"):
        self_check(trainer, rollouts(model_dir), folder(tmp_path), policy_version=0, config=CHECK)
    assert trainer.weight_digests() == before


def test_rollouts_of_other_weights_only_cannot_be_compared(trainer, model_dir, tmp_path):
    with pytest.raises(FailedPrecondition, match="the engine cannot be compared"):
        self_check(trainer, rollouts(model_dir), folder(tmp_path), policy_version=3, config=CHECK)


def test_reconfigured_trainer_takes_the_new_settings(trainer, model_dir):
    new = config(kl={"coef": 0.3}, optimizer={"learning_rate": 5e-4}, clip=0.05)
    trainer.reconfigure(new)
    metrics = trainer.step(rollouts(model_dir), policy_version=0).metrics
    assert (metrics["objective/kl_coef"], metrics["lr"]) == (0.3, 5e-4)
