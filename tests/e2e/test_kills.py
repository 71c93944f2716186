"""Any process of a run may be killed at any time: it is started again and the run finishes with its books closed."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.rl_system import RUN_ID, RlSystem, assert_accounting_closed, left_over

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
VICTIMS = ("generation-0", "rollout-0", "reward", "redis", "learner-rl")


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    one = RlSystem(tmp_path_factory.mktemp("kills"), port_base=11_000)
    one.start("--scale", "generation=1", "--scale", "rollout=1")
    yield one
    one.end()


@pytest.mark.parametrize("victim", VICTIMS)
def test_the_run_goes_on_after_a_kill(system, victim):
    system.wait_step(3, timeout_s=180)
    system.kill(victim)
    restored = max(system.step(), 0)
    system.wait_step(restored + 4, timeout_s=180)


def test_the_run_ends_with_its_books_closed(system):
    system.stop_run()
    assert system.join() == 0, system.explain("the run failed")
    assert_accounting_closed(system.summary())


def test_no_group_was_trained_twice(system):
    trained: dict[int, list[int]] = {}
    for row in system.history():
        if row["event"] == "trained":
            trained[row["step"]] = row["groups"]
        elif row["event"] == "restored":
            trained = {step: groups for step, groups in trained.items() if step <= row["step"]}
    times = Counter(group for groups in trained.values() for group in groups)
    assert sum(times.values()) == system.summary()["groups"]["trained"]
    assert [group for group, count in times.items() if count > 1] == []


def test_no_version_was_published_with_two_contents(system):
    published = [row for row in system.history() if row["event"] == "published"]
    contents: dict[int, set[str]] = {}
    for row in published:
        contents.setdefault(row["policy_version"], set()).add(row["content_digest"])
    policy = Path(system.home, "artifacts", "runs", RUN_ID, "policy")
    for path in policy.glob("*/manifest.json"):
        contents.setdefault(int(path.parent.name), set()).add(json.loads(path.read_text())["contentDigest"])
    assert len(published) > len(VICTIMS)
    assert {version: found for version, found in contents.items() if len(found) > 1} == {}


def test_no_process_is_left(system):
    assert left_over(system.home) == []
