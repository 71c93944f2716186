"""Each algorithm: its update against the textbook formula, learning, exact resume; and one from outside the package."""

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from preceptor.common.errors import InvalidInput
from preceptor.learner.algorithms.base import Counts, Minibatch, Sample, Tokens
from preceptor.learner.algorithms.registry import BUILT_IN, algorithm_class
from preceptor.learner.run_configs.rl import RlConfig
from preceptor.learner.training.rl_trainer import RlTrainer
from preceptor.learner.types import Experience
from tests.unit.learner.test_ppo import comparable, rollouts, unchanged, weights

ALL = sorted(BUILT_IN)
WITHOUT_CRITIC = [name for name in ALL if name != "ppo"]


def algorithm(name: str, **changes: Any) -> Any:
    kind = algorithm_class(name)
    base: dict[str, Any] = {"batch_size": 8, "max_tokens": 10, "optimizer": {"learning_rate": 1e-3}}
    base |= {"critic": "policy"} if name == "ppo" else {}
    return kind(kind.settings.model_validate(base | changes))


@pytest.fixture
def make(model_dir: Path) -> Any:
    def trainer(name: str, **changes: Any) -> RlTrainer:
        return RlTrainer(algorithm(name, **changes), model_dir, reference_dir=model_dir, seed=7)

    return trainer


# -- losses and their gradients, in float64 ---------------------------------------------------------------------------

B, T = 6, 5
LENGTHS = np.array([5, 3, 1, 4, 2, 5])
MASK = torch.arange(T)[None, :] < torch.tensor(LENGTHS)[:, None]
GROUPS = torch.tensor([0, 0, 0, 1, 1, 1])
DRAWS = np.random.default_rng(3)
OLD = torch.tensor(DRAWS.normal(-2.0, 0.5, size=(B, T)))
NEW = OLD + torch.tensor(DRAWS.normal(0.0, 0.25, size=(B, T)))
SCORES = torch.tensor(DRAWS.normal(size=B))


def sample() -> Sample:
    rewards = torch.zeros(B, T, dtype=torch.float64)
    rewards[torch.arange(B), torch.tensor(LENGTHS) - 1] = SCORES
    return Sample(rewards, SCORES, MASK, GROUPS)


def found_gradient(chosen: Any, advantages: torch.Tensor, *, parts: list[list[int]]) -> tuple[float, torch.Tensor]:
    """The loss and its gradient, added up over micro-batches of whole rows."""
    log_p = NEW.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for rows in parts:
        mask = MASK[rows]
        total = (
            total
            + chosen.loss(
                Tokens(
                    logprobs=log_p[rows][mask],
                    old_logprobs=OLD[rows][mask],
                    sampling_logprobs=OLD[rows][mask],
                    advantages=advantages[rows][mask],
                    weights=torch.ones(int(mask.sum()), dtype=torch.float64),
                    counts=torch.ones(int(mask.sum()), dtype=torch.bool),
                    rows=torch.nonzero(mask)[:, 0],
                    rollouts=len(rows),
                    of=Counts(int(MASK.sum()), B, 10),
                )
            ).loss
        )
    (gradient,) = torch.autograd.grad(total, log_p)
    return float(total.detach()), gradient


def textbook(objective: Any) -> tuple[float, torch.Tensor]:
    log_p = NEW.clone().requires_grad_()
    loss = objective(log_p)
    (gradient,) = torch.autograd.grad(loss, log_p)
    return float(loss.detach()), gradient


def clipped(log_p: torch.Tensor, row: int, t: int, advantage: torch.Tensor, low: float, high: float) -> torch.Tensor:
    ratio = torch.exp(log_p[row, t] - OLD[row, t])
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def group_advantages(divide: bool) -> torch.Tensor:
    own = SCORES.view(2, 3)
    centred = own - own.mean(dim=1, keepdim=True)
    return (centred / (own.std(dim=1, keepdim=True) + 1e-4) if divide else centred).flatten()


def grpo_mean(kind: str, log_p: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
    rows = [[clipped(log_p, i, t, advantages[i], 0.2, 0.28) for t in range(length)] for i, length in enumerate(LENGTHS)]
    if kind == "grpo":
        return sum(sum(row) / len(row) for row in rows) / B
    return sum(sum(row) for row in rows) / (LENGTHS.sum() if kind == "dapo" else B * 10)


PARTS = [[list(range(B))], [[4, 0], [1], [5, 3, 2]]]


@pytest.mark.parametrize("parts", PARTS, ids=["whole", "micro-batches"])
@pytest.mark.parametrize("kind", ["grpo", "dapo", "dr_grpo"])
def test_grpo_losses_equal_the_papers(kind: str, parts: list[list[int]]):
    chosen = algorithm("grpo", loss=kind, clip_high=0.28)
    found, gradient = found_gradient(chosen, chosen.estimate(sample()).advantages, parts=parts)
    expected = textbook(lambda log_p: grpo_mean(kind, log_p, group_advantages(kind != "dr_grpo")))
    assert found == pytest.approx(expected[0], abs=1e-12)
    torch.testing.assert_close(gradient, expected[1], atol=1e-12, rtol=0)


@pytest.mark.parametrize("parts", PARTS, ids=["whole", "micro-batches"])
def test_rloo_clips_the_ratio_of_the_whole_completion(parts: list[list[int]]):
    own = SCORES.view(2, 3)
    advantages = (own - (own.sum(dim=1, keepdim=True) - own) / 2).flatten()

    def objective(log_p: torch.Tensor) -> torch.Tensor:
        ratios = [torch.exp(sum(log_p[i, t] - OLD[i, t] for t in range(n))) for i, n in enumerate(LENGTHS)]
        terms = [-torch.minimum(r * a, r.clamp(0.8, 1.2) * a) for r, a in zip(ratios, advantages, strict=True)]
        return sum(terms) / B

    chosen = algorithm("rloo")
    found, gradient = found_gradient(chosen, chosen.estimate(sample()).advantages, parts=parts)
    expected = textbook(objective)
    assert found == pytest.approx(expected[0], abs=1e-12)
    torch.testing.assert_close(gradient, expected[1], atol=1e-12, rtol=0)


@pytest.mark.parametrize("parts", PARTS, ids=["whole", "micro-batches"])
@pytest.mark.parametrize("baseline", ["none", "group"])
def test_reinforce_pp_normalises_returns_over_the_batch(baseline: str, parts: list[list[int]]):
    scores = SCORES if baseline == "none" else group_advantages(False)
    returns = [(i, t, scores[i] * 0.9 ** (n - 1 - t)) for i, n in enumerate(LENGTHS) for t in range(n)]
    values = torch.stack([g for _, _, g in returns])
    values = (values - values.mean()) / torch.sqrt(values.var(correction=0) + 1e-8)

    def objective(log_p: torch.Tensor) -> torch.Tensor:
        terms = [clipped(log_p, i, t, a, 0.2, 0.2) for (i, t, _), a in zip(returns, values, strict=True)]
        return sum(terms) / len(terms)

    chosen = algorithm("reinforce_pp", baseline=baseline, gamma=0.9)
    found, gradient = found_gradient(chosen, chosen.estimate(sample()).advantages, parts=parts)
    expected = textbook(objective)
    assert found == pytest.approx(expected[0], abs=1e-12)
    torch.testing.assert_close(gradient, expected[1], atol=1e-12, rtol=0)


@pytest.mark.parametrize("baseline", ["running", "batch", "group", "none"])
def test_reinforce_takes_its_baseline_from_the_score(baseline: str):
    mean = SCORES.mean()
    taken = {"running": mean, "batch": mean, "none": 0.0}.get(baseline, SCORES - group_advantages(False))
    advantages = SCORES - taken

    def objective(log_p: torch.Tensor) -> torch.Tensor:
        return -sum(advantages[i] * log_p[i, t] for i, n in enumerate(LENGTHS) for t in range(n)) / LENGTHS.sum()

    chosen = algorithm("reinforce", baseline=baseline)
    found, gradient = found_gradient(chosen, chosen.estimate(sample()).advantages, parts=PARTS[1])
    expected = textbook(objective)
    assert found == pytest.approx(expected[0], abs=1e-12)
    torch.testing.assert_close(gradient, expected[1], atol=1e-12, rtol=0)


def test_the_running_baseline_is_that_of_earlier_batches_and_is_kept():
    chosen = algorithm("reinforce", baseline_decay=0.5)
    second = dataclasses.replace(sample(), rewards=sample().rewards + 1.0)
    chosen.estimate(sample())
    again = algorithm("reinforce", baseline_decay=0.5)
    again.load_state_dict(chosen.state_dict())
    assert again.estimate(second).metrics["reinforce/baseline"] == pytest.approx(float(SCORES.mean()))
    assert again.state_dict()["mean"] == pytest.approx(0.5 * float(SCORES.mean()) + 0.5 * float(second.scores.mean()))


def test_rft_learns_from_the_best_of_each_group():
    chosen = algorithm("rft", top_k=1)
    estimate = chosen.estimate(sample())
    best = [int(SCORES[:3].argmax()), 3 + int(SCORES[3:].argmax())]
    assert estimate.trained is not None
    assert torch.nonzero(estimate.trained).flatten().tolist() == sorted(best)
    assert estimate.metrics["rft/kept_score"] == pytest.approx(float(SCORES[best].mean()))
    none = algorithm("rft", min_score=float(SCORES.max()) + 1).estimate(sample())
    assert none.trained is not None
    assert not none.trained.any()


@pytest.mark.parametrize("kind", ["sigmoid", "ipo"])
def test_online_dpo_has_the_gradient_of_its_pairs(kind: str):
    """The linear form that micro-batches add up has the gradient of the loss of best against worst."""
    chosen = algorithm("online_dpo", loss=kind, beta=0.3)
    estimate = chosen.estimate(sample())
    pairs = [
        [int(SCORES[:3].argmax()), int(SCORES[:3].argmin())],
        [3 + int(SCORES[3:].argmax()), 3 + int(SCORES[3:].argmin())],
    ]
    assert estimate.units == pairs
    places = [place for pair in pairs for place in pair]
    found, metrics = chosen.prepare(
        Minibatch(places, NEW[places], OLD[places], estimate.advantages[places], MASK[places])
    )

    def objective(log_p: torch.Tensor) -> torch.Tensor:
        terms = []
        for best, worst in pairs:
            ratios = [sum(log_p[i, t] - OLD[i, t] for t in range(LENGTHS[i])) for i in (best, worst)]
            if kind == "ipo":
                h = ratios[0] / int(LENGTHS[best]) - ratios[1] / int(LENGTHS[worst])
                terms.append((h - 1 / 0.6) ** 2)
            else:
                terms.append(-torch.nn.functional.logsigmoid(0.3 * (ratios[0] - ratios[1])))
        return sum(terms) / len(terms)

    expected = textbook(objective)
    assert metrics["loss"] == pytest.approx(expected[0], abs=1e-9)
    coefficients = torch.zeros(B, T, dtype=torch.float64)
    assert found is not None
    coefficients[places] = found
    torch.testing.assert_close(coefficients, expected[1], atol=1e-12, rtol=0)


def test_online_dpo_skips_ties():
    tied = dataclasses.replace(sample(), rewards=torch.zeros(B, T, dtype=torch.float64))
    estimate = algorithm("online_dpo").estimate(tied)
    assert estimate.units == []
    assert estimate.metrics["online_dpo/pairs"] == 0.0


# -- through the trainer ----------------------------------------------------------------------------------------------


def token_batch(trainer: RlTrainer, *, good: int, bad: int, step: int) -> list[Experience]:
    """Groups of four one-token completions; the good token has score 1."""
    batch = []
    with torch.no_grad():
        scores = trainer.models.policy(input_ids=torch.tensor([[5, 6]])).logits[0, -1].log_softmax(-1)
    for i in range(8):
        token = good if i % 2 else bad
        batch.append(
            Experience(f"r{i}", f"g{i // 4}", i // 4, (5, 6), (token,), (float(scores[token]),), ((step, 0, 1),),
                       float(token == good), True, 1)
        )  # fmt: skip
    return batch


@pytest.mark.parametrize("name", ALL)
def test_a_rewarded_token_becomes_likelier(make: Any, name: str):
    kl = {} if name == "online_dpo" else {"kl": {"coef": 0.0, "loss_coef": 0.0}}
    trainer = make(name, optimizer={"learning_rate": 3e-3}, **kl)

    def chance(token: int) -> float:
        with torch.no_grad():
            return float(trainer.models.policy(input_ids=torch.tensor([[5, 6]])).logits[0, -1].softmax(-1)[token])

    good_before, bad_before = chance(40), chance(41)
    for step in range(8):
        result = trainer.step(token_batch(trainer, good=40, bad=41, step=step), policy_version=step)
        assert not result.skipped
    assert chance(40) > 1.5 * good_before
    assert chance(40) / chance(41) > 1.5 * good_before / bad_before


@pytest.mark.parametrize("name", WITHOUT_CRITIC)
def test_no_critic_is_loaded_where_none_is_needed(make: Any, model_dir: Path, name: str):
    trainer = make(name)
    metrics = trainer.step(rollouts(model_dir), policy_version=0).metrics
    assert trainer.models.critic is None
    assert not any(key.startswith(("values/", "returns/", "loss/value")) for key in metrics)


@pytest.mark.parametrize("name", WITHOUT_CRITIC)
def test_a_saved_trainer_goes_on_exactly(make: Any, model_dir: Path, tmp_path: Path, name: str):
    batches = [rollouts(model_dir, seed=s, version=s) for s in range(3)]
    whole, first, second = make(name), make(name), make(name)
    expected = [comparable(whole.step(b, policy_version=s).metrics) for s, b in enumerate(batches)]
    for step, batch in enumerate(batches[:2]):
        first.step(batch, policy_version=step)
    first.save(tmp_path)
    second.load(tmp_path)
    assert comparable(second.step(batches[2], policy_version=2).metrics) == expected[2]


@pytest.mark.parametrize("name", ALL)
def test_micro_batches_and_their_order_change_nothing(make: Any, model_dir: Path, name: str):
    whole, parts = make(name), make(name, micro_batch_tokens=64)
    batch = rollouts(model_dir)
    whole.step(batch, policy_version=0)
    parts.step(batch, policy_version=0)
    for key, parameter in whole.models.policy.named_parameters():
        torch.testing.assert_close(parameter, dict(parts.models.policy.named_parameters())[key], atol=5e-4, rtol=1e-3)


def test_groups_without_spread_are_counted_and_not_trained(make: Any, model_dir: Path):
    batch = [dataclasses.replace(e, score=1.0) if e.issue_index < 3 else e for e in rollouts(model_dir)]
    metrics = make("grpo").step(batch, policy_version=0).metrics
    assert metrics["groups/without_spread_share"] == 0.75
    assert metrics["update/trained_share"] == 0.25
    kept = make("grpo", dynamic_sampling=False).step(batch, policy_version=0).metrics
    assert kept["update/trained_share"] == 1.0


def test_a_batch_without_any_spread_leaves_the_policy_as_it_is(make: Any, model_dir: Path):
    trainer = make("grpo")
    before = weights(trainer)
    result = trainer.step([dataclasses.replace(e, score=1.0) for e in rollouts(model_dir)], policy_version=0)
    assert not result.skipped
    assert result.metrics["update/trained_share"] == 0.0
    assert unchanged(trainer, before)


def test_overlong_rollouts_can_be_left_out_or_punished(make: Any, model_dir: Path):
    batch = rollouts(model_dir)
    cut = sum(not e.finished for e in batch)
    metrics = make("reinforce", overlong={"filter": True}).step(batch, policy_version=0).metrics
    assert metrics["update/trained_share"] == pytest.approx(1 - cut / len(batch))
    soft = {"cache_tokens": 10, "penalty": 2.0}
    plain, punished = (
        make("reinforce", kl={"coef": 0.0}, overlong=overlong).step(batch, policy_version=0).metrics
        for overlong in ({}, soft)
    )
    taken = np.mean([2.0 * len(e.token_ids) / 10 for e in batch])
    assert plain["objective/rlhf_reward"] - punished["objective/rlhf_reward"] == pytest.approx(taken, abs=1e-5)


def test_length_penalty_is_taken_per_token(make: Any, model_dir: Path):
    batch = rollouts(model_dir)
    plain, taken = (
        make("rloo", kl={"coef": 0.0}, length_penalty=x).step(batch, policy_version=0).metrics for x in (0.0, 0.1)
    )
    mean = 0.1 * np.mean([len(e.token_ids) for e in batch])
    assert plain["objective/rlhf_reward"] - taken["objective/rlhf_reward"] == pytest.approx(mean, abs=1e-5)


@pytest.mark.parametrize("name", ["ppo", "grpo", "reinforce_pp"])
def test_dense_rewards_enter_every_estimate(make: Any, model_dir: Path, name: str):
    batch = rollouts(model_dir)
    dense = [dataclasses.replace(e, token_rewards=tuple(0.1 * k for k in range(len(e.token_ids)))) for e in batch]
    kl = {"kl": {"coef": 0.0, "loss_coef": 0.0}}
    plain, more = (make(name, **kl).step(b, policy_version=0).metrics for b in (batch, dense))
    added = np.mean([sum(e.token_rewards) for e in dense])
    assert more["objective/rlhf_reward"] - plain["objective/rlhf_reward"] == pytest.approx(added, abs=1e-5)
    assert more["loss/policy_avg"] != plain["loss/policy_avg"]


def test_dense_rewards_of_another_length_are_refused_by_name(make: Any, model_dir: Path):
    batch = rollouts(model_dir)
    batch[2] = dataclasses.replace(batch[2], token_rewards=(0.5,) * (len(batch[2].token_ids) + 1))
    with pytest.raises(InvalidInput, match=rf"rollout {batch[2].rollout_id} has .* token_rewards for"):
        make("grpo").step(batch, policy_version=0)


def test_kl_in_the_loss_pulls_back_to_the_reference(make: Any, model_dir: Path):
    drifted = [dataclasses.replace(e, score=float(i % 2)) for i, e in enumerate(rollouts(model_dir))]
    ends = []
    for coef in (0.0, 5.0):
        trainer = make("grpo", kl={"loss_coef": coef, "estimator": "k1"}, epochs=4, optimizer={"learning_rate": 3e-3})
        for step in range(4):
            trainer.step(drifted, policy_version=step)
        ends.append(weights(trainer))
    start = dict(make("grpo").models.policy.named_parameters())
    moved = [math.sqrt(sum(float((p - start[n].detach()).square().sum()) for n, p in end.items())) for end in ends]
    assert moved[1] < moved[0]


def test_kl_in_the_loss_is_reported_and_controlled(make: Any, model_dir: Path):
    kl = {"loss_coef": 0.1, "controller": "adaptive", "target": 5.0, "horizon": 80}
    trainer = make("grpo", kl=kl)
    metrics = trainer.step(rollouts(model_dir), policy_version=0).metrics
    assert metrics["loss/kl_avg"] == pytest.approx(0.0, abs=1e-5)
    assert metrics["objective/non_score_reward"] == 0.0
    assert trainer.kl_coef == pytest.approx(0.1 * (1 - 0.2 * 8 / 80))


# -- plug-ins ---------------------------------------------------------------------------------------------------------

PLUGIN = '''
"""Sign REINFORCE: one file is a new algorithm."""

from pydantic import Field

from preceptor.learner.algorithms.base import Algorithm, Estimate, Loss
from preceptor.learner.rl.losses import policy_gradient_loss
from preceptor.learner.run_configs.update import UpdateConfig


class SignConfig(UpdateConfig):
    margin: float = Field(default=0.0, ge=0, description="Scores this near to the mean count for nothing.")


class Sign(Algorithm):
    settings = SignConfig

    def estimate(self, sample):
        centred = sample.scores - sample.scores.mean()
        return Estimate(sample.per_token(centred.sign() * (centred.abs() > self.config.margin)))

    def loss(self, tokens):
        terms = policy_gradient_loss(tokens.logprobs, tokens.advantages, tokens.counts, weights=tokens.weights)
        return Loss(tokens.mean(terms, "rollouts"))
'''
RUN = {"kind": "rl", "run_id": "r", "model": "m", "prompts": {"items": ["x"]}, "total_steps": 5}


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "sign_algorithm.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "sign_algorithm", raising=False)
    return "sign_algorithm:Sign"


def test_an_algorithm_from_outside_is_one_file(plugin: str, model_dir: Path):
    config = RlConfig.model_validate(
        {**RUN, "algorithm": plugin, "batch_size": 8, "settings": {"margin": 0.1, "optimizer": {"learning_rate": 1e-3}}}
    )
    assert (config.update.batch_size, config.update.margin, config.ppo) == (8, 0.1, None)
    trainer = RlTrainer(algorithm_class(plugin)(config.update), model_dir, reference_dir=model_dir)
    before = weights(trainer)
    result = trainer.step(rollouts(model_dir), policy_version=0)
    assert not result.skipped
    assert not unchanged(trainer, before)


def test_an_installed_plug_in_is_found_by_its_entry_point(plugin: str, tmp_path: Path):
    info = tmp_path / "sign_algorithm-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sign-algorithm\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[preceptor.algorithms]\nsign = {plugin}\n")
    assert RlConfig.model_validate({**RUN, "algorithm": "sign"}).update.margin == 0.0
    assert algorithm_class("sign").__name__ == "Sign"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"margin": -1}}, r"settings\.margin: Input should be greater than or equal to 0"),
        ({"settings": {"margn": 1}}, r"settings\.margn: Extra inputs"),
        ({"algorithm": "sign_algorithm:Nope"}, "cannot be loaded from sign_algorithm:Nope"),
        ({"algorithm": "no_such_module:Sign"}, "cannot be loaded from no_such_module:Sign"),
        ({"algorithm": "sign_algorithm:SignConfig"}, "is no subclass of"),
        ({"algorithm": "trpo"}, "no algorithm 'trpo'; known: ppo, grpo"),
        ({"grpo": {}}, "`grpo` has settings, but algorithm is sign_algorithm:Sign"),
    ],
)
def test_what_is_wrong_with_a_plug_in_is_said(plugin: str, changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        RlConfig.model_validate({**RUN, "algorithm": plugin, **changes})


def test_every_setting_of_every_algorithm_is_described():
    for name in ALL:
        for key, info in algorithm_class(name).settings.model_fields.items():
            assert info.description, f"{name}.{key}"
