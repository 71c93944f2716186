"""Direct preference optimisation: config in, tuned Hugging Face directory out."""

from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from preceptor.common.errors import InvalidInput
from preceptor.learner.data.pairs import TokenPair, encode_pairs
from preceptor.learner.data.preferences import Labels, load_labels
from preceptor.learner.models.engine import Engine
from preceptor.learner.models.forward import LogprobModel
from preceptor.learner.models.loading import context_length, load_causal_lm, load_causal_lm_dir
from preceptor.learner.run_configs.dpo import DpoConfig
from preceptor.learner.training.dpo_task import DpoTask, PairScorer
from preceptor.learner.training.export import export, prepare
from preceptor.learner.training.loop import Schedule, TrainingLoop
from preceptor.learner.training.reward import split_by_prompt
from preceptor.learner.types import Progress, ProgressCallback, RunResult


def run_dpo(config: DpoConfig, run_dir: Path, progress: ProgressCallback | None = None) -> RunResult:
    """Trains, evaluates and exports to run_dir/model; goes on from the last checkpoint where there is one.

    Raises:
      InvalidInput: model, tokenizer or data are not usable; the message names the field or the file and line.
      FailedPrecondition: run_dir holds a checkpoint of another config.
    """
    engine = prepare(config)
    model, tokenizer = load_causal_lm(config.model, seed=config.seed)
    policy = LogprobModel(model)
    engine.ready(policy, lora=config.lora, frozen=config.frozen)
    labels = load_labels(config.data)
    train, held_out = _pairs(config, labels, model, tokenizer)
    pad_id = tokenizer.pad_token_id or 0
    if progress:
        progress(Progress("reference", 0, 0))
    references = _references(config, policy, engine, (train, held_out), pad_id)
    task = DpoTask(policy, train, held_out, references, config, engine, pad_id=pad_id)
    schedule = Schedule(config.epochs, config.batch_size, config.optimizer, config.eval_every_steps)
    loop = TrainingLoop(task, config, schedule, run_dir, progress)
    if not loop.run():
        return RunResult("", loop.step, loop.last_metrics, stopped=True)
    if progress:
        progress(Progress("export", loop.step, loop.total_steps))
    export(model, tokenizer, run_dir / "model", engine.ranks)
    counts = {"data/pairs": float(len(train)), "data/odd_rows": float(len(labels.odd_rows))}
    return RunResult("model", loop.step, loop.last_metrics | counts)


def _pairs(
    config: DpoConfig, labels: Labels, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[TokenPair], list[TokenPair]]:
    """Returns (train, held out); rows that are too long join labels.odd_rows."""
    max_length = min(config.max_length, context_length(model))
    parts: list[list[TokenPair]] = []
    for comparisons in split_by_prompt(labels.comparisons, config.eval_fraction, config.seed):
        pairs, odd = encode_pairs(comparisons, tokenizer, max_length=max_length)
        parts.append(pairs)
        labels.odd_rows += odd
    if not parts[0]:
        raise InvalidInput(
            f"no pair is left to train on: {len(labels.comparisons)} comparisons in the files, eval_fraction "
            f"{config.eval_fraction}, {len(labels.odd_rows)} rows left out (max_length {max_length}); a tie is no pair",
            field="data",
        )
    return parts[0], parts[1]


def _references(
    config: DpoConfig,
    policy: LogprobModel,
    engine: Engine,
    parts: tuple[list[TokenPair], list[TokenPair]],
    pad_id: int,
) -> tuple[Tensor, Tensor]:
    """Returns the reference's logprobs [P, 2] of both parts. The policy has its starting weights still."""
    reference = policy
    if config.reference is not None:
        reference = LogprobModel(load_causal_lm_dir(config.reference, field="reference"))
        engine.ready(reference, trained=False)
        sizes = [one.model.config.get_text_config().vocab_size for one in (policy, reference)]
        if sizes[0] != sizes[1]:
            raise InvalidInput(
                f"reference has a vocabulary of {sizes[1]}, the model one of {sizes[0]}; they must share a tokenizer",
                field="reference",
            )
    scorer = PairScorer(reference, engine, micro_batch_tokens=config.micro_batch_tokens, pad_id=pad_id)
    first, second = (scorer.all_logprobs(pairs) for pairs in parts)
    if not bool(torch.isfinite(torch.cat([first, second])).all()):
        raise InvalidInput("reference: its log-probs of the pairs are not finite", field="reference")
    return first, second
