"""The beginning and the end of a run: threads and seed; the exported directory."""

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from preceptor.learner.distributed.ranks import Ranks, this_rank
from preceptor.learner.models.adapters import has_adapters, merged_weights
from preceptor.learner.models.engine import Engine
from preceptor.learner.models.forward import pick_device
from preceptor.learner.models.loading import save_model
from preceptor.learner.run_configs.base import RunConfig
from preceptor.learner.training.checkpoints import write_json


def prepare(config: RunConfig) -> Engine:
    """Sets threads and seed; returns how models are run. Raises InvalidInput if the device is absent."""
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    ranks = this_rank(pick_device(config.device))
    return Engine(config.engine, ranks.device, config.dtype, ranks)


def export(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    ranks: Ranks,
    *,
    card: dict[str, Any] | None = None,
) -> None:
    """Writes a plain Hugging Face directory, and card.json if given: staged, then renamed into place.

    A collective call: the weights are gathered, rank 0 writes.
    """
    staged = directory.with_name(f".{directory.name}.staged")
    if ranks.leads:
        shutil.rmtree(staged, ignore_errors=True)
    export_model(model, tokenizer, staged, ranks)
    if not ranks.leads:
        return
    if card is not None:
        write_json(staged / "card.json", card)
    shutil.rmtree(directory, ignore_errors=True)
    staged.rename(directory)


def export_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path, ranks: Ranks) -> None:
    """Writes model and tokenizer to directory, adapters merged; a collective call, in which rank 0 writes."""
    state = None
    if ranks.size > 1 or has_adapters(model):
        state = {name: tensor for name, tensor in merged_weights(model) if ranks.leads}
    if ranks.leads:
        save_model(model, tokenizer, directory, state)
