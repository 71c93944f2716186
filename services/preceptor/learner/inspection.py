"""`--dry-run`: what a run would load, its length and its memory. Reads configs, tokenizers and data, no weights."""

import math
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from preceptor.common.errors import InvalidInput
from preceptor.learner.adapters.prompt_files import read_prompts
from preceptor.learner.algorithms.registry import algorithm_class
from preceptor.learner.data.preferences import load_labels, pairs_of
from preceptor.learner.data.supervised import encode_prompt, load_supervised
from preceptor.learner.models.loading import load_tokenizer
from preceptor.learner.models.memory import weights_bytes
from preceptor.learner.models.parts import critic_part, trained_part
from preceptor.learner.run_configs import DpoConfig, ModelSource, RewardConfig, SftConfig
from preceptor.learner.run_configs.base import HUB_PREFIX, RunConfig
from preceptor.learner.run_configs.rl import RlConfig
from preceptor.learner.run_file import AnyRunConfig

_PROMPTS_MEASURED = 512


def inspect_run(config: AnyRunConfig) -> dict[str, Any]:
    """JSON: kind, run_id, models {role: {path, parameters, context_tokens}}, data, steps, memory_bytes.

    memory_bytes is what weights, gradients and optimizer take, adapters and frozen parts considered, over all ranks
    together; a model's activation_bytes, of a full micro-batch on one rank, come on top.

    Raises:
        InvalidInput: a model directory or data file is missing or broken; names the field, or the file and line.
    """
    if isinstance(config, SftConfig):
        found = _sft(config)
    elif isinstance(config, RewardConfig):
        found = _reward(config)
    elif isinstance(config, DpoConfig):
        found = _dpo(config)
    else:
        found = _rl(config)
    return {"kind": config.kind, "run_id": config.run_id, "device": config.device, "dtype": config.dtype, **found}


def _sft(config: SftConfig) -> dict[str, Any]:
    model = _described(config.model, "model", config)
    tokenizer = load_tokenizer(config.model.tokenizer or str(config.model.path))
    rows = load_supervised(config.data, tokenizer, max_length=config.max_length, completion_only=config.completion_only)
    held_out = 0 if config.eval_data else int(len(rows.rows) * config.eval_fraction)
    train = len(rows.rows) - held_out
    return {
        "models": {"model": model},
        "data": {"rows": len(rows.rows), "train": train, "rows_without_targets": rows.without_targets},
        "steps": config.epochs * math.ceil(train / config.batch_size),
        "memory_bytes": _memory(model),
    }


def _reward(config: RewardConfig) -> dict[str, Any]:
    model = _described(config.model, "model", config)
    labels = load_labels(config.data)
    train = round(len(labels.comparisons) * (1 - config.eval_fraction))
    return {
        "models": {"model": model},
        "data": {
            "comparisons": len(labels.comparisons),
            "rankings": labels.rankings,
            "odd_rows": len(labels.odd_rows),
        },
        "steps": config.epochs * math.ceil(train / config.batch_size),
        "memory_bytes": _memory(model),
    }


def _dpo(config: DpoConfig) -> dict[str, Any]:
    model = _described(config.model, "model", config)
    models = {"model": model}
    if config.reference is not None:
        models["reference"] = _described(ModelSource(path=config.reference), "reference")
    labels = load_labels(config.data)
    untied = [sum(p.target != 0.5 for r in c.rankings for p in pairs_of(r)) for c in labels.comparisons]
    train = round(sum(untied) * (1 - config.eval_fraction))
    return {
        "models": models,
        "data": {"comparisons": len(untied), "pairs": sum(untied), "odd_rows": len(labels.odd_rows)},
        "steps": config.epochs * math.ceil(train / config.batch_size),
        # The reference is there before the first step only, when gradients and moments are not.
        "memory_bytes": _memory(model),
    }


def _rl(config: RlConfig) -> dict[str, Any]:
    policy = _described(ModelSource(path=config.model), "model", config)
    reference = _described(ModelSource(path=config.reference or config.model), "reference")
    needs = algorithm_class(config.algorithm)(config.update).needs()
    switches_adapters = config.lora is not None and config.reference is None
    models = {"policy": {**policy, "trained": True}}
    if needs.reference:
        loaded = "the policy, its adapters switched off" if switches_adapters else reference["path"]
        models["reference"] = {**reference, "trained": False, "loaded_from": loaded}
    if needs.critic:
        models["critic"] = {**_critic(config), "trained": True}
    prompts = _prompts(config, policy["context_tokens"])
    return {
        "algorithm": {"name": config.algorithm, "settings": config.update.model_dump(mode="json")},
        "models": models,
        "reward": {"name": config.reward_name or "(the current one)", **config.reward.model_dump(exclude={"name"})},
        "data": prompts,
        "steps": config.total_steps,
        "rollouts": config.total_steps * config.batch_size,
        "epochs_of_prompts": config.total_steps * config.groups_per_batch / prompts["prompts"],
        "issued_ahead": (config.max_staleness + 1) * config.batch_size,
        "optimizer_steps": config.total_steps * config.update.epochs * config.update.minibatches,
        "memory_bytes": _rl_memory(models, switches_adapters=switches_adapters),
    }


def _critic(config: RlConfig) -> dict[str, Any]:
    if config.critic_init is None:
        policy = _described(ModelSource(path=config.model), "model", critic_part(config))
        return {**policy, "loaded_from": f"{policy['path']} (trunk; the head starts at 0)"}
    found = _described(ModelSource(path=config.critic_init), "critic_init", critic_part(config))
    return {**found, "loaded_from": f"{found['path']} (trunk and head)"}


def _rl_memory(models: dict[str, dict[str, Any]], *, switches_adapters: bool) -> int:
    trained = [model for role, model in models.items() if role != "reference"]
    frozen = 0 if switches_adapters or "reference" not in models else models["reference"]["parameters"]
    return sum(map(_memory, trained)) + weights_bytes(0, frozen)


def _prompts(config: RlConfig, context_tokens: int | None) -> dict[str, Any]:
    """Counts prompts and measures the first ones; a prompt that leaves no room for max_tokens is an error."""
    records = read_prompts(config.prompts)
    tokenizer = load_tokenizer(config.model, field="model")
    longest = 0
    for record in records[:_PROMPTS_MEASURED]:
        content = record.content
        turns = content if isinstance(content, str) else [{"role": r, "content": c} for r, c in content]
        tokens = len(encode_prompt(tokenizer, turns))
        longest = max(longest, tokens)
        if context_tokens is not None and tokens + config.sampling.max_tokens > context_tokens:
            raise InvalidInput(
                f"prompt {record.prompt_id} has {tokens} tokens; with sampling.max_tokens {config.sampling.max_tokens} "
                f"it exceeds the model's context of {context_tokens}",
                field="prompts",
            )
    return {"prompts": len(records), "longest_prompt_tokens": longest}


def _described(source: ModelSource, field: str, run: RunConfig | None = None) -> dict[str, Any]:
    """run: the run that trains this model, with its adapters and frozen parts; None: a model that is not trained so."""
    if source.init is not None:
        settings = dict(source.init)
        config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        path = f"new {config.model_type}"
    else:
        path = str(source.path)
        config = _read_config(path, field)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    found = {
        "path": path,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "context_tokens": getattr(config.get_text_config(), "max_position_embeddings", None),
    }
    return found if run is None else found | trained_part(model, run)


def _read_config(path: str, field: str) -> Any:
    name = path.removeprefix(HUB_PREFIX).removeprefix("file://")
    local = not path.startswith(HUB_PREFIX)
    if local and not (Path(name) / "config.json").is_file():
        raise InvalidInput(f"{field}: no Hugging Face model directory at {name}", field=field)
    try:
        return AutoConfig.from_pretrained(name, local_files_only=local)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{field}: {str(error).splitlines()[0]}", field=field) from error


def _memory(model: dict[str, Any]) -> int:
    trained: int = model.get("trained_parameters", model["parameters"])
    added: int = model.get("adapter_parameters", 0)
    return weights_bytes(trained, model["parameters"] + added - trained)
