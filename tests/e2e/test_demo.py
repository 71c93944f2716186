"""The reduced demo: rankings move the policy, and rankings that mean nothing do not."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from preceptor.cli.stack.layout import load_layout
from preceptor.cli.stack.stack import Stack
from tests.e2e.rl_system import assert_accounting_closed, left_over

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


def run_demo(out: Path, port_base: int, *args: str) -> dict[str, Any]:
    """`preceptor demo` in a process of its own; its report.json."""
    command = [sys.executable, "-m", "preceptor.cli", "demo", "--profile", "ci", "--out", str(out), *args]
    command += ["--port-base", str(port_base), "--console-port", str(8080 + port_base)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1100, check=False)
    layout = load_layout(out)
    if layout is not None:
        Stack(layout).down()
    assert done.returncode == 0, done.stderr[-3000:] + logs(out)
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


def logs(out: Path) -> str:
    ends = [f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}" for path in sorted(out.glob("logs/*.log"))]
    return "\n".join(ends)


def gain(report: dict[str, Any]) -> float:
    """Gold gained on held-out prompts, in standard deviations of the SFT samples."""
    gold = report["gold"]
    return float((gold["final"]["mean"] - gold["sft"]["mean"]) / gold["sft"]["sd"])


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("demo") / "true"


@pytest.fixture(scope="module")
def report(home):
    return run_demo(home, 14_000)


def test_rankings_move_the_policy(report):
    assert gain(report) >= 0.7


def test_it_does_not_collapse(report):
    before, after = report["diversity"]["sft"], report["diversity"]["final"]
    assert after["distinct"] >= before["distinct"] / 2
    assert after["distinct_bigrams"] >= before["distinct_bigrams"] / 2


def test_sft_writes_like_its_corpus(report):
    gold = report["gold"]
    assert abs(gold["sft"]["mean"] - gold["corpus"]["mean"]) <= 0.3 * gold["corpus"]["sd"]


def test_every_group_and_attempt_is_accounted_for(report):
    assert_accounting_closed(report)


def test_engine_and_learner_agree(report):
    assert report["mismatch"]["logprob_abs_mean"] < 1e-3


def test_it_stays_within_its_memory(report):
    assert report["memory"]["peak_gib"] < 10


def test_the_report_holds_what_was_promised(report, home):
    for key in ("kl_k1", "policy_versions", "weights", "reward_models", "staleness", "busy", "seconds", "environment"):
        assert report[key], key
    assert len(report["reward_models"]) == 2
    assert all({"version", "apply_ms", "stall_ms"} <= set(row) for row in report["weights"])
    page = (home / "report.html").read_text()
    assert "<svg" in page
    assert re.findall(r'(?:src|href)="https?://[^"]*"', page) == []  # opens without a network


def test_no_process_is_left(report, home):
    assert left_over(home) == []


def test_rankings_without_meaning_leave_the_policy_alone(report, home):
    sft = home / "artifacts" / "runs" / "demo-sft" / "model"
    control = run_demo(home.parent / "shuffled", 15_000, "--labels", "shuffled", "--sft-model", str(sft))
    assert abs(gain(control)) <= 0.5
