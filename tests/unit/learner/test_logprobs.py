"""token_logprobs against log_softmax and autograd of the textbook formula."""

import math

import pytest
import torch

from preceptor.learner.rl import logprobs as module
from preceptor.learner.rl.logprobs import token_logprobs


def textbook(logits: torch.Tensor, ids: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    log_p = torch.log_softmax(logits / temperature, dim=-1)
    return log_p.gather(-1, ids[..., None]).squeeze(-1), -(log_p.exp() * log_p).sum(dim=-1)


@pytest.fixture(params=[1, 7, 1 << 22], ids=["row by row", "small chunks", "one chunk"])
def _chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK_ELEMENTS", request.param * 5)


def test_by_hand():
    logits = torch.tensor([[[0.0, math.log(3.0)]]])
    logprobs, entropy = token_logprobs(logits, torch.tensor([[1]]))
    assert float(logprobs) == pytest.approx(math.log(0.75), abs=1e-6)
    assert float(entropy) == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75), abs=1e-6)


def test_logits_are_divided_by_the_temperature():
    # temperature 0.5 doubles the logits: odds 3 become 9
    logits = torch.tensor([[0.0, math.log(3.0)]])
    assert float(token_logprobs(logits, torch.tensor([1]), temperature=0.5).logprobs) == pytest.approx(
        math.log(0.9), abs=1e-6
    )


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_and_gradients_equal_autograds(temperature: float):
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 5, dtype=torch.float32) * 3
    ids = torch.randint(0, 5, (2, 3))
    weights = torch.randn(2, 2, 3)
    ours, theirs = logits.clone().requires_grad_(), logits.double().requires_grad_()
    got = token_logprobs(ours, ids, temperature=temperature)
    want = textbook(theirs, ids, temperature)
    for mine, reference in zip(got, want, strict=True):
        torch.testing.assert_close(mine.double(), reference, atol=1e-5, rtol=1e-5)
    (got[0] * weights[0] + got[1] * weights[1]).sum().backward()
    (want[0] * weights[0] + want[1] * weights[1]).sum().backward()
    torch.testing.assert_close(ours.grad.double(), theirs.grad, atol=1e-5, rtol=1e-4)


def test_without_entropy_the_gradient_is_the_same():
    torch.manual_seed(1)
    logits, ids = torch.randn(4, 6), torch.randint(0, 6, (4,))
    one, other = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    token_logprobs(one, ids).logprobs.sum().backward()
    without = token_logprobs(other, ids, with_entropy=False)
    without.logprobs.sum().backward()
    torch.testing.assert_close(one.grad, other.grad)
    assert not without.entropy.any()


def test_half_precision_logits_give_float32_logprobs_and_their_own_gradient_dtype():
    logits = torch.randn(3, 8, dtype=torch.bfloat16, requires_grad=True)
    logprobs = token_logprobs(logits, torch.tensor([0, 1, 2])).logprobs
    logprobs.sum().backward()
    assert logprobs.dtype is torch.float32
    assert logits.grad.dtype is torch.bfloat16


def test_a_forbidden_token_elsewhere_does_not_make_entropy_nan():
    logprobs, entropy = token_logprobs(torch.tensor([[0.0, 0.0, -torch.inf]]), torch.tensor([0]))
    assert float(logprobs) == pytest.approx(-math.log(2), abs=1e-6)
    assert float(entropy) == pytest.approx(math.log(2), abs=1e-6)


def test_wrong_shapes_and_temperatures_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        token_logprobs(torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="temperature"):
        token_logprobs(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), temperature=0.0)
