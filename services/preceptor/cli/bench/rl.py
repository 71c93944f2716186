"""`preceptor bench rl`: whole runs, rollouts included, against TRL's trainers."""

from __future__ import annotations

import itertools
import os
import random
import statistics
import tempfile
from pathlib import Path
from typing import Any

import click

from preceptor.cli.bench.models import build_policy, random_text
from preceptor.cli.bench.options import threads_option
from preceptor.cli.bench.report import Figure, Report, at_least, environment, finish, progress, step
from preceptor.cli.bench.rl_ours import Timed, run_ours
from preceptor.cli.bench.rl_peer import TrlPeer
from preceptor.cli.bench.rl_walks import walk_figures
from preceptor.cli.output import json_option
from preceptor.cli.stack.cores import available_cores

SIZES = {"2.4M": (128, 6), "25M": (512, 6)}
GOALS = {"ppo": 3.0, "grpo": 1.5, "rloo": 1.5}
_WARM_UP_STEPS = 2
_PROMPTS = 512
_GROUP = 8
_REWARD = '''"""The share of a completion's words that stand for even tokens."""


def even_words(*, prompts, completions, **_):
    words = [[int(word[1:]) for word in text.split() if word[1:].isdigit()] for text in completions]
    return [sum(number % 2 == 0 for number in numbers) / max(1, len(numbers)) for numbers in words]
'''


@click.command()
@click.option("--peer", type=click.Choice(["trl"]), default="trl", show_default=True, help="What to compare with.")
@click.option("--size", type=click.Choice(list(SIZES)), default="2.4M", show_default=True, help="Parameters.")
@click.option("--algorithm", "algorithms", multiple=True, default=("ppo",), type=click.Choice(list(GOALS)))
@click.option("--epochs", multiple=True, default=(1, 4), type=click.IntRange(1, 16), help="PPO's, one run each.")
@click.option("--batch", type=click.IntRange(8), default=128, show_default=True, help="Rollouts per step.")
@click.option("--completion-tokens", type=click.IntRange(2, 512), default=48, show_default=True)
@click.option("--prompt-tokens", type=click.IntRange(1, 256), default=8, show_default=True)
@click.option("--steps", type=click.IntRange(4), default=10, show_default=True, help=f"{_WARM_UP_STEPS} warm up.")
@click.option(
    "--peer-dir", type=click.Path(path_type=Path), default=Path("~/.cache/preceptor/peers"), show_default=True
)
@click.option("--port-base", type=click.IntRange(0, 50000), default=21000, show_default=True)
@click.option(
    "--randomwalks",
    type=click.Path(path_type=Path, resolve_path=True),
    help="Folder of the random walks (tests/benchmarks/randomwalks with its data): learning instead of speed.",
)
@click.option("--seeds", type=click.IntRange(1, 100), default=3, show_default=True, help="Of the random walks.")
@threads_option
@json_option
def rl(
    peer: str,
    size: str,
    algorithms: tuple[str, ...],
    epochs: tuple[int, ...],
    batch: int,
    completion_tokens: int,
    prompt_tokens: int,
    steps: int,
    peer_dir: Path,
    port_base: int,
    randomwalks: Path | None,
    seeds: int,
    threads: int | None,
    as_json: bool,
) -> int:
    """Samples per second of PPO, GRPO and RLOO runs, from prompt to trained batch, as multiples of TRL's on the same
    model, task, batch and cores. TRL is installed into an environment of its own."""
    machine = environment()
    cores = available_cores()[:threads]
    os.sched_setaffinity(0, cores)  # of both sides: children inherit it
    trl = TrlPeer(peer_dir.expanduser())
    trl.prepare()
    if randomwalks is not None:
        with tempfile.TemporaryDirectory(prefix="preceptor-bench-") as name:
            options = {"seeds": seeds, "threads": len(cores), "port_base": port_base}
            learned = walk_figures(randomwalks, Path(name), trl, **options)
        return finish(Report("rl", learned, {"seeds": seeds, "threads": len(cores)}, machine), as_json=as_json)
    cases = [(name, count) for name in algorithms for count in (epochs if name == "ppo" else (1,))]
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="preceptor-bench-") as name, progress("model", 2 * len(cases)) as bar:
        folder = Path(name)
        hidden, layers = SIZES[size]
        parameters = build_policy(folder / "model", hidden=hidden, layers=layers)
        (folder / "reward.py").write_text(_REWARD)
        job = _job(folder, batch, completion_tokens, prompt_tokens, steps, len(cores))
        for algorithm, count in cases:
            label = f"{algorithm}.{count}_epochs" if algorithm == "ppo" else algorithm
            step(bar, f"{label}: TRL")
            theirs = trl.run({**job, "algorithm": algorithm, "epochs": count}, folder)
            step(bar, f"{label}: ours")
            ours = run_ours(our_config(job, algorithm, count), folder / label, port_base=port_base)
            found = case_figures(label, GOALS[algorithm], batch, ours, theirs)
            click.echo("  ".join(f"{f.name} {f.value:.3g}" for f in found[:3]), err=True)
            figures += found
    said = {"size": size, "parameters": parameters, "batch": batch, "completion_tokens": completion_tokens}
    said |= {"prompt_tokens": prompt_tokens, "steps": steps, "threads": len(cores)}
    return finish(Report("rl", figures, said, machine), as_json=as_json)


def case_figures(label: str, goal: float, batch: int, ours: Timed, theirs: dict[str, Any]) -> list[Figure]:
    """Samples per second of both after the warm-up, their ratio, and where our time goes."""
    rate, peer_rate = samples_per_s(ours.seconds, batch), samples_per_s(theirs["seconds"], batch)
    slowness = median_step_s(theirs["seconds"]) / median_step_s(ours.seconds)
    phases = ("phase/wait_s", "phase/train_s", "phase/publish_s", "phase/checkpoint_s", "phase/all_s")
    return [
        at_least(f"{label}.rate_over_trl", rate / peer_rate, "ratio", goal),
        Figure(f"{label}.ours", rate, "samples/s"),
        Figure(f"{label}.trl_{theirs['trl']}", peer_rate, "samples/s"),
        Figure(f"{label}.median_step_over_trl", slowness, "ratio"),
        Figure(f"{label}.ours.start", ours.start_s, "s"),
        *(Figure(f"{label}.ours.{name}", ours.phases[name], "s") for name in phases if name in ours.phases),
    ]


def samples_per_s(seconds: list[float], batch: int) -> float:
    """Of the steps after the warm-up."""
    warm = min(_WARM_UP_STEPS, len(seconds) - 2)
    return batch * (len(seconds) - 1 - warm) / (seconds[-1] - seconds[warm])


def median_step_s(seconds: list[float]) -> float:
    """Of the steps after the first: what a step takes when nothing comes between."""
    return statistics.median(later - earlier for earlier, later in itertools.pairwise(seconds))


def our_config(job: dict[str, Any], algorithm: str, epochs: int) -> dict[str, Any]:
    """The rl config of the same job: one minibatch, KL coefficient 0.05, no dropout, on both sides."""
    rate = {"learning_rate": job["learning_rate"]}
    settings: dict[str, Any] = {"epochs": epochs, "minibatches": 1, "optimizer": rate}
    settings["kl"] = {"loss_coef": 0.05} if algorithm == "grpo" else {"coef": 0.05}  # where TRL has it
    if algorithm == "ppo":
        settings["critic_optimizer"] = rate
    config: dict[str, Any] = {
        "kind": "rl",
        "run_id": "bench",
        "model": job["model"],
        "reward": {"function": job["reward"]},
        "prompts": {"items": job["prompts"]},
        "batch_size": job["batch"],
        "group_size": 1 if algorithm == "ppo" else job["group"],
        "total_steps": job["steps"],
        "sampling": {"max_tokens": job["completion_tokens"]},
        "checkpoint": {"every_steps": job["steps"]},
        algorithm: settings,
    }
    return config if algorithm == "ppo" else {**config, "algorithm": algorithm}


def _job(
    folder: Path, batch: int, completion_tokens: int, prompt_tokens: int, steps: int, threads: int
) -> dict[str, Any]:
    rng = random.Random(0)
    return {
        "model": str(folder / "model"),
        "reward": f"{folder / 'reward.py'}:even_words",
        "prompts": [random_text(prompt_tokens, rng) for _ in range(_PROMPTS)],
        "batch": batch,
        "group": _GROUP,
        "completion_tokens": completion_tokens,
        "steps": steps,
        "threads": threads,
        "learning_rate": 1e-5,
    }
