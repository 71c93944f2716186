"""The parts of sft and reward runs: split, agreement, checkpoints, metrics, optimiser, loop."""

import math
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from preceptor.common.errors import DataLoss, FailedPrecondition
from preceptor.learner.data.preferences import CandidateText, RankedCandidates
from preceptor.learner.distributed.ranks import Ranks
from preceptor.learner.models.engine import Engine
from preceptor.learner.run_configs import CheckpointConfig, OptimizerConfig, SftConfig
from preceptor.learner.training.agreement import noise_ceiling, ranking_accuracy
from preceptor.learner.training.checkpoints import CheckpointStore
from preceptor.learner.training.loop import Schedule, TrainingLoop
from preceptor.learner.training.metrics_log import MetricsLog, read_metrics
from preceptor.learner.training.optimization import build_optimizer, guarded_step, learning_rate
from preceptor.learner.training.reward import split_by_prompt

COSINE = OptimizerConfig(learning_rate=3e-3, schedule="cosine", warmup_steps=3)


def test_a_prompt_is_never_on_both_sides_and_stays_where_it_was():
    first = [RankedCandidates(f"p{i % 30}", (), ()) for i in range(90)]
    more = [*first, *(RankedCandidates(f"q{i}", (), ()) for i in range(50))]
    train, held_out = split_by_prompt(first, 0.3, seed=1)
    assert not {c.prompt for c in train} & {c.prompt for c in held_out}
    assert {c.prompt for c in held_out} <= {c.prompt for c in split_by_prompt(more, 0.3, seed=1)[1]}
    assert 0.1 < len(held_out) / 90 < 0.5


def comparison(*rankings: tuple[tuple[int, ...], ...]) -> RankedCandidates:
    return RankedCandidates("p", (CandidateText("a"), CandidateText("b"), CandidateText("c")), rankings)


def test_accuracy_counts_untied_pairs_and_halves_equal_scores():
    ranked = [comparison(((0,), (1,), (2,))), comparison(((1, 2), (0,)))]
    # first: 0>1 right, 0>2 right, 1>2 equal; second: 1>0 wrong, 2>0 right
    assert ranking_accuracy(ranked, [[3.0, 1.0, 1.0], [1.0, 0.0, 2.0]]) == pytest.approx((2 + 0.5 + 1) / 5)
    assert math.isnan(ranking_accuracy([comparison(((0, 1, 2),))], [[0.0, 0.0, 0.0]]))


def test_the_noise_ceiling_inverts_the_agreement_of_two_raters():
    # 12 pairs: two raters, three quarters agree -> a = .75, c = (1 + sqrt(.5)) / 2
    agreeing = comparison(((0,), (1,), (2,)), ((0,), (1,), (2,)))
    half = comparison(((0,), (1,), (2,)), ((0,), (2,), (1,)))  # 2 of 3 agree
    one = comparison(((0,), (1,), (2,)), ((2,), (0,), (1,)))  # 1 of 3 agrees
    assert noise_ceiling([agreeing, agreeing, half, one]) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert noise_ceiling([agreeing]) == 1.0
    assert math.isnan(noise_ceiling([comparison(((0,), (1,), (2,)))]))


def test_the_noise_ceiling_recovers_a_simulated_raters_accuracy():
    draws = random.Random(0)
    truth = 0.8

    def vote() -> tuple[tuple[int, ...], ...]:
        return ((0,), (1,)) if draws.random() < truth else ((1,), (0,))

    pairs = [RankedCandidates("p", (CandidateText("a"), CandidateText("b")), (vote(), vote())) for _ in range(4000)]
    assert noise_ceiling(pairs) == pytest.approx(truth, abs=0.02)


def test_checkpoints_are_whole_pruned_and_broken_ones_are_named(tmp_path: Path):
    store = CheckpointStore(tmp_path, CheckpointConfig(keep=2, best_metric="loss", best_is="lowest"), Ranks())
    state = {"weight": torch.arange(4.0), "moments": {0: {"step": torch.tensor(3.0)}}, "names": ["a"]}
    assert store.latest(state) is None
    for step, loss in ((5, 0.1), (10, 0.3), (15, 0.4), (20, 0.2)):
        store.begin(step, state | {"step": step}, {"loss": loss})
    state["weight"] += 1.0  # what is being written is a copy
    store.settle()
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-00000005", "step-00000015", "step-00000020"]
    loaded = store.latest({"weight": torch.zeros(4)})
    assert loaded["step"] == 20
    assert loaded["weight"].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert (loaded["moments"], loaded["names"]) == ({0: {"step": torch.tensor(3.0)}}, ["a"])
    (tmp_path / "step-00000020" / "__0_0.distcp").write_bytes(b"torn")
    with pytest.raises(DataLoss, match=r"step-00000020: __0_0\.distcp is not what was written"):
        store.latest(state)
    store.close()


def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path: Path):
    log = MetricsLog(tmp_path, tensorboard=False)
    for step in (1, 2, 3):
        log.write(step, {"loss": math.nan if step == 2 else 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 4, "met')
    log.rewind(2)
    assert [(row["step"], row["metrics"]["loss"]) for row in read_metrics(tmp_path)] == [(1, 1.0), (2, None)]


def test_schedules_by_hand():
    config = COSINE.model_copy(update={"learning_rate": 1.0, "warmup_steps": 2, "final_fraction": 0.1})
    linear = config.model_copy(update={"schedule": "linear"})
    assert [learning_rate(linear, s, 12) for s in (0, 1, 2, 7, 12)] == pytest.approx([0.5, 1.0, 1.0, 0.55, 0.1])
    assert learning_rate(config, 7, 12) == pytest.approx(0.55)
    assert learning_rate(config.model_copy(update={"schedule": "constant"}), 9, 12) == 1.0


def test_a_gradient_that_is_not_finite_changes_nothing():
    layer = torch.nn.Linear(2, 1)
    optimizer = build_optimizer([layer], COSINE)
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.full_like(layer.weight, torch.nan)
    layer.bias.grad = torch.ones_like(layer.bias)
    assert not math.isfinite(guarded_step(optimizer, rate=0.1, max_grad_norm=1.0))
    assert torch.equal(layer.weight, before)
    assert layer.weight.grad is None
    assert not optimizer.state


class NanTask:
    """A task whose gradients are NaN from step 3 on."""

    examples = 100
    engine = Engine()

    def __init__(self) -> None:
        self.model = torch.nn.Linear(1, 1)
        self._steps = 0

    def accumulate(self, indexes: Sequence[int]) -> dict[str, float]:
        self._steps += 1
        for parameter in self.model.parameters():
            parameter.grad = torch.full_like(parameter, 1.0 if self._steps < 3 else torch.nan)
        return {"loss": 1.0, "num_tokens": float(len(indexes))}

    def evaluate(self) -> dict[str, float]:
        return {}


def test_a_run_that_has_diverged_ends_with_one_clear_error(tmp_path: Path):
    config = SftConfig.model_validate({"kind": "sft", "run_id": "x", "model": {"path": "m"}, "data": ["a"]})
    loop = TrainingLoop(NanTask(), config, Schedule(1, 1, COSINE), tmp_path, None)
    with pytest.raises(FailedPrecondition, match="run x has diverged: no finite gradient in the 21 steps up to 23"):
        loop.run()
    assert [row["metrics"]["guard/skipped"] for row in read_metrics(tmp_path)] == [1.0, 1.0]


def test_an_epoch_takes_every_example_once_and_the_next_in_another_order(tmp_path: Path):
    config = SftConfig.model_validate({"kind": "sft", "run_id": "x", "model": {"path": "m"}, "data": ["a"]})
    loop = TrainingLoop(NanTask(), config, Schedule(2, 32, COSINE), tmp_path, None)
    epochs = [[i for step in range(4) for i in loop.indexes(4 * epoch + step)] for epoch in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(100))
    assert epochs[0] != epochs[1]
    assert loop.total_steps == 8
