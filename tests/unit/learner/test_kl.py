"""KL estimators by hand, their statistics, and the adaptive controller."""

import math

import pytest
import torch

from preceptor.learner.rl.kl import adaptive_kl_coef, kl_k1, kl_k2, kl_k3


def test_by_hand():
    logprobs, ref = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    # r = q/p = 1/2, log r = -log 2
    assert float(kl_k1(logprobs, ref)) == pytest.approx(math.log(2), abs=1e-6)
    assert float(kl_k2(logprobs, ref)) == pytest.approx(math.log(2) ** 2 / 2, abs=1e-6)
    assert float(kl_k3(logprobs, ref)) == pytest.approx(0.5 - 1 + math.log(2), abs=1e-6)


def test_k1_and_k3_are_unbiased_and_k3_is_never_negative():
    # exact expectation over a three-symbol alphabet
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.5, 0.3])
    exact = float((p * (p / q).log()).sum())
    assert float((p * kl_k1(p.log(), q.log())).sum()) == pytest.approx(exact, abs=1e-6)
    assert float((p * kl_k3(p.log(), q.log())).sum()) == pytest.approx(exact, abs=1e-6)
    assert (kl_k3(p.log(), q.log()) >= 0).all()


def test_equal_policies_have_no_divergence():
    x = torch.randn(3, 4)
    for estimator in (kl_k1, kl_k2, kl_k3):
        assert not estimator(x, x).any()


def test_k3_of_an_absurd_ratio_is_finite():
    assert kl_k3(torch.tensor([-500.0]), torch.tensor([0.0])).isfinite().all()


@pytest.mark.parametrize(
    ("observed", "error"),
    [(6.0, 0.0), (6.6, 0.1), (60.0, 0.2), (0.0, -0.2)],
    ids=["on target", "a tenth over", "clipped above", "clipped below"],
)
def test_the_adaptive_controller_follows_ziegler(observed: float, error: float):
    coef = adaptive_kl_coef(0.1, observed, target=6.0, horizon=1000, rollouts=100)
    assert coef == pytest.approx(0.1 * (1 + error * 0.1), rel=1e-9)


def test_a_target_of_zero_is_refused():
    with pytest.raises(ValueError, match="target"):
        adaptive_kl_coef(0.1, 1.0, target=0.0, horizon=1, rollouts=1)
