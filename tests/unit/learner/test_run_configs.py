"""Run configs: what they refuse, and how paths are resolved."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from preceptor.learner import run_configs
from preceptor.learner.run_configs import ConfigModel, ModelSource, PpoConfig, RewardConfig, SftConfig, resolve_paths

SFT: dict[str, Any] = {"kind": "sft", "run_id": "x", "model": {"path": "m"}, "data": ["a.jsonl"]}
REWARD: dict[str, Any] = {
    "kind": "reward",
    "run_id": "x",
    "model": {"path": "m"},
    "data": [{"path": "a.jsonl", "format": "hh"}],
}


@pytest.mark.parametrize(
    ("model", "values", "field"),
    [
        (SftConfig, SFT | {"learning_rte": 1}, "learning_rte"),
        (SftConfig, SFT | {"run_id": "Upper Case"}, "run_id"),
        (SftConfig, SFT | {"data": []}, "data"),
        (SftConfig, SFT | {"max_length": 1}, "max_length"),
        (SftConfig, SFT | {"optimizer": {"betas": [0.9, 1.0]}}, "betas"),
        (SftConfig, SFT | {"model": {}}, "path"),
        (SftConfig, SFT | {"model": {"path": "m", "init": {"model_type": "llama"}}}, "exactly one"),
        (SftConfig, SFT | {"model": {"init": {"hidden_size": 8}, "tokenizer": "t"}}, "model_type"),
        (SftConfig, SFT | {"model": {"init": {"model_type": "llama"}}}, "tokenizer"),
        (RewardConfig, REWARD | {"data": [{"path": "a", "format": "csv"}]}, "format"),
        (RewardConfig, REWARD | {"label_smoothing": 0.5}, "label_smoothing"),
        (PpoConfig, {"batch_size": 10, "minibatches": 4}, "not a multiple"),
        (PpoConfig, {"kl": {"estimator": "k4"}}, "estimator"),
        (PpoConfig, {"gamma": 1.5}, "gamma"),
        (PpoConfig, {"temperature": 0}, "temperature"),
    ],
)
def test_a_wrong_field_is_refused_by_name(model: type[BaseModel], values: dict[str, Any], field: str):
    with pytest.raises(ValidationError, match=field):
        model.model_validate(values)


def test_relative_paths_are_resolved_and_uris_and_hub_ids_stay():
    config = RewardConfig.model_validate(
        REWARD | {"model": {"path": "hub:org/name"}, "data": [{"path": "sub/a.jsonl", "format": "rankings"}]}
    )
    resolved = resolve_paths(config, Path("/base"))
    assert resolved.data[0].path == "/base/sub/a.jsonl"
    assert resolved.model.path == "hub:org/name"
    sft = resolve_paths(SftConfig.model_validate(SFT | {"data": ["s3://b/x.jsonl", "/abs.jsonl"]}), Path("/base"))
    assert sft.data == ("s3://b/x.jsonl", "/abs.jsonl")
    assert sft.model == ModelSource(path="/base/m")
    assert sft.run_id == "x"


@pytest.mark.parametrize("name", [n for n in run_configs.__all__ if n[0].isupper()])
def test_every_field_is_described_and_frozen(name: str):
    model = getattr(run_configs, name)
    if not issubclass(model, ConfigModel):
        return
    assert model.model_config["frozen"]
    assert model.model_config["extra"] == "forbid"
    own = {field: info for field, info in model.model_fields.items() if field not in ("checkpoint",)}
    assert [field for field, info in own.items() if not info.description] == []


def test_run_configs_import_no_torch():
    code = "import sys, preceptor.learner.run_configs as _; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
