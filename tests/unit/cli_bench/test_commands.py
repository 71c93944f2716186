"""What a user sees of the benches before one runs."""

import importlib

import pytest
from click.testing import CliRunner

from preceptor.cli.commands.bench import BENCHES, bench


@pytest.mark.parametrize("name", sorted(BENCHES))
def test_every_bench_has_help_and_json(name: str) -> None:
    done = CliRunner().invoke(bench, [name, "--help"])
    assert done.exit_code == 0, done.output
    assert "--json" in done.output


def test_all_benches_are_listed() -> None:
    done = CliRunner().invoke(bench, ["--help"])
    assert all(f"\n  {name} " in done.output for name in BENCHES)


@pytest.mark.parametrize("target", BENCHES.values())
def test_names_lead_to_commands(target: str) -> None:
    module, _, attribute = target.partition(":")
    assert callable(getattr(importlib.import_module(module), attribute))


@pytest.mark.parametrize(
    "args",
    [("reward", "--callers", "0"), ("feedback", "--database", "mysql"), ("generation", "--hidden", "8")],
)
def test_wrong_options_are_usage_errors(args: tuple[str, ...]) -> None:
    assert CliRunner().invoke(bench, list(args)).exit_code == 2
