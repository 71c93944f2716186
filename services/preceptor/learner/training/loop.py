"""The loop that sft, reward and dpo runs share: epochs of shuffled steps, evaluation, checkpoints, exact resume."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from preceptor.common.errors import FailedPrecondition
from preceptor.learner.models.engine import Engine, trained_state
from preceptor.learner.run_configs.base import OptimizerConfig, RunConfig
from preceptor.learner.training.checkpoints import CheckpointStore
from preceptor.learner.training.metrics_log import MetricsLog
from preceptor.learner.training.optimization import (
    build_optimizer,
    guarded_step,
    learning_rate,
    restore_rng,
    rng_state,
)
from preceptor.learner.training.profiling import StepProfiler
from preceptor.learner.types import Progress, ProgressCallback, Wishes

_MOST_SKIPPED = 20  # steps in succession without a finite gradient


class Task(Protocol):
    """What is trained: gradients of one optimiser step, and an evaluation."""

    model: nn.Module
    engine: Engine
    examples: int

    def accumulate(self, indexes: Sequence[int]) -> dict[str, float]:
        """Adds the gradients of the mean loss over examples `indexes`; returns metrics, "num_tokens" among them."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Returns held-out metrics, named eval/…; empty where nothing is held out."""
        ...


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how large. eval_every_steps None: at the end only."""

    epochs: int
    batch_size: int
    optimizer: OptimizerConfig
    eval_every_steps: int | None = None


class TrainingLoop:
    """Runs a Task to its end, or to where the callback asks to stop."""

    def __init__(
        self, task: Task, config: RunConfig, schedule: Schedule, run_dir: Path, progress: ProgressCallback | None
    ) -> None:
        self._task, self._config, self._schedule = task, config, schedule
        self._progress = progress or (lambda _: None)
        self._optimizer = build_optimizer([task.model], schedule.optimizer)
        self._rates = schedule.optimizer  # with the learning rate that holds now
        self._ranks = task.engine.ranks
        self._checkpoints = CheckpointStore(run_dir / "checkpoints", config.checkpoint, self._ranks)
        self._log = MetricsLog(run_dir, config=config) if self._ranks.leads else None
        self._profiler = StepProfiler(config.profile if self._ranks.leads else None, run_dir)
        self._steps_per_epoch = math.ceil(task.examples / schedule.batch_size)
        self.total_steps = schedule.epochs * self._steps_per_epoch
        self.step = 0
        self._tokens = 0
        self._skipped = 0
        self.last_metrics: dict[str, float] = {}

    def run(self) -> bool:
        """Trains; returns False if the callback asked to stop, after a checkpoint."""
        self._resume()
        try:
            while self.step < self.total_steps:
                with self._profiler(self.step + 1):
                    metrics = self._one_step()
                self._profiler.observe(self.step, metrics)
                wishes = self._wishes(Progress("train", self.step, self.total_steps, metrics))
                if wishes.checkpoint or wishes.stop or self.step % self._config.checkpoint.every_steps == 0:
                    self._save()
                while wishes.checkpoint:  # a paused run may be asked for more than one
                    self._checkpoints.settle()
                    wishes = self._wishes(Progress("checkpoint", self.step, self.total_steps))
                    if wishes.checkpoint or wishes.stop:
                        self._save()
                if wishes.stop and self.step < self.total_steps:
                    self._checkpoints.close()
                    return False
            self._save()
        finally:
            self._profiler.close()
            if self._log is not None:
                self._log.close()
        self._checkpoints.close()
        return True

    def _wishes(self, progress: Progress) -> Wishes:
        """What rank 0's callback asks for; another learning rate is taken over, and wants a checkpoint."""
        answer = self._progress(progress) if self._ranks.leads else None
        wishes = self._ranks.told(answer if isinstance(answer, Wishes) else Wishes(stop=answer is False))
        if wishes.learning_rate is None:
            return wishes
        self._rates = self._rates.model_copy(update={"learning_rate": wishes.learning_rate})
        return replace(wishes, checkpoint=True)

    def indexes(self, step: int) -> list[int]:
        """Returns the examples of optimiser step `step` (from 0): a slice of its epoch's permutation."""
        epoch, place = divmod(step, self._steps_per_epoch)
        generator = torch.Generator().manual_seed(self._config.seed * 1_000_003 + epoch)
        order = torch.randperm(self._task.examples, generator=generator)
        size = self._schedule.batch_size
        return order[place * size : (place + 1) * size].tolist()

    def _one_step(self) -> dict[str, float]:
        started = time.perf_counter()
        metrics = self._task.accumulate(self.indexes(self.step))
        tokens = metrics.pop("num_tokens")
        rate = learning_rate(self._rates, self.step, self.total_steps)
        norm = guarded_step(self._optimizer, rate=rate, max_grad_norm=self._schedule.optimizer.max_grad_norm)
        self.step += 1
        self._tokens += int(tokens)
        self._count_skipped(norm)
        seconds = time.perf_counter() - started
        metrics |= {
            "lr": rate,
            "grad_norm": norm,
            "epoch": self.step / self._steps_per_epoch,
            "num_tokens": float(self._tokens),
            "guard/skipped": 0.0 if math.isfinite(norm) else 1.0,
            "time/step_s": seconds,
            "tokens/per_second": tokens / seconds,
        }
        return self._reported(metrics)

    def _count_skipped(self, norm: float) -> None:
        self._skipped = 0 if math.isfinite(norm) else self._skipped + 1
        if self._skipped > _MOST_SKIPPED:
            raise FailedPrecondition(
                f"run {self._config.run_id} has diverged: no finite gradient in the {self._skipped} steps up to "
                f"{self.step}; lower optimizer.learning_rate and start again under another run_id",
                reason="DIVERGED",
            )

    def _reported(self, metrics: dict[str, float]) -> dict[str, float]:
        last = self.step == self.total_steps
        every = self._schedule.eval_every_steps
        evaluated = last or (every is not None and self.step % every == 0)
        if evaluated:
            metrics |= self._task.evaluate()
        is_due = evaluated or self.step % self._config.log_every_steps == 0
        if is_due and self._log is not None:
            self._log.write(self.step, metrics)
        self.last_metrics = metrics
        return metrics

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "tokens": self._tokens,
            "model": trained_state(self._task.model),
            "optimizer": self._optimizer.state_dict(),
            "rng": rng_state(),
            "metrics": self.last_metrics,
            "learning_rate": self._rates.learning_rate,
            "config": self._fingerprint(),
        }

    def _save(self) -> None:
        self._checkpoints.begin(self.step, self._state(), self.last_metrics)

    def _resume(self) -> None:
        state: dict[str, Any] | None = self._checkpoints.latest(self._state())
        if self._log is not None:
            self._log.rewind(0 if state is None else state["step"])
        if state is None:
            return
        if state["config"] != self._fingerprint():
            raise FailedPrecondition(
                f"run {self._config.run_id} has a checkpoint of another config or other data; "
                "take another run_id, or delete the run's directory to start again",
                field="run_id",
            )
        self._task.model.load_state_dict(state["model"], strict=False)
        self._optimizer.load_state_dict(state["optimizer"])
        rate = state.get("learning_rate", self._rates.learning_rate)
        self._rates = self._rates.model_copy(update={"learning_rate": rate})
        restore_rng(state["rng"])
        self.step, self._tokens, self.last_metrics = state["step"], state["tokens"], state["metrics"]

    def _fingerprint(self) -> str:
        free = {"threads", "device", "checkpoint", "log_every_steps", "engine", "profile", "wandb"}
        return f"{self._task.examples} {self._config.model_dump_json(exclude=free)}"
