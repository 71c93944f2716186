"""A recorded run, fed to learners that are killed: they reproduce the metrics of the one that was not."""

import os
import random
from functools import partial

import pytest

from preceptor.common.waiting import wait_until
from tests.integration.learner.world import assert_closed
from tests.support.ports import free_port
from tests.support.processes import ServiceProcess

pytestmark = pytest.mark.slow
STEPS = 16
KILLS = int(os.environ.get("PRECEPTOR_TEST_KILLS", "3"))  # ten and more: by hand
OTHERWISE = ("time/", "phase/", "tokens/per", "samples/per", "policy_version", "pump/", "perf/", "staleness/longer")


def series(run) -> dict[int, dict[str, float]]:
    """Metrics by step, without times and version numbers, which are a run's own."""
    return {
        row["step"]: {name: value for name, value in row["metrics"].items() if not name.startswith(OTHERWISE)}
        for row in run.metrics()
    }


def arrived(learner: ServiceProcess, run, step: int) -> bool:
    return not learner.running or step in run.steps()


def replaying(make_run, world, name: str, recording) -> tuple[object, ServiceProcess]:
    run = make_run(name)
    config = run.config(
        total_steps=STEPS,
        replay=str(recording),
        checkpoint={"every_steps": 3, "keep": 2},
        reward={},
    )
    env = {
        "PRECEPTOR_LEARNER_ARTIFACTS_URL": world.artifacts.as_uri(),
        "PRECEPTOR_LEARNER_REDIS_URL": f"redis://127.0.0.1:{free_port()}/0",  # nobody there
        "PRECEPTOR_LEARNER_PORT": str(run.port),
        "PRECEPTOR_LEARNER_LOG_FORMAT": "text",
    }
    metrics_port = free_port()
    env["PRECEPTOR_LEARNER_METRICS_PORT"] = str(metrics_port)
    return run, ServiceProcess("preceptor.learner", env, world.folder, metrics_port=metrics_port, args=[str(config)])


def test_killed_replays_reproduce_the_uninterrupted_metrics(world, make_run, tmp_path):
    live, recording = make_run("recorded"), tmp_path / "recording.jsonl"
    config = live.config(total_steps=STEPS, record=str(recording))
    with live.learner(config) as learner:
        assert_closed(live.finish(learner))
    whole, learner = replaying(make_run, world, "whole", recording)
    with learner:
        assert learner.wait(90) == 0, learner.log_tail()
    expected = series(whole)
    assert sorted(expected) == list(range(1, STEPS + 1))
    for step, metrics in series(live).items():
        assert expected[step] == pytest.approx(metrics, rel=1e-4, abs=1e-5), "a replay is the run that was recorded"

    killed, learner = replaying(make_run, world, "cut", recording)
    draws = random.Random(world.folder.name)
    for _ in range(KILLS):
        learner.start()
        more = draws.randrange(0, 5)
        reached = min(STEPS - 5, max(killed.steps() or [0]) + more)
        wait_until(partial(arrived, learner, killed, reached), 60, f"step {reached}", interval_s=0.005)
        assert learner.running, learner.log_tail()
        learner.kill()
    with learner:
        assert learner.wait(90) == 0, learner.log_tail()
    assert_closed(killed.summary())
    found = series(killed)
    assert sorted(found) == sorted(expected)
    for step, metrics in expected.items():
        assert found[step] == pytest.approx(metrics, rel=1e-6, abs=1e-7), f"step {step}"
    versions = [row["metrics"]["policy_version"] for row in killed.metrics()]
    assert versions == sorted(set(versions)), "a number was published twice"
