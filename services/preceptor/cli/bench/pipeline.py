"""`preceptor bench pipeline`: streaming against synchronous, the learner's waiting, the cost of control."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from preceptor.cli.bench.models import build_policy
from preceptor.cli.bench.pipeline_real import Cores, Phase, RealRun, Shape, calibrated, real_parts, scaled, split_cores
from preceptor.cli.bench.pipeline_simulated import ControlCost, measure_control_cost
from preceptor.cli.bench.report import Figure, Report, at_least, at_most, environment, finish, progress, step
from preceptor.cli.bench.rounds import ratios
from preceptor.cli.output import json_option
from preceptor.cli.stack.cores import available_cores, format_cores

_SPEEDUP_AT_LEAST = 1.6
_WAITING_AT_MOST = 0.05
_COST_RATIO = (0.8, 1.2)
_SURPLUS = 1.2
_FIRST_WIDTH = 8
_CALIBRATION_STEPS = 4


@dataclass(frozen=True, slots=True)
class Real:
    """What the real half measured. synchronous, streaming: round by round, at the same shape."""

    shape: Shape
    synchronous: Sequence[Phase]
    streaming: Sequence[Phase]
    surplus_shape: Shape
    surplus_synchronous: Phase
    surplus_streaming: Phase


@click.command()
@click.option("--part", type=click.Choice(["all", "real", "simulated"]), default="all", show_default=True)
@click.option("--steps", type=click.IntRange(2), default=16, show_default=True, help="That count, of each phase.")
@click.option("--rounds", type=click.IntRange(1), default=2, show_default=True, help="Of both modes.")
@click.option("--tokens", type=click.IntRange(8, 512), default=64, show_default=True, help="Of a completion.")
@click.option("--max-staleness", type=click.IntRange(1), default=2, show_default=True, help="Of the streaming mode.")
@click.option("--hidden", type=click.IntRange(64), default=128, show_default=True, help="The policy's width.")
@click.option("--layers", type=click.IntRange(1), default=2, show_default=True)
@click.option(
    "--generators", type=click.IntRange(1, 500), multiple=True, default=(10, 100), show_default=True, help="Simulated."
)
@click.option(
    "--seconds", type=click.FloatRange(1), default=20.0, show_default=True, help="Of watching each simulation."
)
@click.option("--token-s", type=click.FloatRange(0.0001), default=0.03, show_default=True, help="Of a simulated token.")
@json_option
def pipeline(
    part: str,
    steps: int,
    rounds: int,
    tokens: int,
    max_staleness: int,
    hidden: int,
    layers: int,
    generators: tuple[int, ...],
    seconds: float,
    token_s: float,
    as_json: bool,
) -> int:
    """Streaming over synchronous throughput with generator and learner on cores of their own and of equal cost; the
    learner's waiting when generation exceeds its need by a fifth; CPU of pump, rollout workers and Redis per rollout
    at 10 and at 100 simulated generators."""
    machine = environment()
    cores = split_cores(available_cores())
    figures: list[Figure] = []
    settings: dict[str, object] = {"generator_cores": format_cores(list(cores.generator))}
    settings |= {"learner_cores": format_cores(list(cores.learner)), "max_staleness": max_staleness}
    if part != "simulated":
        real, parameters = measure_real(
            cores, Shape(_FIRST_WIDTH, 1, tokens), hidden, layers, steps, rounds, max_staleness
        )
        figures += real_figures(real)
        settings |= {"parameters": parameters, "shape": str(real.shape), "surplus_shape": str(real.surplus_shape)}
    if part != "real":
        with progress("simulated generators", len(generators)) as bar:
            costs = []
            for count in generators:
                costs.append(measure_control_cost(count, seconds, token_s))
                step(bar, f"{count} generators done")
        figures += cost_figures(costs)
    return finish(Report("pipeline", figures, settings, machine), as_json=as_json)


def measure_real(
    cores: Cores, first: Shape, hidden: int, layers: int, steps: int, rounds: int, max_staleness: int
) -> tuple[Real, int]:
    """Calibrates, measures both modes turn by turn, then streaming with a learner a fifth slower than the generator.

    Returns the measurements and the policy's number of parameters.
    """
    with tempfile.TemporaryDirectory(prefix="preceptor-bench-") as name, progress("calibrating", 3) as bar:
        folder = Path(name)
        parameters = build_policy(folder / "model", hidden=hidden, layers=layers)
        with real_parts(folder) as light:
            shape = _rough(RealRun(folder, light, folder / "model", "bench-rough", cores), first)
            shape = _fine(RealRun(folder, light, folder / "model", "bench-fine", cores), shape)
            step(bar, "both modes")
            run = RealRun(folder, light, folder / "model", "bench-equal", cores)
            synchronous, streaming = _both_modes(run, shape, steps, rounds, max_staleness)
            step(bar, "surplus")
            latest = synchronous[-1]
            slower = scaled(shape, _SURPLUS * latest.wait_s / latest.work_s)
            run = RealRun(folder, light, folder / "model", "bench-surplus", cores)
            with run.generator(slower):
                before = run.phase(slower, max_staleness=0, steps=max(2, steps // 2))
                after = run.phase(slower, max_staleness=max_staleness, steps=steps)
            step(bar, "done")
    return Real(shape, synchronous, streaming, slower, before, after), parameters


def _rough(run: RealRun, first: Shape) -> Shape:
    """The shape of equal cost, from what an epoch costs."""
    with run.generator(first):
        one = run.phase(first, max_staleness=0, steps=_CALIBRATION_STEPS)
        three = run.phase(replace(first, epochs=3), max_staleness=0, steps=_CALIBRATION_STEPS)
    return calibrated(one, three, first)


def _fine(run: RealRun, shape: Shape) -> Shape:
    """The same, corrected by what it costs indeed."""
    with run.generator(shape):
        phase = run.phase(shape, max_staleness=0, steps=_CALIBRATION_STEPS)
    return scaled(shape, phase.wait_s / phase.work_s)


def _both_modes(
    run: RealRun, shape: Shape, steps: int, rounds: int, max_staleness: int
) -> tuple[list[Phase], list[Phase]]:
    synchronous, streaming = [], []
    with run.generator(shape):
        for _ in range(rounds):
            synchronous.append(run.phase(shape, max_staleness=0, steps=steps))
            streaming.append(run.phase(shape, max_staleness=max_staleness, steps=steps))
    return synchronous, streaming


def real_figures(real: Real) -> list[Figure]:
    """Of the real half."""
    speedup = ratios([1 / phase.step_s for phase in real.streaming], [1 / phase.step_s for phase in real.synchronous])
    equal = ratios([phase.work_s for phase in real.synchronous], [phase.wait_s for phase in real.synchronous])
    before, after = real.surplus_synchronous, real.surplus_streaming
    return [
        at_least("streaming_over_synchronous", speedup.median, "ratio", _SPEEDUP_AT_LEAST),
        *speedup.figures("streaming_over_synchronous", "ratio"),
        Figure("equal.learner_over_generator", equal.median, "ratio"),
        *equal.figures("equal.learner_over_generator", "ratio"),
        Figure("equal.synchronous_step", real.synchronous[-1].step_s, "s"),
        Figure("equal.streaming_step", real.streaming[-1].step_s, "s"),
        at_most("surplus.waiting_share", after.waiting_share, "share", _WAITING_AT_MOST),
        Figure("surplus.learner_over_generator", before.work_s / before.wait_s, "ratio"),
        Figure("surplus.streaming_step", after.step_s, "s"),
    ]


def cost_figures(costs: Sequence[ControlCost]) -> list[Figure]:
    """Of the simulated half; the largest system against the smallest."""
    figures = []
    for cost in costs:
        name = f"control_{cost.generators}"
        figures.append(Figure(f"{name}.per_rollout", cost.per_rollout_ms, "ms"))
        figures += [Figure(f"{name}.{part}", cost.part_ms(part), "ms") for part in cost.cpu_s]
        figures += [Figure(f"{name}.rate", cost.rate, "1/s"), Figure(f"{name}.failed", cost.failed, "attempts")]
    if len(costs) > 1:
        ratio = costs[-1].per_rollout_ms / costs[0].per_rollout_ms
        low, high = _COST_RATIO
        figures.append(
            Figure("control_cost.largest_over_smallest", ratio, "ratio", f"{low:g} to {high:g}", low <= ratio <= high)
        )
    return figures
