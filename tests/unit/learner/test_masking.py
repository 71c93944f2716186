"""masked_mean, masked_var and masked_whiten against numpy float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from preceptor.learner.rl.masking import check_same_shape, masked_mean, masked_sum, masked_var, masked_whiten

VALUES = torch.tensor([[1.0, 2.0, 9.0], [4.0, 9.0, 9.0]], dtype=torch.float64)
MASK = torch.tensor([[True, True, False], [True, False, False]])


def test_statistics_count_only_what_the_mask_allows():
    # 1, 2 and 4: mean 7/3, population variance ((4/3)^2 + (1/3)^2 + (5/3)^2) / 3 = 14/9
    assert float(masked_sum(VALUES, MASK)) == 7.0
    assert float(masked_mean(VALUES, MASK)) == pytest.approx(7 / 3, abs=1e-12)
    assert float(masked_var(VALUES, MASK)) == pytest.approx(14 / 9, abs=1e-12)


def test_whitening_by_hand():
    whitened = masked_whiten(VALUES, MASK, epsilon=0.0)
    sd = (14 / 9) ** 0.5
    expected = [[(1 - 7 / 3) / sd, (2 - 7 / 3) / sd, 0.0], [(4 - 7 / 3) / sd, 0.0, 0.0]]
    np.testing.assert_allclose(whitened.numpy(), expected, atol=1e-12)


def test_whitening_can_keep_the_mean():
    kept = masked_whiten(VALUES, MASK, shift_mean=False)
    assert float(masked_mean(kept, MASK)) == pytest.approx(7 / 3, abs=1e-7)
    assert float(masked_var(kept, MASK)) == pytest.approx(1.0, abs=1e-6)


def test_micro_batch_means_with_the_batch_denominator_add_up():
    count = MASK.sum()
    parts = [masked_mean(VALUES[i : i + 1], MASK[i : i + 1], denominator=count) for i in range(2)]
    assert float(sum(parts)) == pytest.approx(float(masked_mean(VALUES, MASK)), abs=1e-12)


def test_nan_and_infinity_under_the_mask_reach_neither_value_nor_gradient():
    values = torch.tensor([[1.0, float("nan")], [float("inf"), 3.0]], requires_grad=True)
    mask = torch.tensor([[True, False], [False, True]])
    mean = masked_mean(values, mask)
    mean.backward()
    assert float(mean.detach()) == 2.0
    assert values.grad.tolist() == [[0.5, 0.0], [0.0, 0.5]]


def test_an_empty_mask_gives_zero():
    assert float(masked_mean(VALUES, torch.zeros_like(MASK))) == 0.0


def test_different_shapes_are_refused_by_name():
    with pytest.raises(ValueError, match="mask"):
        check_same_shape(values=VALUES, mask=MASK[:1])


@given(
    npst.arrays(np.float64, (3, 5), elements=st.floats(-100, 100)),
    npst.arrays(np.bool_, (3, 5)),
)
def test_whitening_agrees_with_numpy(values: np.ndarray, mask: np.ndarray):
    whitened = masked_whiten(torch.from_numpy(values), torch.from_numpy(mask)).numpy()
    assert (whitened[~mask] == 0).all()
    if mask.any():
        kept = values[mask]
        expected = (kept - kept.mean()) / np.sqrt(kept.var() + 1e-8)
        np.testing.assert_allclose(whitened[mask], expected, rtol=1e-6, atol=1e-6)
