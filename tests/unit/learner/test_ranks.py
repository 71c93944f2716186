"""Several ranks: the same numbers as one process, another number of them after a checkpoint, lost ones noticed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from preceptor.common.errors import InvalidInput
from preceptor.common.waiting import wait_until
from preceptor.learner.distributed.group import Membership, membership
from preceptor.learner.training.metrics_log import read_metrics
from tests.support.ports import free_port
from tests.unit.learner.rank_worker import train

UPDATE: dict[str, Any] = {
    "batch_size": 8,
    "epochs": 2,
    "minibatches": 2,
    "micro_batch_tokens": 64,
    "critic": "policy",
    "kl": {"coef": 0.1},
    "optimizer": {"learning_rate": 1e-3},
    "critic_optimizer": {"learning_rate": 1e-3},
}
LORA = {"lora": True, "engine": {"activation_checkpointing": True}}
# By the clock, and a count of tokens beyond a limit, which a rounding error can tip over.
CLOCKED = ("time/", "tokens/per_second", "samples/per_second", "val/clipfrac_avg")


def on_ranks(size: int, model_dir: Path, plan: dict[str, Any]) -> list[dict[str, float]]:
    """The metrics of rank 0."""
    port = str(free_port())
    places = [
        {"RANK": str(r), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} for r in range(size)
    ]
    command = [sys.executable, "-m", "tests.unit.learner.rank_worker", str(model_dir), json.dumps(plan)]
    pipe = subprocess.PIPE
    started = [subprocess.Popen(command, env={**os.environ, **place}, stdout=pipe, stderr=pipe) for place in places]
    results = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0] * size, b"\n".join(err for _, err in results).decode()
    series: list[dict[str, float]] = json.loads(results[0][0])
    return series


def assert_same(found: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        mine, theirs = ({k: v for k, v in row.items() if not k.startswith(CLOCKED)} for row in (one, other))
        assert mine == pytest.approx(theirs, abs=1e-5, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"lora": True, "engine": {"activation_checkpointing": True}}], ids=["full", "lora"]
)
def test_two_ranks_train_as_one_process_and_a_checkpoint_suits_any_number(
    model_dir: Path, tmp_path: Path, options: dict[str, Any]
):
    plan = {"update": UPDATE, **options}
    whole = train(model_dir, {**plan, "steps": [0, 3], "export": str(tmp_path / "one")})
    saved = [str(tmp_path / name) for name in ("a", "b")]
    first = on_ranks(2, model_dir, {**plan, "steps": [0, 1], "save": saved[0]})
    second = train(model_dir, {**plan, "steps": [1, 2], "load": saved[0], "save": saved[1]})
    third = on_ranks(2, model_dir, {**plan, "steps": [2, 3], "load": saved[1], "export": str(tmp_path / "two")})
    assert_same([*first, *second, *third], whole)
    one, two = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=2e-5, rtol=1e-4)


def sft_job(folder: Path, model_dir: Path, *, epochs: int = 2) -> Path:
    rows = [{"prompt": f"say {i} ", "completion": "ab" * (1 + i % 9)} for i in range(40)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = {
        "kind": "sft",
        "run_id": "ranks",
        "threads": 1,
        "model": {"path": str(model_dir)},
        "data": [str(folder / "rows.jsonl")],
        "max_length": 48,
        "epochs": epochs,
        "batch_size": 8,
        "micro_batch_tokens": 128,
        "log_every_steps": 1,
        "checkpoint": {"every_steps": 2},
    }
    path = folder / "sft.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def learner(folder: Path, config: Path, ranks: int) -> "subprocess.Popen[bytes]":
    settings = {"artifacts_url": folder.as_uri(), "port": 0, "metrics_port": 0, "log_format": "text"}
    env = {f"PRECEPTOR_LEARNER_{name}".upper(): str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "preceptor.learner", str(config), "--nproc", str(ranks)]
    return subprocess.Popen(command, env={**os.environ, **env}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def losses(folder: Path) -> list[float]:
    return [row["metrics"]["loss"] for row in read_metrics(folder / "runs" / "ranks")]


@pytest.mark.slow
def test_a_lost_rank_takes_the_others_down_and_the_job_goes_on_alone(model_dir: Path, tmp_path: Path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    config = sft_job(tmp_path, model_dir, epochs=8)
    folder = tmp_path / "two"
    with learner(folder, config, 2) as process:
        reached = lambda: (folder / "runs/ranks/metrics.jsonl").is_file() and len(losses(folder)) >= 5  # noqa: E731
        wait_until(lambda: reached() or process.poll() is not None, 60, "a few steps", interval_s=0.05)
        children = psutil.Process(process.pid).children()
        rank_1 = next(child for child in children if child.environ().get("RANK") == "1")
        rank_1.send_signal(signal.SIGKILL)
        assert process.wait(30) == 75
        assert process.stderr is not None
        said = process.stderr.read().decode()
    assert "learner rank 1 was killed by signal 9; the other ranks end" in said, said
    assert psutil.wait_procs(children, timeout=10)[1] == []
    with learner(folder, config, 1) as process:
        assert process.wait(60) == 0
    with learner(tmp_path / "one", config, 1) as process:
        assert process.wait(60) == 0
    assert losses(folder) == pytest.approx(losses(tmp_path / "one"), abs=1e-4)
    assert len(losses(folder)) == 40


def test_the_place_of_a_rank_is_read_from_torchruns_environment():
    assert membership({}) == Membership(0, 1, 0)
    full = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "host", "MASTER_PORT": "1"}
    assert membership(full) == Membership(3, 4, 1)
    with pytest.raises(InvalidInput, match="MASTER_ADDR must be set"):
        membership({name: value for name, value in full.items() if name != "MASTER_ADDR"})
    with pytest.raises(InvalidInput, match="RANK 4"):
        membership(full | {"RANK": "4"})
