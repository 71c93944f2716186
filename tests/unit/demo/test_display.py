"""The live display and its estimate of the time left."""

import io

import pytest
from rich.console import Console

from preceptor.api.conductor.v1 import loop_service_pb2 as pb
from preceptor.demo.display import DemoDisplay, DemoProgress, clock, figures, render
from preceptor.demo.profiles import PROFILES
from preceptor.demo.watch import done_fraction

NAMES = ("sft", "publish", "collect-1", "labels-1", "reward-1", "promote-1", "rl-1", "labels-2", "reward-2", "rl-2")


def stages(done: int, progress: float = 0.0) -> list[pb.Stage]:
    def state(place: int) -> str:
        return "done" if place < done else "running" if place == done else "pending"

    return [pb.Stage(name=n, state=state(i), progress=progress if i == done else 0.0) for i, n in enumerate(NAMES)]


def test_done_fraction_rises_from_0_to_1_with_every_stage() -> None:
    profile = PROFILES["demo"]
    found = [done_fraction(stages(done), profile) for done in range(len(NAMES) + 1)]
    assert found[0] == 0.0
    assert found == sorted(set(found))
    assert found[-1] == pytest.approx(1.0)
    half = done_fraction(stages(6, 0.5), profile)
    assert half == pytest.approx((found[6] + found[7]) / 2)


def test_an_unknown_loop_has_done_nothing() -> None:
    assert done_fraction([], PROFILES["demo"]) == 0.0


def test_the_display_names_stage_step_gold_kl_speed_and_time_left() -> None:
    progress = DemoProgress(
        stage="rl-1",
        message="step 7 of 22",
        step=7,
        total_steps=44,
        gold=1.234,
        kl_k1=2.5,
        samples_per_second=31.25,
        rankings=900,
        elapsed_s=187,
        eta_s=60,
        stages=[("sft", "done", 61.0), ("rl-1", "running", 20.0), ("rl-2", "pending", 0.0)],
    )
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    console.print(render(progress))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for part in ("rl-1: step 7 of 22", "step 7/44", "900 rankings", "gold +1.23", "KL 2.50", "31.2 samples/s"):
        assert part in text, part
    assert "3:07 so far" in text
    assert "about 1:00 left" in text


def test_without_a_terminal_there_is_one_line_per_stage() -> None:
    console = Console(file=io.StringIO(), width=100)
    with DemoDisplay(console) as show:
        for stage in ("sft", "sft", "collect-1"):
            show(DemoProgress(stage=stage))
    assert [line.split()[1] for line in console.file.getvalue().splitlines()] == ["sft", "collect-1"]  # type: ignore[attr-defined]


def test_figures_that_were_not_measured_are_not_shown() -> None:
    assert figures(DemoProgress()) == ""
    assert clock(-1) == "0:00"
