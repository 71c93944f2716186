"""rl runs from start to end on real processes, undisturbed and killed."""

import json
import signal

import pytest

from preceptor.common.artifacts import ArtifactStore
from preceptor.common.redis_client import sync_redis
from preceptor.common.redis_keys import rollout_stream
from preceptor.learner.adapters.run_checkpoints import RunCheckpoints
from preceptor.learner.run_configs import CheckpointConfig
from tests.integration.learner.world import REWARD_FUNCTION, assert_closed

pytestmark = pytest.mark.slow
GROUPS_PER_BATCH = 4


def stream_length(world, run_id: str) -> int:
    return sync_redis(world.redis.url).xlen(rollout_stream(run_id))


def test_run_ends_with_accounting_closed_and_everything_in_the_store(world, make_run):
    run = make_run("plain")
    with run.learner(run.config()) as learner:
        summary = run.finish(learner)
    assert summary["outcome"] == "finished"
    assert_closed(summary)
    assert summary["groups"]["trained"] == summary["attempts"]["trained"] == 6 * GROUPS_PER_BATCH
    assert summary["policy_versions"] == list(range(7))
    assert run.steps() == [1, 2, 3, 4, 5, 6]
    assert 0 < summary["staleness"]["max"] <= 1
    assert summary["mismatch"]["logprob_abs_mean"] < 1e-5
    assert len(set(run.digests().values())) == 7
    assert (run.folder / "model" / "model.safetensors").is_file()
    assert stream_length(world, run.run_id) == 0


def test_with_no_staleness_every_first_ratio_is_one(make_run):
    run = make_run("sync")
    with run.learner(run.config(max_staleness=0, total_steps=4)) as learner:
        summary = run.finish(learner)
    assert_closed(summary)
    assert summary["staleness"]["max"] == 0
    rows = [row["metrics"] for row in run.metrics()]
    assert max(row["mismatch/ratio_max_dev_first_minibatch"] for row in rows) < 1e-3
    assert min(row["mismatch/current_token_share"] for row in rows) == 1.0


def test_killed_learner_goes_on_from_its_checkpoint(world, make_run):
    run = make_run("killed")
    config = run.config(total_steps=16)
    before: dict[int, str] = {}
    for step in (6, 9):  # past a checkpoint by two steps, then by one (and the steps that were rolled back, again)
        learner = run.learner(config).start()
        run.wait_for_step(step, learner)
        learner.kill()
        before |= run.digests()
    with run.learner(config) as learner:
        summary = run.finish(learner)
    assert_closed(summary)
    assert summary["groups"]["trained"] == 16 * GROUPS_PER_BATCH
    assert run.steps() == list(range(1, 17))
    after = run.digests()
    assert {version: after[version] for version in before} == before, "a version was published with two contents"
    assert summary["policy_versions"] == sorted(set(summary["policy_versions"]))
    assert max(after) > 16, "rolled-back numbers must not be used again"
    assert stream_length(world, run.run_id) == 0


def test_two_ranks_begin_a_run_that_one_goes_on_with(world, make_run):
    run = make_run("ranks")
    config = run.config(total_steps=12)
    learner = run.learner(config, ranks=2).start()
    run.wait_for_step(5, learner)
    assert learner.terminate() == 128 + signal.SIGTERM
    with run.learner(config) as learner:
        summary = run.finish(learner)
    assert_closed(summary)
    assert run.steps() == list(range(1, 13))
    assert summary["attempts"]["orphaned"] == 0
    assert summary["mismatch"]["logprob_abs_mean"] < 1e-5


def test_run_survives_redis_being_killed(world, make_run):
    run = make_run("redis")
    with run.learner(run.config(total_steps=14)) as learner:
        run.wait_for_step(3, learner)
        world.redis.restart()
        run.wait_for_step(7, learner)
        world.redis.restart()
        summary = run.finish(learner, timeout_s=150)
    assert_closed(summary)
    assert summary["groups"]["trained"] == 14 * GROUPS_PER_BATCH
    assert run.steps() == list(range(1, 15))


def test_terminated_run_leaves_a_checkpoint_and_goes_on(make_run):
    run = make_run("term")
    config = run.config(total_steps=10, checkpoint={"every_steps": 100, "keep": 2})
    learner = run.learner(config).start()
    run.wait_for_step(3, learner)
    assert learner.terminate() == 128 + signal.SIGTERM
    assert run.summary()["outcome"] == "interrupted"
    done = run.summary()["steps"]
    assert done >= 3
    with run.learner(config) as learner:
        summary = run.finish(learner)
    assert_closed(summary)
    assert run.steps() == list(range(1, 11))
    assert summary["attempts"]["orphaned"] == 0, "nothing was rolled back"
    assert summary["policy_versions"] == list(range(11))


def test_finished_run_goes_on_when_it_is_given_more_steps(make_run):
    run = make_run("again")
    with run.learner(run.config(total_steps=2)) as learner:
        run.finish(learner)
    with run.learner(run.config(total_steps=4)) as learner:
        summary = run.finish(learner)
    assert_closed(summary)
    assert (summary["steps"], run.steps()) == (4, [1, 2, 3, 4])
    with run.learner(run.config(total_steps=4)) as learner:
        assert run.finish(learner)["steps"] == 4


def test_broken_reward_function_ends_the_run_and_is_named(make_run):
    run = make_run("broken")
    function = REWARD_FUNCTION.replace("few_es", "broken")
    with run.learner(run.config(reward={"function": function}, max_attempts=1)) as learner:
        assert learner.wait(60) == 1
        last = learner.log().strip().splitlines()[-1]
    assert "prompt groups in a row were abandoned" in last
    assert "this reward is broken on purpose" in last


def test_dropping_stale_groups_closes_the_accounting_too(make_run):
    run = make_run("drop")
    with run.learner(run.config(staleness="drop", max_staleness=1, total_steps=8)) as learner:
        summary = run.finish(learner)
    assert_closed(summary)
    assert summary["staleness"]["max"] <= 1
    assert summary["groups"]["trained"] == 8 * GROUPS_PER_BATCH


def test_damaged_checkpoint_is_passed_over(world, make_run):
    run = make_run("plain")
    checkpoints = RunCheckpoints(
        ArtifactStore(world.artifacts.as_uri()), run.run_id, CheckpointConfig(), scratch=world.folder / "scratch"
    )
    newest, older = [
        entry["name"] for entry in json.loads((run.folder / "checkpoints" / "LATEST.json").read_text())["checkpoints"]
    ]
    assert checkpoints.load().name == newest
    state = run.folder / "checkpoints" / newest / "run.json"
    state.write_bytes(state.read_bytes().replace(b"totals", b"TOTALS"))
    assert checkpoints.load().name == older
