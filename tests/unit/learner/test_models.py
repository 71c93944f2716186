"""Batching, forward passes, loading, heads."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from preceptor.common.errors import InvalidInput
from preceptor.learner.models import forward
from preceptor.learner.models.batching import TokenRow, collate, micro_batches, plan_micro_batches
from preceptor.learner.models.forward import CausalHead, pick_device, scatter_targets, target_logprobs
from preceptor.learner.models.loading import context_length, load_causal_lm, load_causal_lm_dir, load_scalar_model
from preceptor.learner.models.scalar import Critic, ScoreModel, new_reward_model
from preceptor.learner.run_configs import ModelSource

ROWS = [
    TokenRow([5, 6, 7, 8, 9, 10, 11], ((3, 7),)),
    TokenRow([12, 13, 14], ((1, 3),)),
    TokenRow([20, 21, 22, 23, 24], ((4, 5),)),
]


def textbook_logprobs(directory: Path, row: TokenRow, temperature: float = 1.0) -> list[float]:
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row.token_ids])).logits[0].double() / temperature
    log_p = torch.log_softmax(logits, dim=-1)
    return [float(log_p[t - 1, row.token_ids[t]]) for begin, end in row.target_spans for t in range(begin, end)]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 200))
def test_a_plan_covers_every_row_once_within_its_budget(lengths: list[int], budget: int):
    plan = plan_micro_batches(lengths, budget)
    assert sorted(i for group in plan for i in group) == list(range(len(lengths)))
    for group in plan:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= budget


def test_a_plan_splits_where_padding_would_cost_more_than_a_pass():
    assert plan_micro_batches([10, 10, 10], 1000) == [[0, 1, 2]]
    assert plan_micro_batches([500, 500, 10, 10, 10, 10], 10_000) == [[0, 1], [2, 3, 4, 5]]


def test_targets_never_include_the_first_token_or_padding():
    batch = collate([TokenRow([5, 6], ((0, 2),)), TokenRow([7, 8, 9], ((1, 3),))], [0, 1], pad_id=0)
    assert batch.input_ids.tolist() == [[5, 6, 0], [7, 8, 9]]
    assert batch.target_mask.tolist() == [[False, True, False], [False, True, True]]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_padded_micro_batches_give_each_rows_own_logprobs(model_dir: Path, temperature: float):
    model = load_causal_lm_dir(model_dir)
    head = CausalHead(model)
    for batch in micro_batches(ROWS, 1000, pad_id=0):
        flat = target_logprobs(model, head, batch, temperature=temperature).logprobs.tolist()
        expected = [value for i in batch.rows for value in textbook_logprobs(model_dir, ROWS[i], temperature)]
        assert flat == pytest.approx(expected, abs=1e-5)


def test_chunks_of_logits_change_neither_values_nor_gradients(model_dir: Path, monkeypatch: pytest.MonkeyPatch):
    def run() -> tuple[torch.Tensor, torch.Tensor]:
        model = load_causal_lm_dir(model_dir)
        batch = collate(ROWS, [0, 1, 2], pad_id=0)
        result = target_logprobs(model, CausalHead(model), batch, with_entropy=True)
        (result.logprobs.sum() + result.entropy.sum()).backward()
        return torch.stack(result).detach(), model.get_input_embeddings().weight.grad

    whole, whole_grad = run()
    monkeypatch.setattr(forward, "_LOGITS_PER_CHUNK", 200)
    chunked, chunked_grad = run()
    torch.testing.assert_close(whole, chunked)
    torch.testing.assert_close(whole_grad, chunked_grad)


def test_dropout_is_off_although_the_config_asks_for_it(model_dir: Path):
    model = load_causal_lm_dir(model_dir)
    assert model.training
    assert model.config.attention_dropout == 0.0
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)


def test_scatter_is_the_inverse_of_boolean_indexing():
    mask = torch.tensor([[True, False], [True, True]])
    assert scatter_targets(torch.tensor([1.0, 2.0, 3.0]), mask).tolist() == [[1.0, 0.0], [2.0, 3.0]]


def test_new_weights_follow_the_seed_and_the_tokenizer(model_dir: Path, tokenizer: PreTrainedTokenizerFast):
    init = {"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    source = ModelSource(init=init | {"intermediate_size": 16, "num_key_value_heads": 2}, tokenizer=str(model_dir))
    one, other, third = (load_causal_lm(source, seed=seed)[0] for seed in (1, 1, 2))
    assert one.config.vocab_size == len(tokenizer)
    assert one.config.eos_token_id == tokenizer.eos_token_id
    assert torch.equal(one.get_input_embeddings().weight, other.get_input_embeddings().weight)
    assert not torch.equal(one.get_input_embeddings().weight, third.get_input_embeddings().weight)


@pytest.mark.parametrize(
    ("path", "message"),
    [("/no/such/place", "is not a directory"), ("{empty}", "config.json is missing")],
)
def test_a_wrong_model_directory_is_named(tmp_path: Path, path: str, message: str):
    with pytest.raises(InvalidInput, match=message) as caught:
        load_causal_lm_dir(path.format(empty=tmp_path))
    assert caught.value.field == "model.path"


def test_a_broken_config_is_one_line(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(InvalidInput, match="no model could be loaded") as caught:
        load_causal_lm_dir(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_context_length_is_known(model_dir: Path):
    assert context_length(load_causal_lm_dir(model_dir)) == 64


def test_a_missing_cuda_device_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    with pytest.raises(InvalidInput, match="cuda"):
        pick_device("cuda")


def test_a_reward_head_is_drawn_with_the_known_standard_deviation(model_dir: Path):
    model = new_reward_model(model_dir, seed=3)
    again = new_reward_model(model_dir, seed=3)
    assert torch.equal(model.score.weight, again.score.weight)
    assert float(model.score.weight.detach().std()) == pytest.approx(1 / math.sqrt(33), rel=0.4)


def test_scores_are_read_at_the_last_token_whatever_the_padding(model_dir: Path):
    model = new_reward_model(model_dir, seed=0)
    batch = collate([TokenRow(row.token_ids, ()) for row in ROWS], [0, 1, 2], pad_id=1)
    together = ScoreModel(model)(batch)
    for i, row in enumerate(ROWS):
        alone = ScoreModel(model)(collate([row], [0], pad_id=0))
        assert float(alone.detach()) == pytest.approx(float(together[i].detach()), abs=1e-5)


@pytest.fixture
def reward_dir(model_dir: Path, tmp_path: Path) -> Path:
    new_reward_model(model_dir, seed=0).save_pretrained(tmp_path)
    (tmp_path / "card.json").write_text(json.dumps({"score_mean": 0.5, "score_sd": 2.0}))
    return tmp_path


def test_a_critic_from_the_reward_model_values_in_served_units(reward_dir: Path):
    critic = Critic.from_reward_model(reward_dir)
    reward_model = AutoModelForSequenceClassification.from_pretrained(reward_dir)
    # the value before token t reads tokens up to t - 1: a row's value before its 5th token is the score of its first 4
    row = TokenRow([5, 6, 7, 8, 9], ((4, 5),))
    value = critic(collate([row], [0], pad_id=0))
    raw = ScoreModel(reward_model)(collate([TokenRow([5, 6, 7, 8], ())], [0], pad_id=0))
    assert float(value.detach()) == pytest.approx((float(raw.detach()) - 0.5) / 2.0, abs=1e-5)


def test_a_critic_from_the_policy_starts_at_zero_and_learns(model_dir: Path):
    critic = Critic.from_policy(model_dir)
    values = critic(collate(ROWS, [0, 1, 2], pad_id=0))
    assert not values.any()
    values.sum().backward()
    assert critic.head.weight.grad.abs().sum() > 0
    assert all(p.grad is not None for p in critic.parameters())


def test_a_causal_lm_gets_a_scalar_head(model_dir: Path):
    assert load_scalar_model(model_dir).score.weight.shape == (1, 32)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=9))
def test_micro_batches_hold_every_token(lengths: list[int]):
    rows = [TokenRow(list(range(1, n + 1)), ((0, n),)) for n in lengths]
    batches = micro_batches(rows, 24, pad_id=0)
    assert sum(int((batch.input_ids > 0).sum()) for batch in batches) == sum(lengths)
    assert sum(int(batch.target_mask.sum()) for batch in batches) == sum(n - 1 for n in lengths)
