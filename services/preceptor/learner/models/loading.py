"""Loads and saves Hugging Face models and tokenizers; dropout is off everywhere."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from preceptor.common.errors import InvalidInput
from preceptor.learner.run_configs.base import HUB_PREFIX, ModelSource

# Progress bars and load reports per model tell the reader of a learner's log nothing; what goes wrong is raised.
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()


def load_tokenizer(path: str | Path, *, field: str = "model.tokenizer") -> PreTrainedTokenizerBase:
    """Returns the tokenizer of a Hugging Face directory (or `hub:org/name`).

    Raises:
      InvalidInput: there is no such directory or no tokenizer in it.
    """
    name, options = _source(path, field, needs="tokenizer_config.json")
    try:
        return AutoTokenizer.from_pretrained(name, **options)
    except (OSError, ValueError, KeyError) as error:
        raise InvalidInput(
            f"{field}: no tokenizer could be loaded from {path}: {_first_line(error)}", field=field
        ) from error


def load_causal_lm(source: ModelSource, *, seed: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Returns a float32 causal language model and its tokenizer, from a directory or drawn anew from a config.

    Raises:
      InvalidInput: the directory is missing, incomplete or no causal language model; the config is not valid.
    """
    if source.path is not None:
        tokenizer = load_tokenizer(source.tokenizer or source.path)
        return load_causal_lm_dir(source.path), tokenizer
    if source.init is None or source.tokenizer is None:
        raise InvalidInput("model: give `path`, or `init` with `tokenizer`", field="model")
    tokenizer = load_tokenizer(source.tokenizer)
    return _new_causal_lm(source.init, tokenizer, seed), tokenizer


def load_causal_lm_dir(path: str | Path, *, field: str = "model.path") -> PreTrainedModel:
    """Returns the causal language model in path, float32, dropout off. Raises InvalidInput as load_causal_lm."""
    return _load(AutoModelForCausalLM, path, field)


def load_scalar_model(path: str | Path, *, field: str = "model.path") -> PreTrainedModel:
    """Returns trunk + scalar head (`.score`, no bias): of a reward model directory, or a causal LM's trunk with a head
    drawn from the global RNG. Raises InvalidInput as load_causal_lm.
    """
    model = _load(AutoModelForSequenceClassification, path, field, num_labels=1)
    if not isinstance(getattr(model, "score", None), nn.Linear):
        raise InvalidInput(
            f"{field}: {type(model).__name__} has no linear `score` head; use another model", field=field
        )
    return model


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    state: dict[str, torch.Tensor] | None = None,
) -> None:
    """Writes a plain Hugging Face directory (safetensors + tokenizer); state: the weights, if not the model's own."""
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory, state_dict=state, safe_serialization=True)
    tokenizer.save_pretrained(directory)


def context_length(model: PreTrainedModel) -> int:
    """Returns the longest sequence the model was made for, in tokens; a very large number if it does not say."""
    for name in ("max_position_embeddings", "n_positions"):
        length = getattr(model.config.get_text_config(), name, None)
        if isinstance(length, int) and length > 0:
            return length
    return 1 << 30


def _load(factory: Any, path: str | Path, field: str, **extra: Any) -> PreTrainedModel:
    name, options = _source(path, field, needs="config.json")
    try:
        config = AutoConfig.from_pretrained(name, **options, **extra)
        _without_dropout(config)
        model = factory.from_pretrained(name, config=config, dtype=torch.float32, **options)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InvalidInput(
            f"{field}: no model could be loaded from {path}: {_first_line(error)}", field=field
        ) from error
    return model.train()


def _new_causal_lm(init: dict[str, Any], tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    fields = {"vocab_size": len(tokenizer), **special, "pad_token_id": tokenizer.pad_token_id, **init}
    model_type = fields.pop("model_type")
    try:
        config = AutoConfig.for_model(model_type, **fields)
        _without_dropout(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InvalidInput(f"model.init is no valid config: {_first_line(error)}", field="model.init") from error
    if config.vocab_size < len(tokenizer):
        raise InvalidInput(
            f"model.init.vocab_size {config.vocab_size} is below the tokenizer's {len(tokenizer)}",
            field="model.init.vocab_size",
        )
    return model.train()


def _without_dropout(config: PretrainedConfig) -> None:
    for name, value in list(vars(config).items()):
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)


def _source(path: str | Path, field: str, *, needs: str) -> tuple[str, dict[str, Any]]:
    text = str(path)
    if text.startswith(HUB_PREFIX):
        return text.removeprefix(HUB_PREFIX), {}
    directory = Path(text.removeprefix("file://"))
    if not directory.is_dir():
        raise InvalidInput(f"{field}: {directory} is not a directory", field=field)
    if not (directory / needs).is_file():
        raise InvalidInput(f"{field}: {directory} is no Hugging Face directory: {needs} is missing", field=field)
    return str(directory), {"local_files_only": True}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
