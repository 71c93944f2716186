"""Packed rows give what padded ones give: logprobs, values, scores, gradients; families that cannot are found out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from preceptor.learner.models.batching import TokenRow, collate, micro_batches, plan_packs, target_count
from preceptor.learner.models.engine import Engine
from preceptor.learner.models.forward import LogprobModel
from preceptor.learner.models.layout import packed_layout
from preceptor.learner.models.loading import load_causal_lm_dir
from preceptor.learner.models.packing import enable_packing
from preceptor.learner.models.scalar import Critic, ScoreModel, new_reward_model
from preceptor.learner.run_configs import SftConfig
from preceptor.learner.run_configs.base import EngineConfig

SHAPE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
GPT2 = {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "initializer_range": 0.2}
DROPS = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 1}


def family(name: str, **fields: Any) -> Any:
    torch.manual_seed(0)
    values = GPT2 | DROPS if name == "gpt2" else SHAPE
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **(values | fields)), dtype=torch.float32)


def rows(*lengths: int) -> list[TokenRow]:
    draw = torch.Generator().manual_seed(1)
    return [
        TokenRow(torch.randint(2, 97, (n,), generator=draw).tolist(), ((n // 3, n),)) for n in lengths
    ]  # a target at 0 is never one


def gradients(module: Any, batches: list[Any], count: int) -> tuple[float, dict[str, torch.Tensor]]:
    """The mean over all targets of a loss that treats tokens differently, and its gradients."""
    total = 0.0
    for batch in batches:
        out = module(batch)
        flat = out if isinstance(out, torch.Tensor) else out.logprobs + 0.3 * out.entropy
        loss = (flat * torch.linspace(-1, 1, len(flat)).sign()).square().sum() / count + flat.sum() / count
        loss.backward()
        total += float(loss.detach())
    found = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    return total, found


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
        ("qwen2", {}),
        ("qwen3", {}),
        ("mistral", {"sliding_window": 4}),
        ("gpt2", {}),
        ("gpt_neox", {}),
        ("phi3", {}),
        ("gemma", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_packed_gradients_equal_padded_ones(name: str, fields: dict[str, Any]):
    model = family(name, **fields)
    module = LogprobModel(model)
    data = rows(9, 30, 9, 1, 17, 2, 30)
    count = sum(map(target_count, data))
    loss, expected = gradients(module, micro_batches(data, 64, 0), count)
    assert enable_packing(model)
    packed = micro_batches(data, 64, 0, packed=True)
    assert len(packed) == 2
    assert sum(batch.input_ids.numel() for batch in packed) == 98
    got, found = gradients(module, packed, count)
    assert got == pytest.approx(loss, abs=1e-5)
    assert found.keys() == expected.keys()
    for key, gradient in expected.items():
        torch.testing.assert_close(
            found[key], gradient, atol=1e-5, rtol=1e-4, msg=lambda text, key=key: f"{key}: {text}"
        )


def test_values_and_scores_are_the_same_packed(model_dir: Path):
    data = rows(5, 12, 12, 3)
    data = [TokenRow([t % 90 for t in row.token_ids], row.target_spans) for row in data]
    critic, scorer = Critic.from_policy(model_dir), ScoreModel(new_reward_model(model_dir, seed=0))
    torch.nn.init.normal_(critic.head.weight)
    for module in (critic, scorer):
        padded = module(collate(data, [1, 2, 0, 3], 0)).detach()
        assert enable_packing(module.model)
        torch.testing.assert_close(module(collate(data, [1, 2, 0, 3], 0, packed=True)).detach(), padded)


@pytest.mark.parametrize(
    ("name", "fields"),
    [("bloom", {"n_layer": 2, "n_head": 4}), ("gemma2", {"attn_logit_softcapping": 5.0})],
    ids=["position by mask", "softcap"],
)
def test_a_family_that_cannot_pack_is_padded(name: str, fields: dict[str, Any]):
    model = family(name, **fields)
    before = model.config._attn_implementation
    assert not enable_packing(model)
    assert model.config._attn_implementation == before
    engine = Engine()
    module = LogprobModel(model)
    engine.ready(module)
    assert not engine.packed
    data = rows(9, 20, 5)
    together = module(engine.micro_batches(data, 64, 0)[0]).logprobs
    alone = [module(collate([row], [0], 0)).logprobs for row in (data[1], data[0], data[2])]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)


def test_packing_may_be_turned_off():
    model = family("llama")
    engine = Engine(EngineConfig(packing="off"))
    engine.ready(LogprobModel(model))
    assert engine.micro_batches(rows(4, 9), 64, 0)[0].layout is None


def test_a_packed_model_is_saved_as_any_other(tmp_path: Path, model_dir: Path):
    model = load_causal_lm_dir(model_dir)
    assert enable_packing(model)
    model.save_pretrained(tmp_path)
    assert "preceptor" not in (tmp_path / "config.json").read_text()


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 80))
@settings(deadline=None)
def test_packs_cover_everything_once_within_the_budget(lengths: list[int], budget: int):
    packs = plan_packs(lengths, budget)
    assert sorted(i for pack in packs for i in pack) == list(range(len(lengths)))
    for pack in packs:
        assert sum(lengths[i] for i in pack) <= budget or len(pack) == 1
    full = [sum(lengths[i] for i in pack) for pack in packs]
    assert len(packs) <= max(1, 2 * sum(full) // budget + sum(size > budget for size in full) + 1)


@given(st.lists(st.integers(1, 700), min_size=1, max_size=30))
@settings(deadline=None)
def test_a_layout_takes_every_token_to_its_padded_place_and_back(lengths: list[int]):
    layout = packed_layout(lengths)
    assert layout.position_ids[0].tolist() == [t for length in lengths for t in range(length)]
    tokens = torch.arange(sum(lengths))
    covered: list[int] = []
    for group in layout.groups:
        part = tokens[group.start : group.end]
        if group.pad is not None:
            part = part[group.pad][group.unpad]
        covered += part.tolist()
    assert covered == tokens.tolist()


def test_the_engine_is_part_of_every_run_config():
    config = SftConfig.model_validate(
        {"kind": "sft", "run_id": "x", "model": {"path": "m"}, "data": ["a"], "engine": {"packing": "off"}}
    )
    assert config.engine.packing == "off"
