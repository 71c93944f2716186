"""FLOPs by hand, the profiler's files, curves to Weights & Biases only where its package is."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from preceptor.common.errors import FailedPrecondition
from preceptor.learner.models.loading import load_causal_lm_dir
from preceptor.learner.run_configs.base import ProfileConfig, RunConfig
from preceptor.learner.training.metrics_log import MetricsLog
from preceptor.learner.training.perf import ModelShape, PerfMeter, peak_flops
from preceptor.learner.training.profiling import StepProfiler, phase_table


def test_flops_by_hand(model_dir: Path):
    model = load_causal_lm_dir(model_dir)  # 2 layers, hidden 32, tied embeddings
    shape = ModelShape.of(model)
    assert shape == ModelShape(model.num_parameters(), 2, 32)
    per_token = 2 * model.num_parameters() + 4 * 2 * 32 * 10 / 2
    assert shape.forward_flops(100, 10) == pytest.approx(100 * per_token)


def test_a_step_costs_its_passes():
    shape = ModelShape(1000, 0, 0)
    metrics = {"tokens/prompt": 20.0, "tokens/completion": 80.0, "time/step_s": 0.5, "phase/all_s": 2.0}
    batch = SimpleNamespace(experiences=[None] * 10)
    found = PerfMeter((shape, shape), (5.0, 4.0), 1e7).step_done(1, 1, batch, metrics)
    assert found["perf/model_tflops"] == pytest.approx(9 * 100 * 2000 / 0.5 / 1e12)
    assert found["perf/mfu"] == pytest.approx(9 * 100 * 2000 / 0.5 / 1e7)
    assert (found["perf/throughput"], found["perf/time_per_step"]) == (50.0, 2.0)
    assert "perf/mfu" not in PerfMeter((shape,), (1.0,), None).step_done(1, 1, batch, metrics)


def test_a_cpu_has_no_peak_that_is_known():
    assert peak_flops(torch.device("cpu"), "float32") is None


def test_profiler_writes_trace_operators_and_phases(tmp_path: Path):
    profiler = StepProfiler(ProfileConfig(steps=(2, 3)), tmp_path)
    for step in range(1, 5):
        with profiler(step):
            torch.randn(8, 8) @ torch.randn(8, 8)
        profiler.observe(step, {"phase/train_s": 0.5 * step, "time/update_s": 0.25, "loss": 1.0})
    trace = json.loads((tmp_path / "profile" / "trace.json").read_text())
    names = {event.get("name") for event in trace["traceEvents"]}
    assert {"step 2", "step 3"} <= names
    assert "step 1" not in names
    assert "aten::mm" in (tmp_path / "profile" / "operators.txt").read_text()
    table = (tmp_path / "profile" / "phases.txt").read_text().splitlines()
    assert table[1].split() == ["phase/train_s", "2", "1.2500", "2.5000"]
    assert "loss" not in "".join(table)


def test_no_profile_is_asked_for(tmp_path: Path):
    profiler = StepProfiler(None, tmp_path)
    with profiler(1):
        pass
    profiler.observe(1, {"phase/train_s": 1.0})
    profiler.close()
    assert list(tmp_path.iterdir()) == []
    assert phase_table({}).startswith("phase")


@pytest.mark.parametrize("steps", [(0, 1), (3, 2), (1, 200)])
def test_profiled_steps_are_checked(steps):
    with pytest.raises(ValueError, match=r"profile\.steps must be"):
        ProfileConfig(steps=steps)


def test_missing_wandb_is_said_clearly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = RunConfig.model_validate({"run_id": "r", "wandb": {"project": "p"}})
    with pytest.raises(FailedPrecondition, match="the package `wandb` is not installed"):
        MetricsLog(tmp_path, tensorboard=False, config=config)


def test_wandb_gets_every_line_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls: list[tuple] = []
    run = SimpleNamespace(
        log=lambda metrics, step: calls.append((step, metrics)), finish=lambda: calls.append(("finish",))
    )
    fake = SimpleNamespace(init=lambda **options: calls.append((options["project"], options["id"])) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    log = MetricsLog(
        tmp_path, tensorboard=False, config=RunConfig.model_validate({"run_id": "r", "wandb": {"project": "p"}})
    )
    log.write(3, {"loss": 1.0})
    log.close()
    assert calls == [("p", "r"), (3, {"loss": 1.0}), ("finish",)]
