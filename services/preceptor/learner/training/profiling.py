"""torch's profiler over some steps of a run, and a table of where their time went."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from preceptor.common.telemetry import get_logger
from preceptor.learner.run_configs.base import ProfileConfig

log = get_logger(__name__)
_OPERATORS = 40
_PHASES = ("phase/", "time/")


class StepProfiler:
    """Writes profile/trace.json (Chrome format), profile/operators.txt and profile/phases.txt of a run's folder."""

    def __init__(self, config: ProfileConfig | None, run_dir: Path) -> None:
        self._steps = range(0) if config is None else range(config.steps[0], config.steps[1] + 1)
        self._folder = run_dir / "profile"
        self._profile: profile | None = None
        self._seconds: dict[str, list[float]] = {}

    @contextmanager
    def __call__(self, step: int) -> Iterator[None]:
        """Around the update of step n (from 1)."""
        if step not in self._steps:
            yield
            return
        if self._profile is None:
            self._profile = self._started()
        with record_function(f"step {step}"):
            yield
        if step == self._steps[-1]:
            self._export()

    def rewind(self, step: int) -> None:
        """Remembers nothing of earlier processes."""

    def started(self, step: int, policy_version: int) -> None:
        """Nothing to do."""

    def step_done(self, step: int, policy_version: int, batch: Any, metrics: Mapping[str, float]) -> dict[str, float]:
        """Takes in a step's phase times; writes the table after the last one."""
        self.observe(step, metrics)
        return {}

    def observe(self, step: int, metrics: Mapping[str, float]) -> None:
        """As step_done, of runs without batches."""
        if step not in self._steps:
            return
        for name, value in metrics.items():
            if name.startswith(_PHASES) and name.endswith("_s"):
                self._seconds.setdefault(name, []).append(value)
        if step == self._steps[-1]:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / "phases.txt").write_text(phase_table(self._seconds))

    def close(self) -> None:
        """A run that ends within the steps leaves what there is."""
        if self._profile is not None:
            self._export()

    def _started(self) -> profile:
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        started = profile(activities=activities)
        started.start()
        return started

    def _export(self) -> None:
        if self._profile is None:
            return
        taken, self._profile = self._profile, None
        taken.stop()
        self._folder.mkdir(parents=True, exist_ok=True)
        taken.export_chrome_trace(str(self._folder / "trace.json"))
        order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = taken.key_averages().table(sort_by=order, row_limit=_OPERATORS)
        (self._folder / "operators.txt").write_text(table + "\n")
        log.info("profile written", folder=str(self._folder), steps=[self._steps[0], self._steps[-1]])


def phase_table(seconds: Mapping[str, list[float]]) -> str:
    """A line per phase, longest first: phase/… of the run's step, then time/… of the update in it."""
    lines = [f"{'phase':<32} {'steps':>6} {'mean_s':>10} {'total_s':>10}"]
    for prefix in _PHASES:
        found = [(name, values) for name, values in seconds.items() if name.startswith(prefix)]
        rows = sorted(found, key=lambda row: -sum(row[1]))
        lines += [
            f"{name:<32} {len(values):>6} {sum(values) / len(values):>10.4f} {sum(values):>10.4f}"
            for name, values in rows
        ]
    return "\n".join(lines) + "\n"
