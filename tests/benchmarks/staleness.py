"""What staleness costs: random walks at several max_staleness, with off-policy correction on and off.

    python -m tests.benchmarks.staleness runs/staleness

runs everything that the folder's results.jsonl does not hold yet, one run at a time, and prints the table of
docs/staleness.md. Every run starts from the same supervised model and trains for the same number of steps.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from tests.benchmarks.randomwalks import generate

TASK = Path(generate.__file__).parent
REPOSITORY = TASK.parents[2]
STALENESS = (0, 1, 4, 16)
CORRECTIONS = ("truncated", "none")
SEEDS = (1000, 1001)
LEARNED = 0.9
WINDOW = 5
Row = dict[str, Any]


def main() -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--staleness", type=int, nargs="*", default=STALENESS)
    parser.add_argument("--correction", nargs="*", choices=CORRECTIONS, default=CORRECTIONS)
    parser.add_argument("--seed", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--port-base", type=int, default=14000)
    asked = parser.parse_args()
    bench = Bench(asked.folder.resolve(), asked.steps, asked.port_base)
    bench.prepare()
    for seed, staleness, correction in product(asked.seed, asked.staleness, asked.correction):
        bench.run(staleness, correction, seed)
    sys.stdout.write(table(bench.rows()) + "\n")


class Bench:
    """The runs of one folder, and their results in its results.jsonl."""

    def __init__(self, folder: Path, steps: int, port_base: int) -> None:
        self._folder = folder
        self._steps = steps
        self._port_base = port_base
        self._results = folder / "results.jsonl"

    def prepare(self) -> None:
        """Data and the supervised model, once."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if (self._folder / "data" / "model").is_dir():
            return
        for name in ("sft.yaml", "reward.py"):
            shutil.copy(TASK / name, self._folder)
        generate.write(self._folder / "data")
        self._train("sft", self._folder / "sft.yaml", self._folder / "sft")
        model = self._folder / "sft" / "artifacts" / "runs" / "randomwalks-sft" / "model"
        shutil.copytree(model, self._folder / "data" / "model")

    def run(self, staleness: int, correction: str, seed: int) -> None:
        """One run, unless its result is there."""
        key = {"max_staleness": staleness, "correction": correction, "seed": seed}
        if any(all(row[name] == value for name, value in key.items()) for row in self.rows()):
            return
        name = f"walks-{staleness}-{correction}-{seed}"
        config = self._folder / f"{name}.yaml"
        config.write_text(yaml.safe_dump(config_of(name, staleness, correction, seed, self._steps)))
        home = self._folder / name
        begun = time.monotonic()
        self._train("rl", config, home)
        lines = (home / "artifacts" / "runs" / name / "metrics.jsonl").read_text().splitlines()
        row = {**key, **measured([json.loads(line)["metrics"] for line in lines]), "seconds": time.monotonic() - begun}
        with self._results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def rows(self) -> list[Row]:
        if not self._results.is_file():
            return []
        return [json.loads(line) for line in self._results.read_text(encoding="utf-8").splitlines()]

    def _train(self, kind: str, config: Path, home: Path) -> None:
        command = [sys.executable, "-m", "preceptor.cli", "train", kind, str(config), "--home", str(home)]
        subprocess.run([*command, "--port-base", str(self._port_base)], cwd=REPOSITORY, check=True)


def config_of(run_id: str, staleness: int, correction: str, seed: int, steps: int) -> dict[str, Any]:
    """The task's own config with what a run of the matrix changes."""
    config: dict[str, Any] = yaml.safe_load((TASK / "rl.yaml").read_text())
    config |= {"run_id": run_id, "seed": seed, "total_steps": steps}
    config |= {"max_staleness": staleness, "in_flight": "fixed"}  # as stale as it may get
    config["ppo"]["correction"] = {"kind": correction}
    return config


def measured(steps: Sequence[dict[str, float]]) -> Row:
    """What the table says of one run, from its metrics step by step."""
    optimality = [step["objective/scores"] for step in steps]
    learned = (index + 1 for index in range(len(steps)) if statistics.mean(_window(optimality, index)) >= LEARNED)
    return {
        "steps": len(steps),
        "optimality_after_10": statistics.mean(_window(optimality, min(9, len(steps) - 1))),
        "optimality_after_20": statistics.mean(_window(optimality, min(19, len(steps) - 1))),
        "optimality_at_end": statistics.mean(_window(optimality, len(steps) - 1)),
        "steps_to_learn": next(learned, None),
        "staleness_mean": statistics.mean(step["staleness/mean"] for step in steps),
    }


def _window(values: Sequence[float], end: int) -> Sequence[float]:
    return values[max(0, end - WINDOW + 1) : end + 1]


def table(rows: Iterable[Row]) -> str:
    """Markdown: a line per max_staleness and correction, seeds as mean and range."""
    groups: dict[tuple[int, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["max_staleness"], row["correction"]), []).append(row)
    lines = [
        "| max_staleness | correction | staleness, mean | optimality, step 10 | step 20 | end | steps to 0.9 | runs |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (staleness, correction), same in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1] == "none")):
        means = [_told([row[f"optimality_{when}"] for row in same]) for when in ("after_10", "after_20", "at_end")]
        reached = ", ".join(str(row["steps_to_learn"] or f"> {row['steps']}") for row in same)
        age = statistics.mean(row["staleness_mean"] for row in same)
        cells = [str(staleness), correction, f"{age:.1f}", *means, reached, str(len(same))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _told(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{statistics.mean(values):.3f} ({min(values):.3f}-{max(values):.3f})"


if __name__ == "__main__":
    main()
