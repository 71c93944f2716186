"""Off-policy weights by hand."""

import math

import pytest
import torch

from preceptor.learner.rl.corrections import effective_sample_size, icepop_weights, truncated_weights

RATIOS = [[1.0, 0.5, 4.0], [0.1, 8.0, 1.0]]
OLD = torch.tensor([[math.log(r) for r in row] for row in RATIOS])
SAMPLING = torch.zeros_like(OLD)
MASK = torch.tensor([[True, True, True], [True, True, False]])


def test_truncation_caps_the_weight_and_keeps_the_token():
    correction = truncated_weights(OLD, SAMPLING, MASK, cap=2.0)
    torch.testing.assert_close(correction.weights, torch.tensor([[1.0, 0.5, 2.0], [0.1, 2.0, 0.0]]))
    assert torch.equal(correction.mask, MASK)


def test_icepop_masks_what_lies_outside():
    correction = icepop_weights(OLD, SAMPLING, MASK, low=0.5, high=5.0)
    torch.testing.assert_close(correction.weights, torch.tensor([[1.0, 0.5, 4.0], [0.0, 0.0, 0.0]]))
    assert correction.mask.tolist() == [[True, True, True], [False, False, False]]


def test_effective_sample_size_by_hand():
    # w = 1, .5, 4, .1, 8: (13.6)^2 / (5 * 81.26)
    expected = 13.6**2 / (5 * (1 + 0.25 + 16 + 0.01 + 64))
    assert float(effective_sample_size(OLD, SAMPLING, MASK)) == pytest.approx(expected, rel=1e-5)


def test_on_policy_everything_is_one():
    assert float(effective_sample_size(OLD, OLD, MASK)) == pytest.approx(1.0)
    assert truncated_weights(OLD, OLD, MASK, cap=2.0).weights[MASK].tolist() == [1.0] * 5


def test_an_infinite_ratio_under_the_mask_stays_there():
    old = torch.tensor([[0.0, torch.nan]])
    mask = torch.tensor([[True, False]])
    for correction in (
        truncated_weights(old, torch.zeros(1, 2), mask, cap=2.0),
        icepop_weights(old, torch.zeros(1, 2), mask, low=0.5, high=2.0),
    ):
        assert correction.weights.tolist() == [[1.0, 0.0]]
