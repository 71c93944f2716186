"""Our side of `preceptor bench rl`: `preceptor train rl`, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from preceptor.common.errors import InternalError

_TIMEOUT_S = 1800.0
_STOP_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Timed:
    """A run. seconds: of every step's end since the first rollout request. scores: mean reward of every step.

    start_s: from the command to the first request: engines, services and learner. phases: mean seconds of a step.
    """

    seconds: list[float]
    scores: list[float]
    start_s: float
    phases: dict[str, float]


def run_ours(config: dict[str, Any], folder: Path, *, port_base: int) -> Timed:
    """Runs an rl config to its end in a home of its own."""
    folder.mkdir(parents=True)
    (folder / "rl.yaml").write_text(yaml.safe_dump(config))
    home = folder / "home"
    command = [sys.executable, "-m", "preceptor.cli", "train", "rl", str(folder / "rl.yaml"), "--home", str(home)]
    began = time.time()
    log = folder / "train.log"
    with log.open("w") as output:
        process = subprocess.Popen([*command, "--port-base", str(port_base)], stdout=output, stderr=subprocess.STDOUT)
        try:
            code = process.wait(_TIMEOUT_S)
        finally:
            process.terminate()  # takes its services down, whatever ended the wait
            process.wait(_STOP_TIMEOUT_S)
    if code:
        raise InternalError(f"preceptor train rl failed:\n{log.read_text()[-3000:]}")
    run = home / "artifacts" / "runs" / config["run_id"]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return timed(rows, began)


def timed(rows: list[dict[str, Any]], began: float) -> Timed:
    """From metrics.jsonl. The first request goes out when the learner begins to wait for the first step's rollouts."""
    first = rows[0]
    requested = first["time"] - sum(first["metrics"].get(f"phase/{phase}_s", 0.0) for phase in ("wait", "train"))
    names = sorted({name for row in rows for name in row["metrics"] if name.startswith(("phase/", "time/"))})
    later = rows[1:] or rows
    return Timed(
        seconds=[row["time"] - requested for row in rows],
        scores=[row["metrics"]["objective/scores"] for row in rows],
        start_s=requested - began,
        phases={name: sum(row["metrics"].get(name) or 0.0 for row in later) / len(later) for name in names},
    )
