"""`preceptor bench`: speed on this machine. Each bench is a module that is imported when it is called."""

from __future__ import annotations

import importlib

import click

BENCHES = {
    "generation": "preceptor.cli.bench.generation:generation",
    "pipeline": "preceptor.cli.bench.pipeline:pipeline",
    "reward": "preceptor.cli.bench.reward:reward",
    "feedback": "preceptor.cli.bench.feedback:feedback",
    "feedback-chaos": "preceptor.cli.bench.feedback_chaos:feedback_chaos",
    "learner": "preceptor.cli.bench.learner:learner",
    "weights": "preceptor.cli.bench.weights:weights",
    "rl": "preceptor.cli.bench.rl:rl",
    "chaos": "preceptor.cli.bench.chaos:chaos",
}


class BenchGroup(click.Group):
    """The benches by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(BENCHES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        target = BENCHES.get(cmd_name)
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


@click.group(cls=BenchGroup)
def bench() -> None:
    """Measure speed on this machine, as ratios against a peer in the same run. Exit code 1: a goal is missed."""
