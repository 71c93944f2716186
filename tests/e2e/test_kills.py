"""Any process of a run may be killed at any time: it is started again and the run finishes with its books closed."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.rl_system import RUN_ID, RlSystem, assert_accounting_closed

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


def test_no_step_trained_a_group_that_another_step_trained(system):
    surviving = {row["step"]: row for row in system.metrics()}  # a rolled-back step is written again
    groups = Counter(group for row in surviving.values() for group in row.get("group_ids", []))
    assert groups, "metrics.jsonl names no groups"
    assert [group for group, times in groups.items() if times > 1] == []


def test_no_version_was_published_with_two_contents(system):
    reports: dict[int, set[str]] = {}
    for row in system.metrics():
        if "content_digest" in row:
            reports.setdefault(row["policy_version"], set()).add(row["content_digest"])
    assert reports, "metrics.jsonl names no content digests"
    assert {version: found for version, found in reports.items() if len(found) > 1} == {}
    policy = Path(system.home, "artifacts", "runs", RUN_ID, "policy")
    stored = {int(path.parent.name): json.loads(path.read_text()) for path in policy.glob("*/manifest.json")}
    assert stored
    assert all(
        manifest["contentDigest"] in reports.get(version, {manifest["contentDigest"]})
        for version, manifest in stored.items()
    )


def test_no_process_is_left(system):
    assert system.left_over() == []
