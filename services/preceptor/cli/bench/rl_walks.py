"""The random walks of `preceptor bench rl --randomwalks DIR`: how soon both sides know the shortest way."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from preceptor.cli.bench.report import Figure, at_least, at_most
from preceptor.cli.bench.rl_ours import Timed, run_ours
from preceptor.cli.bench.rl_peer import TrlPeer
from preceptor.common.errors import NotFound

_NEEDED = ("rl.yaml", "reward.py", "data/model", "data/prompts.jsonl")
_WINDOW = 5  # steps that an optimality is the mean of
_MARGIN = 0.005
_PEER_STEPS = 40
_PEER_LEARNING_RATE = 3e-4


def walk_cases(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The rl config in a folder, its paths absolute, and TRL's job on the same model, prompts and reward.

    Raises:
        NotFound: the folder lacks rl.yaml, reward.py or data/; says how they are made.
    """
    missing = [
        name for name in ("rl.yaml", "reward.py", "data/model", "data/prompts.jsonl") if not (folder / name).exists()
    ]
    if missing:
        raise NotFound(f"{folder} has no {missing[0]}: follow tests/benchmarks/randomwalks/README.md up to its sft run")
    config: dict[str, Any] = yaml.safe_load((folder / "rl.yaml").read_text())
    reward = f"{folder / 'reward.py'}:optimality"
    config |= {"model": str(folder / "data/model"), "reward": {"function": reward}}
    config["prompts"] = {"path": str(folder / "data/prompts.jsonl")}
    rows = [json.loads(line) for line in (folder / "data/prompts.jsonl").read_text().splitlines()]
    job = {
        "algorithm": "ppo",
        "model": config["model"],
        "reward": reward,
        "prompts": [row["prompt"] for row in rows] * 64,
        "batch": config["batch_size"],
        "group": config["group_size"],
        "completion_tokens": config["sampling"]["max_tokens"],
        "epochs": config["ppo"]["epochs"],
        "steps": _PEER_STEPS,
        "learning_rate": _PEER_LEARNING_RATE,
        "kl": config["ppo"]["kl"]["coef"],
    }
    return config, job


def walk_figures(source: Path, folder: Path, trl: TrlPeer, *, seeds: int, threads: int, port_base: int) -> list[Figure]:
    """Both sides once per seed, TRL first; figures are means over the seeds."""
    config, job = walk_cases(source)
    reached: list[dict[str, float]] = []
    for seed in range(seeds):
        theirs = trl.run({**job, "threads": threads, "seed": seed}, folder)
        ours = run_ours({**config, "seed": seed}, folder / f"walks-{seed}", port_base=port_base)
        reached.append(compared(ours, theirs, config["batch_size"]))
    mean = {name: statistics.mean(one[name] for one in reached) for name in reached[0]}
    return [
        at_least("walks.optimality_minus_trl", mean["ours"] - mean["trl"], "", -_MARGIN),
        at_most("walks.samples_over_trl", mean["our_samples"] / mean["trl_samples"], "ratio", 1.0),
        at_most("walks.seconds_over_trl", mean["our_seconds"] / mean["trl_seconds"], "ratio", 0.5),
        *(Figure(f"walks.{name}", value, "") for name, value in mean.items()),
    ]


def compared(ours: Timed, theirs: dict[str, Any], batch: int) -> dict[str, float]:
    """TRL's final optimality, over all its samples and seconds, and where we are no more than a margin below it."""
    final = smoothed(theirs["scores"])[-1]
    mine = smoothed(ours.scores)
    step = next((place for place, value in enumerate(mine) if value >= final - _MARGIN), len(mine) - 1)
    return {
        "trl": final,
        "ours": mine[step],
        "trl_samples": float(batch * len(theirs["scores"])),
        "our_samples": float(batch * (step + 1)),
        "trl_seconds": theirs["seconds"][-1],
        "our_seconds": ours.seconds[step],
        "our_start_seconds": ours.start_s,
    }


def smoothed(scores: Sequence[float]) -> list[float]:
    """At each step the mean of the last ones, fewer at the beginning."""
    return [statistics.mean(scores[max(0, place + 1 - _WINDOW) : place + 1]) for place in range(len(scores))]
