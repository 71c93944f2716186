"""The random-walks benchmark through `preceptor train sft` and `preceptor train rl`, on every real part."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.randomwalks import generate

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
BENCHMARK = Path(generate.__file__).parent
REPOSITORY = BENCHMARK.parents[2]


def preceptor(folder: Path, *args: str) -> None:
    command = [sys.executable, "-m", "preceptor.cli", *args, "--home", str(folder / "home"), "--port-base", "13000"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def test_ppo_learns_to_take_the_shortest_way(tmp_path):
    for name in ("sft.yaml", "rl.yaml", "reward.py"):
        shutil.copy(BENCHMARK / name, tmp_path)
    command = [sys.executable, "-m", "tests.benchmarks.randomwalks.generate", str(tmp_path / "data")]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    runs = tmp_path / "home" / "artifacts" / "runs"

    preceptor(tmp_path, "train", "sft", str(tmp_path / "sft.yaml"))
    shutil.copytree(runs / "randomwalks-sft" / "model", tmp_path / "data" / "model")
    preceptor(tmp_path, "train", "rl", str(tmp_path / "rl.yaml"))

    lines = (runs / "randomwalks-rl" / "metrics.jsonl").read_text().splitlines()
    optimality = [json.loads(line)["metrics"]["objective/scores"] for line in lines]
    assert optimality[0] < 0.5, "the sft model has nothing left to learn"
    assert sum(optimality[-5:]) / 5 >= 0.95, optimality
