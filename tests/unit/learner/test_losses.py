"""PPO's policy and value loss: cases by hand, gradients against autograd of the textbook formula."""

import math

import numpy as np
import pytest
import torch

from preceptor.learner.rl.losses import approx_kl, ppo_policy_loss, ppo_value_loss
from preceptor.learner.rl.masking import masked_mean
from preceptor.learner.rl.preferences import bradley_terry_loss

ONE = torch.ones(1, 1, dtype=torch.bool)


def scalar(value: float) -> torch.Tensor:
    return torch.tensor([[value]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.0, 2.0, -2.0, False),
        (1.5, 2.0, -2.4, True),  # a good action may not gain beyond 1.2
        (0.5, 2.0, -1.0, False),  # but may lose without limit
        (0.5, -2.0, 1.6, True),  # a bad action may not gain below 0.8
        (1.5, -2.0, 3.0, False),
    ],
)
def test_the_four_quadrants_of_the_clip(ratio: float, advantage: float, loss: float, clipped: bool):
    terms = ppo_policy_loss(scalar(math.log(ratio)), scalar(0.0), scalar(advantage), ONE, clip_low=0.2, clip_high=0.2)
    assert float(terms.loss) == pytest.approx(loss, abs=1e-12)
    assert float(terms.ratio) == pytest.approx(ratio, abs=1e-12)
    assert bool(terms.clipped) is clipped


def test_clip_higher_allows_more_above_than_below():
    terms = ppo_policy_loss(scalar(math.log(1.25)), scalar(0.0), scalar(1.0), ONE, clip_low=0.2, clip_high=0.28)
    assert float(terms.loss) == pytest.approx(-1.25, abs=1e-12)


def test_policy_gradient_equals_the_textbook():
    torch.manual_seed(0)
    logprobs = (torch.randn(3, 4, dtype=torch.float64) * 0.3).requires_grad_()
    old, advantages = torch.randn(3, 4, dtype=torch.float64) * 0.3, torch.randn(3, 4, dtype=torch.float64)
    mask = torch.rand(3, 4) < 0.7
    weights = torch.rand(3, 4, dtype=torch.float64)
    terms = ppo_policy_loss(logprobs, old, advantages, mask, clip_low=0.2, clip_high=0.2, weights=weights)
    masked_mean(terms.loss, mask).backward()
    reference = logprobs.detach().clone().requires_grad_()
    ratio = (reference - old).exp()
    surrogate = torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    (-(weights * surrogate)[mask].sum() / mask.sum()).backward()
    torch.testing.assert_close(logprobs.grad, reference.grad, atol=1e-12, rtol=1e-12)


def test_on_policy_gradient_is_minus_advantage_times_score():
    logprobs = torch.tensor([[-1.0, -2.0]], dtype=torch.float64, requires_grad=True)
    advantages = torch.tensor([[3.0, -0.5]], dtype=torch.float64)
    mask = torch.ones(1, 2, dtype=torch.bool)
    terms = ppo_policy_loss(logprobs, logprobs.detach(), advantages, mask, clip_low=0.2, clip_high=0.2)
    terms.loss.sum().backward()
    torch.testing.assert_close(logprobs.grad, -advantages)


def test_an_infinite_logprob_under_the_mask_poisons_nothing():
    logprobs = torch.tensor([[-1.0, -torch.inf]], requires_grad=True)
    mask = torch.tensor([[True, False]])
    terms = ppo_policy_loss(
        logprobs, torch.tensor([[-1.0, torch.inf]]), torch.tensor([[1.0, torch.nan]]), mask, clip_low=0.2, clip_high=0.2
    )
    terms.loss.sum().backward()
    assert terms.loss.tolist() == [[-1.0, 0.0]]
    assert logprobs.grad.tolist() == [[-1.0, 0.0]]


@pytest.mark.parametrize(
    ("value", "old", "target", "loss", "clipped"),
    [
        (0.1, 0.0, 1.0, 0.5 * 0.81, False),
        (0.9, 0.0, 1.0, 0.5 * 0.64, True),  # the clipped value 0.2 is further from the target: it counts
        (-0.5, 0.0, 1.0, 0.5 * 2.25, False),
        (2.0, 0.0, 1.0, 0.5 * 1.0, False),
    ],
)
def test_the_clipped_value_loss_by_hand(value: float, old: float, target: float, loss: float, clipped: bool):
    terms = ppo_value_loss(scalar(value), scalar(old), scalar(target), ONE, clip=0.2)
    assert float(terms.loss) == pytest.approx(loss, abs=1e-12)
    assert bool(terms.clipped) is clipped


def test_value_gradient_equals_the_textbook():
    torch.manual_seed(1)
    values = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    old, returns = torch.randn(2, 5, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    mask = torch.rand(2, 5) < 0.6
    masked_mean(ppo_value_loss(values, old, returns, mask, clip=0.3).loss, mask).backward()
    reference = values.detach().clone().requires_grad_()
    clipped = torch.clamp(reference, old - 0.3, old + 0.3)
    (0.5 * torch.max((reference - returns) ** 2, (clipped - returns) ** 2)[mask].mean()).backward()
    torch.testing.assert_close(values.grad, reference.grad, atol=1e-12, rtol=1e-12)


def test_approx_kl_is_half_the_square_of_the_log_ratio():
    assert float(approx_kl(scalar(0.3), scalar(0.1), ONE)) == pytest.approx(0.02, abs=1e-12)


@pytest.mark.parametrize(
    ("difference", "target", "loss"),
    [
        (0.0, 1.0, math.log(2)),
        (math.log(3), 1.0, -math.log(0.75)),
        (math.log(3), 0.5, -0.5 * math.log(0.75) - 0.5 * math.log(0.25)),
        (0.0, 0.5, math.log(2)),
        (math.log(3), 0.9, -0.9 * math.log(0.75) - 0.1 * math.log(0.25)),
    ],
    ids=["undecided", "sure", "tie, apart", "tie, equal", "smoothed"],
)
def test_bradley_terry_by_hand(difference: float, target: float, loss: float):
    got = bradley_terry_loss(torch.tensor([difference]), torch.tensor([0.0]), torch.tensor([target]))
    assert float(got) == pytest.approx(loss, abs=1e-6)


def test_a_tie_pulls_scores_together():
    chosen = torch.tensor([2.0], requires_grad=True)
    bradley_terry_loss(chosen, torch.tensor([0.0]), torch.tensor([0.5])).sum().backward()
    assert float(chosen.grad) == pytest.approx(1 / (1 + math.exp(-2)) - 0.5, abs=1e-6)


def test_a_margin_is_what_the_chosen_one_must_win_by():
    """-log sigmoid(2 - 0.5) for a preference; a margin of 0 changes nothing."""
    chosen, rejected = torch.tensor([2.0, 2.0]), torch.zeros(2)
    losses = bradley_terry_loss(chosen, rejected, margin=torch.tensor([0.5, 0.0]))
    assert losses.tolist() == pytest.approx([math.log1p(math.exp(-1.5)), math.log1p(math.exp(-2.0))])


def test_bradley_terry_is_stable_far_out():
    losses = bradley_terry_loss(torch.tensor([-1000.0, 1000.0]), torch.tensor([0.0, 0.0]))
    np.testing.assert_allclose(losses.numpy(), [1000.0, 0.0])
