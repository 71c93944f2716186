"""Advantage estimators, reward shaping, KL in the loss and importance weights against numpy float64."""

import math

import numpy as np
import pytest
import torch

from preceptor.learner.rl.advantages import (
    group_means,
    group_relative,
    group_sds,
    group_spread,
    leave_one_out,
    rank_in_group,
    returns_to_go,
)
from preceptor.learner.rl.corrections import decoupled_weights, truncated_sequence_weights, weights_ess
from preceptor.learner.rl.kl import kl_in_loss
from preceptor.learner.rl.losses import policy_gradient_loss
from preceptor.learner.rl.masking import masked_whiten
from preceptor.learner.rl.rewards import length_penalties, shape_scores, token_rewards

SCORES = np.array([1.0, 3.0, 2.0, -1.0, -1.0, 5.0, 0.5, 0.25])
GROUPS = np.array([0, 0, 1, 0, 1, 1, 2, 2])  # groups of 3, 3 and 2, mixed up
S, G = torch.tensor(SCORES), torch.tensor(GROUPS)
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.bool)


def by_group(value):
    return np.array([value(SCORES[g == GROUPS], SCORES[i]) for i, g in enumerate(GROUPS)])


def close(found: torch.Tensor, expected, **tolerance) -> None:
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-12, **tolerance)


def test_group_means_and_sds():
    close(group_means(S, G), by_group(lambda own, _: own.mean()))
    close(group_sds(S, G), by_group(lambda own, _: own.std(ddof=1)))
    assert float(group_sds(torch.tensor([4.0]), torch.tensor([0]))) == 0.0


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_group_relative_advantages(scale: str):
    sd = {"group": lambda own: own.std(ddof=1) + 1e-4, "batch": lambda _: SCORES.std(ddof=1) + 1e-4}
    divide = sd.get(scale, lambda _: 1.0)
    close(group_relative(S, G, scale=scale), by_group(lambda own, score: (score - own.mean()) / divide(own)))


def test_a_group_without_spread_has_no_advantage():
    same = torch.full((4,), 7.0)
    assert not group_relative(same, torch.zeros(4, dtype=torch.int64), scale="group").any()
    assert not leave_one_out(same, torch.zeros(4, dtype=torch.int64)).any()
    assert not group_spread(same, torch.zeros(4, dtype=torch.int64)).any()


def test_leave_one_out_is_the_others_mean():
    close(leave_one_out(S, G), by_group(lambda own, score: score - (own.sum() - score) / (len(own) - 1)), atol=1e-12)
    assert float(leave_one_out(torch.tensor([9.0]), torch.tensor([0]))) == 0.0


def test_spread_and_rank():
    close(group_spread(S, G), by_group(lambda own, _: own.max() - own.min()))
    assert rank_in_group(S, G).tolist() == [1, 0, 1, 2, 2, 0, 0, 1]
    assert rank_in_group(torch.tensor([2.0, 2.0, 3.0]), torch.zeros(3, dtype=torch.int64)).tolist() == [1, 2, 0]


def test_an_unknown_scale_is_refused():
    with pytest.raises(ValueError, match="scale must be"):
        group_relative(S, G, scale="sd")


def test_returns_to_go():
    rewards = np.random.default_rng(0).normal(size=(3, 4))
    expected = np.zeros_like(rewards)
    for b, length in enumerate([4, 2, 1]):
        for t in range(length):
            expected[b, t] = sum(0.9 ** (k - t) * rewards[b, k] for k in range(t, length))
    poisoned = torch.where(MASK, torch.tensor(rewards), torch.nan)
    close(returns_to_go(poisoned, MASK, gamma=0.9), expected, atol=1e-12)


# -- rewards ----------------------------------------------------------------------------------------------------------


def test_the_soft_overlong_punishment_is_daposs():
    """0 up to max - cache, (max - cache - length) / cache between, -1 at max (equation 13 of arXiv 2503.14476)."""
    lengths = [1, 6, 8, 10]
    mask = torch.arange(10)[None, :] < torch.tensor(lengths)[:, None]
    taken = length_penalties(mask, per_token=0.0, cache_tokens=4, penalty=1.0, max_tokens=10)
    assert taken.tolist() == [0.0, 0.0, 0.5, 1.0]
    both = length_penalties(mask, per_token=0.01, cache_tokens=4, penalty=3.0, max_tokens=10)
    assert both.tolist() == pytest.approx([0.01, 0.06, 1.58, 3.1])
    with pytest.raises(ValueError, match="needs max_tokens"):
        length_penalties(mask, per_token=0.0, cache_tokens=4, penalty=1.0, max_tokens=None)


def test_dense_rewards_are_added_where_they_belong():
    dense = torch.tensor([[0.1, 0.2, 0.3, 0.4], [1.0, 2.0, math.nan, 9.0], [5.0, 9.0, 9.0, 9.0]])
    shaped = token_rewards(torch.tensor([10.0, 20.0, 30.0]), torch.zeros(3, 4), MASK, kl_coef=0.5, dense=dense)
    np.testing.assert_allclose(shaped.rewards, [[0.1, 0.2, 0.3, 10.4], [1.0, 22.0, 0, 0], [35.0, 0, 0, 0]], rtol=1e-6)
    assert not shaped.non_score_rewards.any()


def test_clip_comes_before_the_missing_eos_penalty():
    found = shape_scores(torch.tensor([9.0, 9.0]), torch.tensor([True, False]), missing_eos_penalty=2.0, clip=5.0)
    assert found.tolist() == [5.0, 3.0]


def test_whitening_over_ranks_equals_whitening_of_all():
    """Each rank holds some rows; the hook adds up what the ranks have."""
    values = torch.tensor(np.random.default_rng(1).normal(3.0, 2.0, size=(3, 4)))
    whole = masked_whiten(values, MASK)
    parts = [slice(0, 1), slice(1, 3)]
    sums: list[list[torch.Tensor]] = [[], []]
    for place, part in enumerate(parts):  # first what each would send: as if the others had nothing
        masked_whiten(values[part], MASK[part], reduce=lambda s, p=place: sums[p].append(s) or s)
    total = sums[0][0] + sums[1][0]
    mean = total[0] / total[1]
    squares = [torch.where(MASK[p], (values[p] - mean).square(), 0.0).sum() for p in parts]
    answers = [total, torch.stack([squares[0] + squares[1], total[1]])]
    for part in parts:
        replies = iter(answers)
        found = masked_whiten(values[part], MASK[part], reduce=lambda _, r=replies: next(r))
        torch.testing.assert_close(found, whole[part], atol=1e-12, rtol=0)


# -- KL in the loss ---------------------------------------------------------------------------------------------------


def logits(seed: int, size: int = 7) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).normal(size=size))


def expected_gradient(estimator: str, *, weighted: bool, on_policy: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """(gradient of the term in expectation over samples of the old policy, gradient of the exact KL)."""
    z = logits(0).requires_grad_()
    old = logits(0) if on_policy else logits(2)
    log_p, log_old, log_q = (torch.log_softmax(x, 0) for x in (z, old, logits(1)))
    mask = torch.ones(7, dtype=torch.bool)
    terms = kl_in_loss(log_p, log_old, log_q, mask, estimator=estimator, weighted=weighted)
    (found,) = torch.autograd.grad((log_old.exp() * terms).sum(), z, retain_graph=True)
    (exact,) = torch.autograd.grad((log_p.exp() * (log_p - log_q)).sum(), z)
    return found, exact


@pytest.mark.parametrize("on_policy", [True, False], ids=["on-policy", "after some steps"])
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_weighted_kl_in_the_loss_has_the_gradient_of_the_kl(estimator: str, on_policy: bool):
    found, exact = expected_gradient(estimator, weighted=True, on_policy=on_policy)
    torch.testing.assert_close(found, exact, atol=1e-12, rtol=0)


def test_bare_k1_in_the_loss_has_no_gradient_in_expectation():
    found, exact = expected_gradient("k1", weighted=False, on_policy=True)
    torch.testing.assert_close(found, torch.zeros(7, dtype=torch.float64), atol=1e-12, rtol=0)
    assert exact.abs().max() > 0.01


def test_bare_k2_is_right_on_policy_and_bare_k3_is_that_of_the_forward_kl():
    found, exact = expected_gradient("k2", weighted=False, on_policy=True)
    torch.testing.assert_close(found, exact, atol=1e-12, rtol=0)
    found, _ = expected_gradient("k3", weighted=False, on_policy=True)
    z = logits(0).requires_grad_()
    log_q = torch.log_softmax(logits(1), 0)
    (forward,) = torch.autograd.grad((log_q.exp() * (log_q - torch.log_softmax(z, 0))).sum(), z)
    torch.testing.assert_close(found, forward, atol=1e-12, rtol=0)


def test_kl_in_the_loss_is_0_with_no_gradient_off_the_mask():
    log_p = torch.tensor([-1.0, -2.0], requires_grad=True)
    mask = torch.tensor([True, False])
    terms = kl_in_loss(log_p, log_p.detach(), torch.tensor([-1.5, math.nan]), mask, estimator="k3", weighted=True)
    terms.sum().backward()
    assert float(terms[1].detach()) == 0.0
    assert log_p.grad is not None
    assert log_p.grad.isfinite().all()
    assert float(log_p.grad[1]) == 0.0


# -- losses and weights -----------------------------------------------------------------------------------------------


def test_the_policy_gradient_is_minus_weight_times_advantage():
    log_p = torch.tensor([[-1.0, -2.0, math.nan]], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, False]])
    advantages, weights = torch.tensor([[2.0, -3.0, math.nan]]), torch.tensor([[0.5, 2.0, math.inf]])
    loss = policy_gradient_loss(log_p, advantages, mask, weights=weights).sum()
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.5 * 2.0 * 1.0 - 2.0 * 3.0 * 2.0)
    assert log_p.grad is not None
    assert log_p.grad.tolist() == [[-1.0, 6.0, 0.0]]


def test_sequence_weights_are_products_and_geometric_means():
    old, sampling = torch.zeros(3, 4), torch.full((3, 4), -0.3)
    product = truncated_sequence_weights(old, sampling, MASK, cap=2.0).weights
    np.testing.assert_allclose(product[:, 0], [2.0, math.exp(0.6), math.exp(0.3)], rtol=1e-6)
    mean = truncated_sequence_weights(old, sampling, MASK, cap=2.0, geometric=True).weights
    np.testing.assert_allclose(mean[:, 0], [math.exp(0.3)] * 3, rtol=1e-6)
    assert not product[~MASK].any()
    assert not mean[~MASK].any()


def test_decoupled_weights_keep_small_ones_and_mask_what_exceeds_high():
    old = torch.tensor([[0.0, 0.0, 0.0]])
    sampling = torch.tensor([[3.0, -1.0, -2.0]])  # w = e^-3, e, e^2
    found = decoupled_weights(old, sampling, torch.ones(1, 3, dtype=torch.bool), high=5.0)
    np.testing.assert_allclose(found.weights, [[math.exp(-3), math.e, 0.0]], rtol=1e-6)
    assert found.mask.tolist() == [[True, True, False]]


def test_an_infinite_mismatch_neither_reaches_weights_nor_becomes_nan():
    old = torch.tensor([[-1.0, -math.inf, -1.0]])
    sampling = torch.tensor([[-1.0, -1.0, -math.inf]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    for found in (
        decoupled_weights(old, sampling, mask, high=5.0),
        truncated_sequence_weights(old, sampling, mask, cap=2),
    ):
        assert found.weights.isfinite().all()


def test_effective_sample_size_of_the_weights_used():
    weights = torch.tensor([[1.0, 1.0, 2.0, math.nan]])
    mask = torch.tensor([[True, True, True, False]])
    assert float(weights_ess(weights, mask)) == pytest.approx(16.0 / (3 * 6.0))
