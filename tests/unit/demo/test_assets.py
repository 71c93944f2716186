"""What a demo starts from: reproducible files that the parts they are for accept."""

import json
from pathlib import Path

import pytest
import yaml

from preceptor.common.yaml_config import parse_yaml
from preceptor.conductor.loop_config import LoopConfig, plan
from preceptor.demo.assets import Assets, build_assets, reward_config, rl_config, sft_config
from preceptor.demo.profiles import PROFILES
from preceptor.learner.run_configs import RewardConfig, SftConfig
from preceptor.learner.run_configs.rl import RlConfig

SMALL = PROFILES["ci"].__class__(
    name="tiny", corpus_size=600, comparisons=10, label_targets=(10, 20), rl_steps=(1, 2), live_share=0.5
)


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Assets:
    return build_assets(tmp_path_factory.mktemp("assets"), SMALL, seed=5)


def test_corpus_and_prompts_are_jsonl_without_overlap(assets: Assets) -> None:
    rows = [json.loads(line) for line in assets.corpus.read_text().splitlines()]
    assert len(rows) == 600
    assert all(row["completion"].startswith(" ") for row in rows)
    held_out = assets.read_held_out()
    assert len(held_out) == SMALL.held_out_prompts
    assert not set(held_out) & {row["prompt"] for row in rows}


def test_the_tokenizer_is_lossless_and_its_special_tokens_are_three(assets: Assets) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(assets.model_init)
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3
    for text in (" Hello Anna, ümläut 🙂.", "Anna: My kettle leaks.\nReply:", " A  double space"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    row = json.loads(assets.corpus.read_text().splitlines()[0])
    whole = tokenizer(row["prompt"] + row["completion"]).input_ids
    assert whole == tokenizer(row["prompt"]).input_ids + tokenizer(row["completion"]).input_ids


def test_the_untrained_model_has_about_a_million_parameters(assets: Assets) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(assets.model_init)
    assert 0.7e6 < sum(p.numel() for p in model.parameters()) < 1.3e6
    assert model.config.tie_word_embeddings


def test_the_same_seed_builds_the_same_files(assets: Assets, tmp_path: Path) -> None:
    again = build_assets(tmp_path, SMALL, seed=5)
    for name in ("corpus.jsonl", "prompts_train.jsonl", "model_init/model.safetensors", "model_init/tokenizer.json"):
        assert (again.directory / name).read_bytes() == (assets.directory / name).read_bytes(), name


@pytest.mark.parametrize("profile", list(PROFILES.values()), ids=lambda p: p.name)
def test_every_config_is_one_that_the_learner_takes(profile, assets: Assets) -> None:  # type: ignore[no-untyped-def]
    SftConfig.model_validate({**sft_config(assets, profile, 0), "run_id": "a", "kind": "sft"})
    extra = {"run_id": "a", "kind": "reward", "model": {"path": "m"}, "data": [{"path": "d", "format": "rankings"}]}
    RewardConfig.model_validate({**reward_config(profile, 0), **extra})
    rl = rl_config(profile, 0)
    rl["feedback"]["project"] = "demo"
    extra = {"run_id": "a", "kind": "rl", "model": "m", "critic_init": "r", "prompts": {"path": "p"}, "total_steps": 9}
    config = RlConfig.model_validate({**rl, **extra})
    assert config.feedback.share + config.feedback.control_share == pytest.approx(profile.live_share)


def test_the_loop_config_is_one_that_the_conductor_takes(assets: Assets) -> None:
    config = parse_yaml(assets.loop_yaml.read_text(), LoopConfig)
    assert [s.name for s in plan(config)][-1] == "rl-2"


def test_without_rl_there_is_no_rl_stage(tmp_path: Path) -> None:
    made = build_assets(tmp_path, SMALL, seed=5, rl=False)
    config = parse_yaml(made.loop_yaml.read_text(), LoopConfig)
    assert not any(s.name.startswith("rl") for s in plan(config))
    assert config.reward.gate.min_heldout_accuracy == SMALL.min_heldout_accuracy
    assert yaml.safe_load(made.loop_yaml.read_text())["labels"]["targets"] == [10, 20]
