"""PPO, GRPO and RLOO equal TRL's on the same tensors, to 1e-6; TRL's numbers were recorded by the fixtures' scripts."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from preceptor.learner.algorithms.base import Counts, Tokens
from preceptor.learner.algorithms.registry import algorithm_class
from preceptor.learner.rl.advantages import gae, group_relative, leave_one_out
from preceptor.learner.rl.kl import kl_in_loss, kl_k1
from preceptor.learner.rl.losses import ppo_policy_loss, ppo_value_loss
from preceptor.learner.rl.masking import masked_mean, masked_whiten
from preceptor.learner.rl.rewards import token_rewards

FIXTURES = Path(__file__).parent / "fixtures"
GROUPED = json.loads((FIXTURES / "trl_grpo.json").read_text())
PPO = json.loads((FIXTURES / "trl_ppo.json").read_text())
CLOSE = {"atol": 1e-6, "rtol": 0}


def tensor(record: dict[str, Any], name: str, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(record[name], dtype=dtype)


def grouped(name: str) -> Tensor:
    return tensor(GROUPED, name)


MASK = grouped("mask").bool()


def test_the_fixtures_say_what_made_them():
    assert GROUPED["made_by"]["trl"] == "1.16.0"
    assert PPO["made_by"]["trl"] == "1.12.0"


# -- GRPO and RLOO ----------------------------------------------------------------------------------------------------


def tokens(log_p: Tensor, *, weights: Tensor) -> Tokens:
    rows = torch.nonzero(MASK)[:, 0]
    return Tokens(
        logprobs=log_p[MASK],
        old_logprobs=grouped("old")[MASK],
        sampling_logprobs=grouped("old")[MASK],
        advantages=grouped("advantages")[:, None].expand_as(MASK)[MASK],
        weights=weights[MASK],
        counts=torch.ones_like(rows, dtype=torch.bool),
        rows=rows,
        rollouts=len(MASK),
        of=Counts(int(MASK.sum()), len(MASK), GROUPED["max_completion_length"]),
    )


def check(found: Tensor, log_p: Tensor, expected: dict[str, Any]) -> None:
    (gradient,) = torch.autograd.grad(found, log_p)
    assert float(found.detach()) == pytest.approx(expected["value"], abs=1e-6)
    torch.testing.assert_close(gradient, tensor(expected, "gradient"), **CLOSE)


@pytest.mark.parametrize("case", GROUPED["grpo"], ids=lambda c: f"{c['loss_type']}-{c['beta']}-{c['epsilon_high']}")
def test_grpo_loss_and_gradient(case: dict[str, Any]):
    kind = algorithm_class("grpo")
    chosen = kind(kind.settings(loss=case["loss_type"], clip=0.2, clip_high=case["epsilon_high"]))
    log_p = grouped("new").requires_grad_()
    batch = tokens(log_p, weights=grouped("weights"))
    loss = chosen.loss(batch).loss
    if case["beta"]:
        weighted = case["use_bias_correction_kl"]
        reference = grouped("reference")[MASK]
        terms = kl_in_loss(
            batch.logprobs, batch.old_logprobs, reference, batch.counts, estimator="k3", weighted=weighted
        )
        loss = loss + case["beta"] * batch.mean(terms, chosen.reduction)
    check(loss, log_p, case)


def test_rloo_loss_and_gradient():
    kind = algorithm_class("rloo")
    log_p = grouped("new").requires_grad_()
    loss = kind(kind.settings(clip=0.2)).loss(tokens(log_p, weights=torch.ones_like(log_p.detach()))).loss
    check(loss, log_p, GROUPED["rloo"])


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_grpo_advantages(scale: str):
    scores = grouped("scores")
    groups = torch.arange(len(scores)) // GROUPED["groups_of"]
    expected = torch.tensor(GROUPED["grpo_advantages"][scale], dtype=torch.float64)
    torch.testing.assert_close(group_relative(scores, groups, scale=scale), expected, atol=1e-6, rtol=1e-6)


def test_rloo_advantages():
    scores = grouped("scores")
    groups = torch.arange(len(scores)) // GROUPED["groups_of"]
    torch.testing.assert_close(leave_one_out(scores, groups), grouped("rloo_advantages"), **CLOSE)


# -- PPO --------------------------------------------------------------------------------------------------------------

STEPS, SETTINGS = PPO["steps"], PPO["settings"]


def step_mask(step: dict[str, Any], name: str = "padding_mask") -> Tensor:
    return ~tensor(step, name, torch.bool)


def test_the_recorded_updates_reach_both_clips():
    assert len(STEPS) == 3
    ratios = [(tensor(s, "new_logprobs") - tensor(s, "mb_logprobs")).exp() for s in STEPS]
    assert any(((r - 1).abs() > SETTINGS["cliprange"]).any() for r in ratios)
    assert any(0 < step["vf_clipfrac"] < 1 for step in STEPS)


def test_ppo_rewards():
    """TRL puts the score one token after the last, where there is one: its mask is one longer there."""
    first = STEPS[0]
    kl = kl_k1(tensor(first, "logprobs"), tensor(first, "ref_logprobs"))
    shaped = token_rewards(
        tensor(first, "scores"), kl, step_mask(first, "padding_mask_p1"), kl_coef=SETTINGS["kl_coef"]
    )
    torch.testing.assert_close(shaped.rewards, tensor(first, "rewards"), **CLOSE)


def test_ppo_advantages_and_returns():
    first = STEPS[0]
    mask = step_mask(first, "padding_mask_p1")
    found = gae(tensor(first, "rewards"), tensor(first, "values"), mask, gamma=SETTINGS["gamma"], lam=SETTINGS["lam"])
    torch.testing.assert_close(found.returns, tensor(first, "returns"), **CLOSE)
    count = int(step_mask(first).sum())  # TRL's variance divides by count - 1, ours by count as in OpenAI's code
    whitened = masked_whiten(found.advantages, step_mask(first)) * math.sqrt((count - 1) / count)
    torch.testing.assert_close(whitened, tensor(first, "advantages"), **CLOSE)


@pytest.mark.parametrize("step", STEPS, ids=["epoch 1", "epoch 2", "epoch 3"])
def test_ppo_policy_loss(step: dict[str, Any]):
    mask = step_mask(step)[step["micro_batch_inds"]]
    terms = ppo_policy_loss(
        tensor(step, "new_logprobs"),
        tensor(step, "mb_logprobs"),
        tensor(step, "mb_advantage"),
        mask,
        clip_low=SETTINGS["cliprange"],
        clip_high=SETTINGS["cliprange"],
    )
    assert float(masked_mean(terms.loss, mask)) == pytest.approx(step["pg_loss"], abs=1e-6)


@pytest.mark.parametrize("step", STEPS, ids=["epoch 1", "epoch 2", "epoch 3"])
def test_ppo_value_loss(step: dict[str, Any]):
    mask = step_mask(step, "padding_mask_p1")[step["micro_batch_inds"]]
    terms = ppo_value_loss(
        tensor(step, "vpred"),
        tensor(step, "mb_values"),
        tensor(step, "mb_return"),
        mask,
        clip=SETTINGS["cliprange_value"],
    )
    value = float(masked_mean(terms.loss, mask))
    assert value == pytest.approx(step["vf_loss"], abs=1e-6)
    assert float(masked_mean(terms.clipped.double(), mask)) == pytest.approx(step["vf_clipfrac"], abs=1e-6)
    assert step["loss"] == pytest.approx(step["pg_loss"] + SETTINGS["vf_coef"] * value, abs=1e-6)
