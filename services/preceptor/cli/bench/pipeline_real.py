"""A real generator and a real learner on cores of their own, synchronous and streaming."""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from preceptor.cli.bench.models import CONTEXT_TOKENS, random_text
from preceptor.cli.bench.pipeline_parts import LightParts, start_light_parts, write_config
from preceptor.cli.bench.processes import BenchProcess, ServiceProcess, service_env
from preceptor.cli.stack.cores import format_cores
from preceptor.common.errors import FailedPrecondition, InternalError
from preceptor.common.waiting import wait_until

GROUP = 4
_TURNS = 4
SKIPPED = 4
"""Steps of each phase that fill the pipeline and do not count."""
_RUN_TIMEOUT_S = 420.0
_PROMPT_WORDS = 16
_PROMPTS = 256


@dataclass(frozen=True, slots=True)
class Cores:
    """Disjoint, equal core sets of generator and learner."""

    generator: Sequence[int]
    learner: Sequence[int]


def split_cores(cores: Sequence[int]) -> Cores:
    """The first half for the generator, as many for the learner; an odd core out is left to the light services.

    Raises:
        FailedPrecondition: there is one core only.
    """
    half = len(cores) // 2
    if not half:
        raise FailedPrecondition("bench pipeline needs two cores: one for the generator, one for the learner")
    return Cores(cores[:half], cores[half : 2 * half])


@dataclass(frozen=True, slots=True)
class Shape:
    """What a step does.

    The generator writes a batch in 4 turns of `width` completions each. A turn of few completions costs about the same
    whatever their number, and the learner's step is in proportion to it: `width` and `epochs` set the two in relation.
    """

    width: int
    epochs: int
    tokens: int

    @property
    def batch_size(self) -> int:
        return _TURNS * self.width


@dataclass(frozen=True, slots=True)
class Phase:
    """Some steps in one mode, the first few left out: what one step took, and what of it was waiting for rollouts."""

    step_s: float
    wait_s: float
    rollouts: int

    @property
    def work_s(self) -> float:
        """The learner's own share of a step."""
        return self.step_s - self.wait_s

    @property
    def waiting_share(self) -> float:
        return self.wait_s / self.step_s


class RealRun:
    """One run whose generator stays up while its learner is started once per phase, each going on from the last.

    Args:
        folder: for everything the run writes.
        light: Redis, reward server and rollout worker.
        model: the policy's folder.
        run_id: of the run; its shape's width is the same in all phases.
        cores: of the two sides, the same in both modes.
    """

    def __init__(self, folder: Path, light: LightParts, model: Path, run_id: str, cores: Cores) -> None:
        self._folder = folder
        self._light = light
        self._model = model
        self._run_id = run_id
        self._cores = cores
        self._steps = 0

    @contextmanager
    def generator(self, shape: Shape) -> Iterator[None]:
        """The run's generator: it works at the same width in both modes."""
        settings = {
            **self._common(self._cores.generator),
            "run_id": self._run_id,
            "max_num_seqs": shape.width,
            "max_model_len": CONTEXT_TOKENS,
            "kv_cache_gib": 1.0,
            "watch_interval_s": 0.2,
        }
        with ServiceProcess("generation", self._folder, settings) as process:
            yield
            process.check_alive()

    def phase(self, shape: Shape, *, max_staleness: int, steps: int) -> Phase:
        """Runs the learner for so many more steps and returns what the later ones took."""
        first = self._steps + SKIPPED + 1
        self._steps += SKIPPED + steps
        path = self._folder / f"{self._run_id}.yaml"
        config = write_config(path, run_config(self._run_id, self._model, shape, max_staleness, self._steps))
        log_path = self._folder / f"{self._run_id}-{self._steps}.log"
        settings = {**self._common(self._cores.learner), "port": 0, "metrics_port": 0}
        settings |= {"reward_address": self._light.reward_address, "drain_timeout_s": 0.2}
        env = service_env("learner", settings)
        with BenchProcess("preceptor.learner", env, log_path, arguments=[str(config)]) as learner:
            wait_until(lambda: learner.process.poll() is not None, _RUN_TIMEOUT_S, "the learner to end")
            if learner.process.returncode:
                learner.check_alive()
        return phase_of(self._metrics(first), shape.batch_size)

    def _common(self, cores: Sequence[int]) -> dict[str, object]:
        return {
            "redis_url": self._light.redis_url,
            "artifacts_url": self._folder.as_uri(),
            "cpu_cores": format_cores(list(cores)),
            "threads": len(cores),
            "log_level": "WARNING",
        }

    def _metrics(self, first: int) -> list[dict[str, Any]]:
        path = self._folder / "runs" / self._run_id / "metrics.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [row for row in rows if row["step"] >= first - 1]


def run_config(run_id: str, model: Path, shape: Shape, max_staleness: int, total_steps: int) -> dict[str, Any]:
    """The learner's config of one phase."""
    rng = random.Random(0)
    return {
        "kind": "rl",
        "run_id": run_id,
        "model": str(model),
        "prompts": {"items": [random_text(_PROMPT_WORDS, rng) for _ in range(_PROMPTS)]},
        "reward": {"name": "bench"},
        "batch_size": shape.batch_size,
        "group_size": GROUP,
        "total_steps": total_steps,
        "in_flight": "fixed",
        "max_staleness": max_staleness,
        "sampling": {"max_tokens": shape.tokens},
        "ppo": {"epochs": shape.epochs, "total_updates": 1_000_000, "optimizer": {"learning_rate": 1e-7}},
        "checkpoint": {"every_steps": 10},
    }


def phase_of(rows: Sequence[dict[str, Any]], batch_size: int) -> Phase:
    """From lines of metrics.jsonl, of which the first only says when the rest began. Means over the steps.

    Raises:
        InternalError: there are too few.
    """
    if len(rows) < 2:
        raise InternalError(f"a phase of the bench left {len(rows)} lines of metrics")
    steps = len(rows) - 1
    step_s = (rows[-1]["time"] - rows[0]["time"]) / steps
    wait_s = statistics.fmean(row["metrics"].get("phase/wait_s", 0.0) for row in rows[1:])
    return Phase(step_s, wait_s, steps * batch_size)


def calibrated(one: Phase, three: Phase, shape: Shape, *, learner_over_generator: float = 1.0) -> Shape:
    """The shape at which the learner's step takes so many times as long as the generator's batch.

    Args:
        one: synchronous steps of `shape`, whose epochs are 1.
        three: the same with 3 epochs.
        shape: what they ran.
        learner_over_generator: what is wanted.
    """
    epoch_s = max(1e-3, (three.work_s - one.work_s) / 2)
    fixed_s = max(0.0, one.work_s - epoch_s)
    wanted_s = learner_over_generator * (one.wait_s + three.wait_s) / 2
    epochs = max(1, round((wanted_s - fixed_s) / epoch_s))
    return scaled(replace(shape, epochs=epochs), wanted_s / (fixed_s + epochs * epoch_s))


def scaled(shape: Shape, factor: float) -> Shape:
    """The shape with so many times its width."""
    return replace(shape, width=max(1, round(shape.width * factor)))


@contextmanager
def real_parts(folder: Path) -> Iterator[LightParts]:
    """Redis, reward server and one rollout worker."""
    with ExitStack() as stack:
        yield start_light_parts(folder, stack, workers=1, concurrency=32)
