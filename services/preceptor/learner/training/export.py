"""The beginning and the end of a run: threads and seed; the exported directory."""

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from preceptor.learner.models.forward import pick_device
from preceptor.learner.models.loading import save_model
from preceptor.learner.run_configs.base import RunConfig
from preceptor.learner.training.checkpoints import write_json


def prepare(config: RunConfig) -> torch.device:
    """Sets threads and seed; returns the device. Raises InvalidInput if the device is absent."""
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    return pick_device(config.device)


def export(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    *,
    card: dict[str, Any] | None = None,
) -> None:
    """Writes a plain Hugging Face directory, and card.json if given: staged, then renamed into place."""
    staged = directory.with_name(f".{directory.name}.staged")
    shutil.rmtree(staged, ignore_errors=True)
    save_model(model, tokenizer, staged)
    if card is not None:
        write_json(staged / "card.json", card)
    shutil.rmtree(directory, ignore_errors=True)
    staged.rename(directory)
