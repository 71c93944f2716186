"""Loops from beginning to end, and through crashes at every call."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from preceptor.common.waiting import wait_until
from preceptor.conductor.engine import LoopEngine
from preceptor.conductor.loop_config import LoopConfig, plan
from preceptor.conductor.store.loops import LoopStore
from preceptor.conductor.types import LabelCounts, LoopRecord, LoopState, StageState
from tests.unit.conductor.loop_world import Crash, FakeWorld, loop_yaml


def create(fake: FakeWorld, text: str) -> None:
    config = LoopConfig.model_validate(yaml.safe_load(text))
    fake.world().loops.create_loop("loop", text, config.iterations, plan(config))


def run(fake: FakeWorld, **engine: Any) -> LoopRecord:
    """Runs the loop in this thread, as the engine's own does."""
    LoopEngine(fake.world(), retry_interval_s=0.001, **engine)._run("loop")
    return fake.world().loops.get_loop("loop")


def test_a_loop_of_two_iterations_runs_every_stage_in_order(tmp_path: Path) -> None:
    fake = FakeWorld(tmp_path)
    create(fake, loop_yaml(tmp_path))
    loop = run(fake)
    assert (loop.state, loop.error) == (LoopState.SUCCEEDED, "")
    assert [s.name for s in loop.stages] == [
        "sft", "publish", "collect-1", "labels-1", "reward-1", "promote-1", "rl-1",
        "labels-2", "reward-2", "promote-2", "rl-2",
    ]  # fmt: skip
    assert all(s.state is StageState.DONE and s.started_at and s.finished_at for s in loop.stages)
    assert fake.starts == ["loop-sft", "loop-reward-1", "loop-rl", "loop-reward-2"]
    assert fake.current == 2
    assert fake.jobs == {}, "finished jobs are taken from the launcher"


def test_each_reward_run_is_pinned_to_the_labels_in_force_when_it_began(tmp_path: Path) -> None:
    fake = FakeWorld(tmp_path)
    create(fake, loop_yaml(tmp_path))
    run(fake)
    newest, first = fake.world().registry.list_models(0, 10)
    assert first.rankings == first.label_high_water_mark >= 10
    assert newest.rankings == newest.label_high_water_mark >= 20
    assert (first.promoted, newest.promoted) == (False, True)
    config = yaml.safe_load(fake.world().loops.find_run("loop-reward-2").config_yaml)
    assert config["labels"]["label_hash"] == newest.label_hash
    assert len(Path(config["data"][0]["path"]).read_text().splitlines()) == newest.rankings


def test_the_rl_run_pauses_for_the_next_reward_model_and_goes_on(tmp_path: Path) -> None:
    fake = FakeWorld(tmp_path)
    create(fake, loop_yaml(tmp_path))
    run(fake)
    assert fake.pauses >= 1
    config = yaml.safe_load(fake.world().loops.find_run("loop-rl").config_yaml)
    assert config["total_steps"] == 6
    assert config["feedback"] == {"share": 0.5, "project": "p"}
    assert config["critic_init"].endswith("reward-models/000001")


def test_lineage_runs_from_policy_to_votes_and_back(tmp_path: Path) -> None:
    fake = FakeWorld(tmp_path)
    create(fake, loop_yaml(tmp_path))
    run(fake)
    registry = fake.world().registry
    assert [m.reward_model_version for m in registry.models_behind("loop-rl", 1)[0]] == [1]
    assert [m.reward_model_version for m in registry.models_behind("loop-rl", 6)[0]] == [1, 2]
    assert registry.models_behind("loop-rl", 0) == ([], fake.artifacts.path("runs/loop-sft/model"))
    models, ranges = registry.touched_by("event-0")
    assert [m.reward_model_version for m in models] == [1, 2]
    assert [(r.run_id, r.first_policy_version, r.last_policy_version) for r in ranges] == [("loop-rl", 1, 6)]
    late = registry.touched_by(fake.rankings[19])
    assert [m.reward_model_version for m in late[0]] == [2]
    assert late[1][0].first_policy_version > 3
    assert registry.touched_by("nobody's") == ([], [])


def state_of(store: LoopStore, stage: str) -> StageState:
    return next(s.state for s in store.get_loop("loop").stages if s.name == stage)


def calls_of_a_whole_run(root: Path) -> int:
    fake = FakeWorld(root)
    create(fake, loop_yaml(root))
    run(fake)
    return next(fake.calls)


@pytest.mark.slow
def test_a_conductor_killed_before_any_call_goes_on_and_finishes_alike(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    total = calls_of_a_whole_run(tmp_path / "whole")
    assert total > 60
    for crash in range(1, total, 4):
        root = tmp_path / f"crash-{crash}"
        root.mkdir()
        fake = FakeWorld(root)
        create(fake, loop_yaml(root))
        fake.crash_before = crash
        with pytest.raises(Crash):
            run(fake)
        loop = run(fake)
        assert loop.state is LoopState.SUCCEEDED, (crash, loop.error)
        assert sorted(fake.starts) == sorted(set(fake.starts)), f"crash before call {crash} started a job twice"
        collected = [i for i, (source, _) in fake.comparisons.items() if source == "loop-rl-collect-1"]
        assert len(collected) == 12
        assert [m.reward_model_version for m in fake.world().registry.list_models(0, 10)] == [2, 1]
        for model in fake.world().registry.list_models(0, 10):
            pinned = [e for e in fake.rankings if model in fake.world().registry.touched_by(e)[0]]
            assert len(pinned) == model.rankings, f"crash before call {crash} lost lineage"


def test_a_service_out_of_reach_is_waited_for(tmp_path: Path) -> None:
    fake = FakeWorld(tmp_path)
    create(fake, loop_yaml(tmp_path))
    fake.unavailable = set(range(5, 200, 7))
    assert run(fake).state is LoopState.SUCCEEDED
    events = fake.world().loops.events_after("loop", 0)
    assert any(e.message.startswith("waiting") and "restarts" in e.message for e in events)


def test_a_service_that_stays_away_fails_the_loop_with_its_reason(tmp_path: Path) -> None:
    fake = FakeWorld(tmp_path)
    create(fake, loop_yaml(tmp_path))
    fake.unavailable = set(range(1, 100_000))
    loop = run(fake, patience_s=0.05)
    assert loop.state is LoopState.FAILED
    assert loop.error == "the service restarts"
    assert loop.stages[0].state is StageState.FAILED


def test_a_loop_whose_models_never_pass_the_gate_trains_no_policy_and_says_what_to_do(tmp_path: Path) -> None:
    fake = FakeWorld(tmp_path)
    fake.heldout_accuracy = 0.5
    create(fake, loop_yaml(tmp_path))
    loop = run(fake)
    assert loop.state is LoopState.FAILED
    assert "loop-rl" not in fake.starts
    assert fake.starts[-1] == "loop-reward-2", "more labels get another chance"
    assert next(s.message for s in loop.stages if s.name == "rl-1").startswith("skipped")
    assert "held-out accuracy 0.500 is below 0.55" in loop.error
    assert "collect more labels" in loop.error
    assert fake.current == 0


def test_a_later_model_below_the_gate_leaves_the_one_before_in_place(tmp_path: Path) -> None:
    fake = FakeWorld(tmp_path)
    create(fake, loop_yaml(tmp_path))
    original = fake._write_output

    def worse_later(run_id: str, job: dict[str, Any]) -> None:
        fake.heldout_accuracy = 0.4 if run_id.endswith("-2") else 0.7
        original(run_id, job)

    fake._write_output = worse_later  # type: ignore[method-assign]
    assert run(fake).state is LoopState.SUCCEEDED
    assert fake.current == 1
    newest = fake.world().registry.list_models(0, 1)[0]
    assert newest.gate.startswith("held-out accuracy 0.400")


def test_a_model_that_is_sure_of_nothing_is_refused_however_lucky_its_accuracy(tmp_path: Path) -> None:
    fake = FakeWorld(tmp_path)
    fake.score_sd = 0.09
    create(fake, loop_yaml(tmp_path))
    loop = run(fake)
    assert "raw scores spread by 0.090 log-odds, less than 0.25" in loop.error
    assert fake.current == 0


def test_a_second_model_that_passes_starts_the_rl_run_that_the_first_could_not(tmp_path: Path) -> None:
    fake = FakeWorld(tmp_path)
    create(fake, loop_yaml(tmp_path))
    original = fake._write_output

    def better_later(run_id: str, job: dict[str, Any]) -> None:
        fake.heldout_accuracy = 0.7 if run_id.endswith("-2") else 0.5
        original(run_id, job)

    fake._write_output = better_later  # type: ignore[method-assign]
    assert run(fake).state is LoopState.SUCCEEDED
    assert fake.starts == ["loop-sft", "loop-reward-1", "loop-reward-2", "loop-rl"]


def test_a_flipped_sign_is_caught_by_the_probe(tmp_path: Path) -> None:
    fake = FakeWorld(tmp_path)
    probe = tmp_path / "probe.jsonl"
    probe.write_text(json.dumps({"prompt": "p", "chosen": "longer is better", "rejected": "short"}) + "\n")
    text = loop_yaml(tmp_path, reward={"run": {}, "gate": {"probe": str(probe)}})
    create(fake, text)
    fake.probe_score = lambda completion: -len(completion)
    loop = run(fake)
    assert "the sign may be flipped" in loop.error
    assert fake.current == 0


def test_a_reward_service_that_forgot_its_model_gets_it_back(tmp_path: Path) -> None:
    fake = FakeWorld(tmp_path)
    create(fake, loop_yaml(tmp_path))
    original = fake.snapshot

    def forget_once(project_id: str) -> Any:
        fake.current = 0
        return original(project_id)

    fake.snapshot = forget_once  # type: ignore[method-assign]
    run(fake)
    assert any("loaded again" in e.message for e in fake.world().loops.events_after("loop", 0))


def test_a_loop_asked_to_stop_ends_and_takes_its_jobs_with_it(tmp_path: Path) -> None:
    fake = FakeWorld(tmp_path)
    create(fake, loop_yaml(tmp_path, labels={"targets": [10, 1_000_000]}))
    engine = LoopEngine(fake.world())
    engine.start("loop")
    store = fake.world().loops
    wait_until(lambda: state_of(store, "labels-2") is StageState.RUNNING, 20, "the second labels stage")
    store.request_stop("loop")
    wait_until(lambda: store.get_loop("loop").state is LoopState.STOPPED, 20, "the loop to stop")
    assert fake.stopped == ["loop-rl"], "the run closes its accounting by itself"
    assert fake.jobs == {}


def test_a_leaving_conductor_leaves_loop_and_jobs_for_the_next(tmp_path: Path) -> None:
    fake = FakeWorld(tmp_path)
    create(fake, loop_yaml(tmp_path, labels={"targets": [10, 1_000_000]}))
    engine = LoopEngine(fake.world())
    engine.start("loop")
    store = fake.world().loops
    wait_until(lambda: "loop-rl" in fake.jobs, 20, "the loop")
    engine.leave(5.0)
    assert store.get_loop("loop").state is LoopState.RUNNING
    assert store.running_loops() == ["loop"]
    assert "loop-rl" in fake.jobs


def test_too_few_live_comparisons_are_topped_up_from_the_newest_policy(tmp_path: Path) -> None:
    fake = FakeWorld(tmp_path)
    create(fake, loop_yaml(tmp_path, labels={"targets": [10, 60]}))
    assert run(fake).state is LoopState.SUCCEEDED
    sources = {source for source, _ in fake.comparisons.values()}
    assert "loop-rl-labels-2" in sources
    assert len(fake.rankings) >= 60


def test_without_rl_the_policy_stays_and_every_iteration_collects(tmp_path: Path) -> None:
    fake = FakeWorld(tmp_path)
    create(fake, loop_yaml(tmp_path, rl=None))
    loop = run(fake)
    assert loop.state is LoopState.SUCCEEDED
    assert [s.name for s in loop.stages if s.name.startswith(("collect", "rl"))] == ["collect-1", "collect-2"]
    assert fake.artifacts.get_json("runs/loop-rl/policy/LATEST.json")["policy_version"] == 0


def test_labels_that_never_come_fail_the_loop_after_the_configured_wait(tmp_path: Path) -> None:
    fake = FakeWorld(tmp_path)
    create(fake, loop_yaml(tmp_path, labels={"targets": [10, 60], "timeout_s": 0.05}))
    fake.counts = lambda project_id: LabelCounts(3, 5)  # type: ignore[method-assign]
    loop = run(fake)
    assert loop.state is LoopState.FAILED
    assert "3 of 10 rankings" in loop.error
