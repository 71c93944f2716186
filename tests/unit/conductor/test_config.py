"""The conductor's settings, and what it tells learner jobs."""

from pathlib import Path

import pytest

from preceptor.conductor.config import ConductorSettings
from preceptor.learner.config import LearnerSettings


def settings() -> ConductorSettings:
    return ConductorSettings(
        artifacts_url="file:///tmp/a",
        database_url="sqlite:////tmp/c.sqlite",
        supervisor_socket=Path("/tmp/s.sock"),
        jobs_dir=Path("/tmp/jobs"),
        logs_dir=Path("/tmp/logs"),
        learner_cores="2-3",
        learner_threads=2,
        all_cores="0-3",
        all_threads=4,
    )


@pytest.mark.parametrize(("kind", "port", "cores", "threads"), [("rl", 7140, "2-3", 2), ("reward", 7141, "0-3", 4)])
def test_a_job_gets_settings_that_the_learner_reads(
    monkeypatch: pytest.MonkeyPatch, kind: str, port: int, cores: str, threads: int
) -> None:
    for key, value in settings().job_environment(kind).items():
        monkeypatch.setenv(key, value)
    learner = LearnerSettings()
    assert (learner.port, learner.metrics_port) == (port, port + 100)
    assert (learner.cpu_cores, learner.threads) == (cores, threads)
    assert learner.artifacts_url == "file:///tmp/a"


def test_an_rl_job_and_a_reward_job_beside_it_share_no_port() -> None:
    rl, reward = settings().job_environment("rl"), settings().job_environment("reward")
    for key in ("PRECEPTOR_LEARNER_PORT", "PRECEPTOR_LEARNER_METRICS_PORT"):
        assert rl[key] != reward[key]
