"""How models are run: adapters, frozen parts, recomputed activations, bfloat16, compiled layers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from preceptor.common.errors import InvalidInput
from preceptor.learner.algorithms.ppo import Ppo
from preceptor.learner.distributed.ranks import Ranks
from preceptor.learner.models.adapters import adapters_off, merged_weights
from preceptor.learner.models.engine import Engine
from preceptor.learner.models.forward import LogprobModel
from preceptor.learner.models.loading import load_causal_lm_dir
from preceptor.learner.models.scalar import ScoreModel, new_reward_model
from preceptor.learner.run_configs.base import EngineConfig, LoraSettings, OptimizerConfig
from preceptor.learner.run_configs.ppo import PpoConfig
from preceptor.learner.training.optimization import build_optimizer
from preceptor.learner.training.rl_trainer import RlTrainer
from tests.unit.learner.test_packing import family, gradients, rows
from tests.unit.learner.test_ppo import rollouts

LORA = LoraSettings(rank=4, alpha=8)
UPDATE: dict[str, Any] = {
    "batch_size": 8,
    "epochs": 2,
    "critic": "policy",
    "optimizer": {"learning_rate": 3e-2},
    "critic_optimizer": {"learning_rate": 1e-3},
}


def logprobs(module: Any, engine: Engine) -> torch.Tensor:
    with torch.no_grad(), engine.precision():
        return torch.cat([module(batch).logprobs for batch in engine.micro_batches(rows(9, 20, 5), 64, 0)])


def stir(model: torch.nn.Module) -> None:
    """Gives the adapters, which start at zero, an effect."""
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_adapters_off_is_the_base_and_merged_is_the_policy(name: str, tmp_path: Path):
    model = family(name)
    engine, base = Engine(), LogprobModel(model)
    engine.ready(base, lora=LORA)
    before = logprobs(base, engine)
    stir(model)
    adapted = logprobs(base, engine)
    assert float((adapted - before).abs().max()) > 0.05
    with adapters_off(model):
        torch.testing.assert_close(logprobs(base, engine), before)
    torch.testing.assert_close(logprobs(base, engine), adapted)
    model.save_pretrained(tmp_path, state_dict=dict(merged_weights(model)))
    plain = LogprobModel(AutoModelForCausalLM.from_pretrained(tmp_path))
    torch.testing.assert_close(logprobs(plain, engine), adapted, atol=1e-5, rtol=1e-5)


def test_frozen_weights_have_no_optimiser_state():
    model = family("llama")
    module = LogprobModel(model)
    Engine().ready(module, lora=LORA)
    gradients(module, Engine(packed=False).micro_batches(rows(9, 5), 64, 0), 10)
    optimizer = build_optimizer([module], OptimizerConfig())
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in trained} == {id(p) for n, p in model.named_parameters() if "lora_" in n}
    assert len(trained) == 2 * 2 * 7  # an A and a B in each of 7 linear layers of 2 layers


def test_named_parts_are_frozen_and_unknown_ones_refused():
    module = LogprobModel(family("llama"))
    Engine().ready(module, frozen=["model.embed_tokens", "model.layers.0."])
    still = {name for name, p in module.model.named_parameters() if not p.requires_grad}
    assert "model.embed_tokens.weight" in still
    assert all(name.startswith(("model.embed_tokens", "model.layers.0.")) for name in still)
    with pytest.raises(InvalidInput, match="no parameter's name starts with 'transformer'"):
        Engine().ready(LogprobModel(family("llama")), frozen=["transformer"])
    with pytest.raises(InvalidInput, match="nothing is left to train"):
        Engine().ready(LogprobModel(family("llama")), frozen=["model", "lm_head"])


def test_unknown_adapter_targets_are_refused():
    with pytest.raises(InvalidInput, match=r"lora\.targets"):
        Engine().ready(LogprobModel(family("llama")), lora=LoraSettings(targets=("nothing",)))


@pytest.mark.parametrize("packing", ["auto", "off"])
def test_recomputed_activations_give_the_same_gradients(packing: Any):
    results = []
    for recompute in (False, True):
        module, engine = (
            LogprobModel(family("llama")),
            Engine(EngineConfig(packing=packing, activation_checkpointing=recompute)),
        )
        engine.ready(module)
        results.append(gradients(module, engine.micro_batches(rows(9, 20, 5), 64, 0), 24))
        assert module.model.is_gradient_checkpointing == recompute
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-6)
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], gradient)


def test_bfloat16_is_a_forward_over_float32_masters():
    module, engine = LogprobModel(family("llama")), Engine(dtype="bfloat16")
    engine.ready(module)
    exact = logprobs(module, Engine(packed=engine.packed))
    rounded = logprobs(module, engine)
    assert rounded.dtype == torch.float32
    assert 0 < float((exact - rounded).abs().max()) < 0.2
    assert all(p.dtype == torch.float32 for p in module.parameters())


def test_a_new_reward_head_is_trained_beside_adapters(model_dir: Path):
    module = ScoreModel(new_reward_model(model_dir, seed=0))
    Engine().ready(module, lora=LORA)
    assert module.model.score.weight.requires_grad


def test_ppo_with_adapters_holds_one_copy_and_starts_at_kl_zero(model_dir: Path, tmp_path: Path):
    def make() -> RlTrainer:
        torch.manual_seed(0)
        return RlTrainer(Ppo(PpoConfig.model_validate(UPDATE)), model_dir, reference_dir=model_dir, lora=LORA)

    trainer = make()
    assert trainer.models.reference is None
    first = trainer.step(rollouts(model_dir), policy_version=0).metrics
    second = trainer.step(rollouts(model_dir), policy_version=0).metrics
    assert first["objective/kl"] == pytest.approx(0.0, abs=1e-5)
    assert abs(second["objective/kl"]) > 1e-4
    trainer.export(tmp_path / "model")
    batch = rollouts(tmp_path / "model", version=1)
    assert trainer.step(batch, policy_version=1).metrics["mismatch/logprob_abs_mean"] < 1e-5
    base = load_causal_lm_dir(model_dir).state_dict()
    kept = {name.replace(".base_layer", ""): p for name, p in trainer.models.policy.state_dict().items()}
    assert all(torch.equal(kept[name], tensor) for name, tensor in base.items())


def test_shares_are_balanced_by_tokens():
    lengths = [50, 3, 40, 8, 12, 30, 1, 26]
    shares = Ranks(size=3).share(lengths)
    assert sorted(i for share in shares for i in share) == list(range(len(lengths)))
    loads = [sum(lengths[i] for i in share) for share in shares]
    assert max(loads) - min(loads) <= 5


def test_every_rank_gets_as_many_micro_batches():
    data = rows(60, 2, 2, 2)
    plans = [Engine(ranks=Ranks(rank, 3)).micro_batches(data, 64, 0) for rank in range(3)]
    assert {len(plan) for plan in plans} == {1}
    assert sorted(i for plan in plans for batch in plan for i in batch.rows) == [0, 1, 2, 3]
    lonely = [Engine(ranks=Ranks(rank, 3)).micro_batches(data[:1], 64, 0) for rank in range(3)]
    assert [plan[0].rows for plan in lonely] == [[0], [], []]
