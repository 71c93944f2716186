"""Supervised fine-tuning: config in, tuned Hugging Face directory out."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from preceptor.common.errors import InvalidInput
from preceptor.learner.data.supervised import load_supervised
from preceptor.learner.models.batching import TokenBatch, TokenRow, target_count
from preceptor.learner.models.engine import Engine
from preceptor.learner.models.forward import LogprobModel
from preceptor.learner.models.loading import context_length, load_causal_lm
from preceptor.learner.rl.logprobs import TokenLogprobs
from preceptor.learner.run_configs.sft import SftConfig
from preceptor.learner.training.export import export, prepare
from preceptor.learner.training.loop import Schedule, TrainingLoop
from preceptor.learner.types import Progress, ProgressCallback, RunResult


def run_sft(config: SftConfig, run_dir: Path, progress: ProgressCallback | None = None) -> RunResult:
    """Trains, evaluates and exports to run_dir/model; goes on from the last checkpoint where there is one.

    Raises:
      InvalidInput: model, tokenizer or data are not usable; the message names the field or the file and line.
      FailedPrecondition: run_dir holds a checkpoint of another config.
    """
    engine = prepare(config)
    model, tokenizer = load_causal_lm(config.model, seed=config.seed)
    train, held_out, skipped = _rows(config, model, tokenizer)
    task = SftTask(model, train, held_out, config, engine, pad_id=tokenizer.pad_token_id or 0)
    schedule = Schedule(config.epochs, config.batch_size, config.optimizer, config.eval_every_steps)
    loop = TrainingLoop(task, config, schedule, run_dir, progress)
    if not loop.run():
        return RunResult("", loop.step, loop.last_metrics, stopped=True)
    if progress:
        progress(Progress("export", loop.step, loop.total_steps))
    export(model, tokenizer, run_dir / "model", engine.ranks)
    return RunResult("model", loop.step, loop.last_metrics | {"data/rows_without_targets": float(skipped)})


class SftTask:
    """Next-token cross-entropy, mean over the target tokens of the step."""

    def __init__(
        self,
        model: PreTrainedModel,
        train: list[TokenRow],
        held_out: list[TokenRow],
        config: SftConfig,
        engine: Engine,
        *,
        pad_id: int,
    ) -> None:
        """Makes the model ready on the engine."""
        self.examples = len(train)
        self._train, self._held_out, self._config, self._pad_id = train, held_out, config, pad_id
        self.model, self.engine = LogprobModel(model), engine
        engine.ready(self.model, lora=config.lora, frozen=config.frozen)

    def accumulate(self, indexes: Sequence[int]) -> dict[str, float]:
        """Adds the gradients of the mean negative log-likelihood per target token; returns loss and counts."""
        rows = [self._train[i] for i in indexes]
        targets = sum(map(target_count, rows))
        total = 0.0
        for batch in self._batches(rows):
            loss = self._negative_logprobs(batch).sum() / max(1, targets)
            loss.backward()
            total += float(loss.detach())
        tokens = sum(len(row.token_ids) for row in rows)
        loss_sum = self.engine.ranks.sums({"loss": total})["loss"]
        return {"loss": loss_sum, "num_tokens": float(tokens), "num_target_tokens": float(targets)}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Returns eval/loss, mean negative log-likelihood per held-out target token, in nats."""
        if not self._held_out:
            return {}
        targets = sum(map(target_count, self._held_out))
        total = sum(float(self._negative_logprobs(batch).sum()) for batch in self._batches(self._held_out))
        return {"eval/loss": self.engine.ranks.sums({"loss": total})["loss"] / max(1, targets)}

    def _negative_logprobs(self, batch: TokenBatch) -> Tensor:
        with self.engine.precision():
            result: TokenLogprobs = self.model(batch)
        return -result.logprobs

    def _batches(self, rows: Sequence[TokenRow]) -> list[TokenBatch]:
        return self.engine.micro_batches(rows, self._config.micro_batch_tokens, self._pad_id)


def _rows(
    config: SftConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[TokenRow], list[TokenRow], int]:
    limit = context_length(model)
    if config.max_length > limit:
        raise InvalidInput(
            f"max_length {config.max_length} is beyond the model's context of {limit} tokens", field="max_length"
        )
    options = {"max_length": config.max_length, "completion_only": config.completion_only}
    loaded = load_supervised(config.data, tokenizer, **options)
    if config.eval_data:
        return loaded.rows, load_supervised(config.eval_data, tokenizer, **options).rows, loaded.without_targets
    generator = torch.Generator().manual_seed(config.seed)
    order = torch.randperm(len(loaded.rows), generator=generator).tolist()
    held_out = int(len(order) * config.eval_fraction)
    train = [loaded.rows[i] for i in sorted(order[held_out:])]
    return train, [loaded.rows[i] for i in order[:held_out]], loaded.without_targets
