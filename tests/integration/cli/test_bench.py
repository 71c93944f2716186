"""`preceptor bench`, small: the figures are there and plausible. Speed is no matter here."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[3]


def bench(*args: str, tmp_path: Path) -> tuple[int, dict[str, Any]]:
    """Exit code and report. The bench must leave no file behind."""
    scratch = Path(tempfile.mkdtemp(prefix="scratch-"))
    scratch.chmod(0o755)  # PostgreSQL runs as another user, which pytest's own folders keep out
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY / "services"), "TMPDIR": str(scratch)}
    command = [sys.executable, "-m", "preceptor.cli", "bench", *args, "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode in (0, 1), done.stderr
    report = json.loads(done.stdout)
    assert set(report) == {"bench", "environment", "figures"}
    assert report["bench"] == args[0]
    assert all(set(figure) == {"name", "value", "unit", "goal", "holds"} for figure in report["figures"])
    missed = any(figure["holds"] is False for figure in report["figures"])
    assert done.returncode == int(missed)
    assert not [path for path in scratch.iterdir() if path.name.startswith("preceptor-bench-")]
    shutil.rmtree(scratch)
    return done.returncode, {figure["name"]: figure["value"] for figure in report["figures"]} | {"report": report}


def test_feedback_on_both_databases(tmp_path: Path) -> None:
    _, figures = bench(
        "feedback", "--raters", "4", "--submissions", "16", "--rounds", "2", "--rankings", "50", tmp_path=tmp_path
    )
    settings = figures["report"]["environment"]["settings"]
    assert settings["sqlite_durability"] == "journal_mode=wal, synchronous=FULL"
    assert settings["postgresql_durability"] == "fsync=on, synchronous_commit=on, full_page_writes=on"
    assert "not measured" in settings["label_studio"]
    for database in ("sqlite", "postgresql"):
        assert figures[f"{database}.submissions.low"] <= figures[f"{database}.submissions"]
        assert figures[f"{database}.submissions"] > 0
        assert 0 < figures[f"{database}.submit.p50"] <= figures[f"{database}.submit.p99"]
        assert figures[f"{database}.lease.p50.filled_over_empty"] > 0
        assert figures[f"{database}.submit.p50.filled_over_empty"] > 0
    assert figures["disk.fsyncs"] > 0


@pytest.mark.slow
def test_raters_lose_no_vote_while_the_service_is_killed_and_the_network_breaks(tmp_path: Path) -> None:
    load = ("--seconds", "12", "--kill-every", "3", "--cut-every", "2", "--comparisons", "2000")
    code, figures = bench("feedback-chaos", *load, tmp_path=tmp_path)
    assert code == 0
    assert figures["service.kills"] >= 2
    assert figures["network.cuts"] >= 2
    assert figures["votes.acknowledged"] > 50
    for name in ("lost", "unknown", "twice", "shared_leases", "overfull", "changed_leases"):
        assert figures[f"votes.{name}"] == 0


def test_weights_over_each_transport(tmp_path: Path) -> None:
    load = ("--size", "64MiB", "--receivers", "2", "--rounds", "1", "--delta-size", "32MiB", "--no-engine")
    _, figures = bench("weights", *load, tmp_path=tmp_path)
    for name in ("shm_over_memcpy", "grpc_over_tcp", "grpc_over_bare_tcp", "delta_encode", "delta_decode"):
        assert figures[name] > 0
    assert 0.01 < figures["delta_share_1_steps"] <= 0.03
    assert figures["delta_share_1_steps"] < figures["delta_share_16_steps"] <= 0.08
    assert not list(Path("/dev/shm").glob("preceptor-weights-bench-weights-*"))


def test_weights_names_a_size_it_cannot_take(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY / "services")}
    command = [sys.executable, "-m", "preceptor.cli", "bench", "weights", "--size", "1 elephant"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "1 elephant" in done.stderr


@pytest.mark.slow
def test_reward_against_the_models_own_forward(tmp_path: Path) -> None:
    sizes = ("--hidden", "64", "--layers", "1", "--threads", "1", "--tokens", "16")
    load = ("--callers", "8", "--items", "32", "--idle-calls", "3", "--rounds", "2")
    _, figures = bench("reward", *sizes, *load, tmp_path=tmp_path)
    assert figures["score.rate"] > 0
    assert figures["direct.rate"] > 0
    low, median, high = (figures[f"score.rate_over_direct{end}"] for end in (".low", "", ".high"))
    assert 0 < low <= median <= high
    assert figures["idle.p50"] > 0
    assert figures["idle.p50_added.low"] <= figures["idle.p50_added"] <= figures["idle.p50_added.high"]


@pytest.mark.slow
def test_generation_against_bare_async_llm(tmp_path: Path) -> None:
    sizes = ("--hidden", "64", "--layers", "1", "--threads", "1")
    load = ("--streams", "4", "--tokens", "33", "--idle-streams", "2", "--rounds", "1")
    _, figures = bench("generation", *sizes, *load, tmp_path=tmp_path)
    for side in ("stream", "unary", "bare"):
        assert figures[f"{side}.rate"] > 0
    assert figures["stream.rate_over_bare"] > 0
    assert 1 <= figures["stream.delta_tokens.p50"] <= 33
    assert figures["first_token.stream"] > 0
    assert figures["first_token.bare"] > 0


def test_a_bench_that_does_not_exist_is_a_usage_error(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY / "services")}
    command = [sys.executable, "-m", "preceptor.cli", "bench", "speed"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "No such command 'speed'" in done.stderr


@pytest.mark.slow
def test_pipeline_with_simulated_generators(tmp_path: Path) -> None:
    load = ("--part", "simulated", "--generators", "2", "--seconds", "2", "--token-s", "0.002")
    _, figures = bench("pipeline", *load, tmp_path=tmp_path)
    assert figures["control_2.rate"] > 0
    assert figures["control_2.failed"] == 0
    parts = [figures[f"control_2.{part}"] for part in ("pump", "rollout", "redis")]
    assert min(parts) > 0
    assert figures["control_2.per_rollout"] == pytest.approx(sum(parts))
