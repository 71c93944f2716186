"""GAE by hand and against the sum that defines it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from preceptor.learner.rl.advantages import gae


def test_by_hand():
    # gamma .9, lam .5: delta = (1 + .9*2 - .5, 0 + .9*1 - 2, 2 - 1) = (2.3, -1.1, 1); A2 = 1, A1 = -1.1 + .45, A0 = ...
    rewards = torch.tensor([[1.0, 0.0, 2.0]], dtype=torch.float64)
    values = torch.tensor([[0.5, 2.0, 1.0]], dtype=torch.float64)
    mask = torch.ones(1, 3, dtype=torch.bool)
    advantages, returns = gae(rewards, values, mask, gamma=0.9, lam=0.5)
    expected = [2.3 + 0.45 * (-0.65), -0.65, 1.0]
    np.testing.assert_allclose(advantages[0].numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(
        returns[0].numpy(), [expected[0] + 0.5, expected[1] + 2.0, expected[2] + 1.0], atol=1e-12
    )


def test_lambda_one_gamma_one_is_the_return_minus_the_value():
    rewards, values = torch.tensor([[0.0, 0.0, 3.0]]), torch.tensor([[1.0, 2.0, 4.0]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    advantages, returns = gae(rewards, values, mask, gamma=1.0, lam=1.0)
    assert advantages.tolist() == [[2.0, 1.0, -1.0]]
    assert returns.tolist() == [[3.0, 3.0, 3.0]]


def test_lambda_zero_is_the_one_step_error():
    rewards, values = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 5.0]])
    advantages, _ = gae(rewards, values, torch.ones(1, 2, dtype=torch.bool), gamma=0.5, lam=0.0)
    assert advantages.tolist() == [[1.0 + 2.5 - 3.0, 2.0 - 5.0]]


@given(st.integers(1, 6), st.integers(0, 5), st.floats(0, 1), st.floats(0, 1), st.integers(0, 10_000))
def test_padding_changes_nothing_and_the_recurrence_equals_its_sum(
    length: int, padding: int, gamma: float, lam: float, seed: int
):
    draws = np.random.default_rng(seed)
    rewards, values = draws.normal(size=length), draws.normal(size=length)
    padded_rewards = np.concatenate([rewards, np.full(padding, np.nan)])[None]
    padded_values = np.concatenate([values, np.full(padding, np.inf)])[None]
    mask = np.arange(length + padding)[None] < length
    advantages, returns = gae(
        torch.from_numpy(padded_rewards),
        torch.from_numpy(padded_values),
        torch.from_numpy(mask),
        gamma=gamma,
        lam=lam,
    )
    delta = rewards + gamma * np.append(values[1:], 0.0) - values
    expected = [sum((gamma * lam) ** k * delta[t + k] for k in range(length - t)) for t in range(length)]
    np.testing.assert_allclose(advantages[0, :length].numpy(), expected, atol=1e-9)
    np.testing.assert_allclose(returns[0, :length].numpy(), np.array(expected) + values, atol=1e-9)
    assert not advantages[0, length:].any()
    assert not returns[0, length:].any()


def test_a_discount_above_one_is_refused():
    x = torch.zeros(1, 1)
    with pytest.raises(ValueError, match="gamma"):
        gae(x, x, x.bool(), gamma=1.1, lam=1.0)
