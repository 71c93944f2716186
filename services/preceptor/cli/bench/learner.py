"""`preceptor bench learner`: our PPO update against a bare forward, backward and step on the same packed tokens."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from preceptor.cli.bench.memory import MemoryWatch
from preceptor.cli.bench.models import build_policy
from preceptor.cli.bench.options import threads_option
from preceptor.cli.bench.report import Figure, Report, at_least, at_most, environment, finish, progress, step
from preceptor.cli.bench.rounds import alternate, ratios, spread
from preceptor.cli.output import json_option

if TYPE_CHECKING:
    from preceptor.cli.bench.learner_sides import Timed
    from preceptor.learner.types import Experience

_VOCABULARY = 4096
_RATE_AT_LEAST = 0.85
_MEMORY_AT_MOST = 1.25
# Dense peak of bfloat16 with float32 accumulation, as the vendor states it, by what the device's name contains.
_PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40": 181e12, "4090": 165e12}


@click.command()
@click.option("--hidden", type=click.IntRange(64), default=512, show_default=True, help="The models' width.")
@click.option("--layers", type=click.IntRange(1), default=7, show_default=True)
@click.option("--rollouts", type=click.IntRange(2), default=32, show_default=True, help="Per step.")
@click.option("--tokens", type=click.IntRange(16, 1024), default=192, show_default=True, help="Of the longest rollout.")
@click.option("--epochs", type=click.IntRange(1), default=1, show_default=True, help="Passes over a step's rollouts.")
@click.option("--micro-batch-tokens", type=click.IntRange(64), default=4096, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@threads_option
@json_option
def learner(
    hidden: int,
    layers: int,
    rollouts: int,
    tokens: int,
    epochs: int,
    micro_batch_tokens: int,
    rounds: int,
    device: str,
    dtype: str,
    threads: int | None,
    as_json: bool,
) -> int:
    """Tokens per second of the PPO update over a bare loop's, peak memory over the computed need; MFU on CUDA."""
    from preceptor.cli.bench.learner_sides import BareLoop, build_trainer, draw_rollouts, our_step

    machine = environment()
    engine = _engine(device, dtype, threads)
    config = _config(rollouts, epochs, micro_batch_tokens)
    drawn = draw_rollouts(rollouts, tokens, _VOCABULARY, seed=0)
    with tempfile.TemporaryDirectory(prefix="preceptor-bench-") as name, progress("starting", rounds + 2) as bar:
        parameters = build_policy(Path(name), hidden=hidden, layers=layers, vocabulary=_VOCABULARY)
        memory = MemoryWatch(engine.device)
        trainer = build_trainer(Path(name), config, engine)
        our_step(trainer, drawn)
        peak = memory.peak_bytes()
        need = _need(trainer, drawn, micro_batch_tokens)
        step(bar, "measuring")
        bare = BareLoop(trainer, config)
        sides = {"ours": lambda: our_step(trainer, drawn), "bare": lambda: bare.step(drawn)}
        taken = alternate(sides, rounds, on_round=lambda: step(bar, "measuring"))
    trained = epochs * sum(len(one.prompt_token_ids) + len(one.token_ids) for one in drawn)
    flops = None if engine.device.type == "cpu" else _flops_share(trainer, trained, taken["ours"], engine)
    settings = {
        "parameters": parameters,
        "vocabulary": _VOCABULARY,
        "tokens_per_step": trained,
        "packed": engine.packed,
        "device": engine.device.type,
        "dtype": dtype,
    }
    figures = figures_of(taken, trained, peak, need) + ([] if flops is None else [flops])
    return finish(Report("learner", figures, settings, machine), as_json=as_json)


def figures_of(taken: dict[str, list[Timed]], tokens: int, peak: int, need: int) -> list[Figure]:
    """From the sides' seconds by round, the tokens of a step, and bytes."""
    ours = [tokens / one.update_s for one in taken["ours"]]
    bare = [tokens / one.update_s for one in taken["bare"]]
    whole = [tokens / one.step_s for one in taken["ours"]]
    rate = ratios(ours, bare)
    return [
        at_least("update.rate_over_bare", rate.median, "ratio", _RATE_AT_LEAST),
        *rate.figures("update.rate_over_bare", "ratio"),
        Figure("update.rate", spread(ours).median, "tokens/s"),
        Figure("bare.rate", spread(bare).median, "tokens/s"),
        Figure("step.rate", spread(whole).median, "tokens/s"),
        at_most("memory.peak_over_need", peak / need, "ratio", _MEMORY_AT_MOST),
        Figure("memory.peak", peak / 2**20, "MiB"),
        Figure("memory.need", need / 2**20, "MiB"),
    ]


def _engine(device: str, dtype: str, threads: int | None) -> Any:
    import torch

    from preceptor.learner.models.engine import Engine
    from preceptor.learner.models.forward import pick_device

    if threads is not None:
        torch.set_num_threads(threads)
    return Engine(device=pick_device(device), dtype=dtype)


def _config(rollouts: int, epochs: int, micro_batch_tokens: int) -> Any:
    from preceptor.learner.run_configs.ppo import PpoConfig

    values = {"batch_size": rollouts, "epochs": epochs, "micro_batch_tokens": micro_batch_tokens, "critic": "policy"}
    return PpoConfig.model_validate(values)


def _need(trainer: Any, drawn: Sequence[Experience], micro_batch_tokens: int) -> int:
    """Computed bytes: three models, two of them trained, and the activations of the largest micro-batch."""
    from preceptor.learner.models.memory import ModelShape, activation_bytes, weights_bytes

    models = trainer.models
    config = models.policy.config
    policy, critic = (sum(p.numel() for p in module.parameters()) for module in (models.policy, models.critic))
    frozen = 0 if models.reference is None else policy
    shape = ModelShape(
        policy, config.num_hidden_layers, config.hidden_size, config.intermediate_size, config.vocab_size
    )
    tokens = min(micro_batch_tokens, sum(len(one.prompt_token_ids) + len(one.token_ids) for one in drawn))
    targets = min(tokens, sum(len(one.token_ids) for one in drawn))
    return weights_bytes(policy + critic, frozen) + activation_bytes(shape, tokens, targets, with_head=True)


def _flops_share(trainer: Any, tokens: int, taken: Sequence[Timed], engine: Any) -> Figure | None:
    """6 floating-point operations per parameter and token of policy and critic, over the device's stated peak."""
    import torch

    name = torch.cuda.get_device_name(engine.device)
    peak = next((flops for part, flops in _PEAK_FLOPS.items() if part in name), None)
    if peak is None:
        return None
    models = trainer.models
    parameters = sum(p.numel() for module in (models.policy, models.critic) for p in module.parameters())
    rate = spread([6.0 * parameters * tokens / one.update_s for one in taken]).median
    return Figure("update.mfu", rate / peak, "ratio")
