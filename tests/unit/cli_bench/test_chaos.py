"""The parts of the chaos bench that need no system: the plan, what is checked, how speed is judged."""

import itertools
import json
import math

import pytest

from preceptor.cli.bench import chaos_world
from preceptor.cli.bench.chaos import figures_of, parse_kinds
from preceptor.cli.bench.chaos_checks import (
    accounting_gaps,
    read_rows,
    trained_groups,
    trained_twice,
    versions_with_two_contents,
)
from preceptor.cli.bench.chaos_plan import KINDS, VARIANTS, plan
from preceptor.cli.bench.chaos_speed import back_at, rate, trained_at
from preceptor.common.errors import FailedPrecondition, InvalidInput

VICTIMS = ["redis", "reward", "learner-rl"]
GROUPS = {"issued": 5, "trained": 4, "abandoned": 1, "in_flight": 0}
ATTEMPTS = {
    "sent": 7,
    "trained": 4,
    "stale": 0,
    "orphaned": 1,
    "duplicate": 0,
    "failed": 1,
    "expired": 1,
    "in_flight": 0,
}


def rounds(seed: int, count: int, kinds=KINDS):
    return list(itertools.islice(plan(seed, kinds, VICTIMS, shortest_s=1.0, longest_s=20.0), count))


def trained(step: int, *groups: int, at: float = 0.0) -> dict:
    return {"event": "trained", "step": step, "groups": list(groups), "time": at}


def test_a_seed_says_what_goes_wrong():
    assert rounds(3, 40) == rounds(3, 40)
    assert rounds(3, 40) != rounds(4, 40)


def test_every_kind_meets_every_victim_before_a_pair_comes_again():
    firsts = [(faults[0].kind, faults[0].victim) for faults in rounds(0, len(KINDS) * len(VICTIMS))]
    assert sorted(firsts) == sorted(itertools.product(KINDS, VICTIMS))


def test_faults_are_held_within_bounds_and_a_kill_is_not_held():
    for fault in itertools.chain.from_iterable(rounds(1, 200)):
        assert fault.variant in VARIANTS[fault.kind]
        assert (fault.hold_s == 0) if fault.kind == "kill" else (1.0 <= fault.hold_s <= 20.0)


def test_two_faults_of_a_round_have_different_victims():
    double = [faults for faults in rounds(2, 200) if len(faults) == 2]
    assert double
    assert all(first.victim != second.victim for first, second in double)


def test_kinds_are_read_and_an_unknown_one_is_named():
    assert parse_kinds("kill, cut,kill") == ("kill", "cut")
    with pytest.raises(InvalidInput, match="choose among kill, freeze, cut, slow"):
        parse_kinds("kill,flood")
    with pytest.raises(InvalidInput):
        parse_kinds("")


def test_what_a_restart_undid_counts_as_not_trained():
    history = [trained(1, 0, 1), trained(2, 2, 3), {"event": "restored", "step": 1}, trained(2, 2, 4)]
    assert trained_groups(history) == {0: 1, 1: 1, 2: 1, 4: 1}
    assert trained_twice(history) == []


def test_a_group_in_two_steps_is_found():
    assert trained_twice([trained(1, 0, 1), trained(2, 1, 2)]) == [1]


def test_a_version_with_two_contents_is_found_in_history_and_store(tmp_path):
    published = {"event": "published", "policy_version": 3, "content_digest": "a", "step": 3}
    other = {**published, "content_digest": "b"}
    assert versions_with_two_contents([published, published], tmp_path) == []
    assert versions_with_two_contents([published, other], tmp_path) == [3]
    (tmp_path / "00000003").mkdir()
    (tmp_path / "00000003" / "manifest.json").write_text(json.dumps({"contentDigest": "c"}))
    assert versions_with_two_contents([published], tmp_path) == [3]


def test_closed_books_have_no_gap():
    assert accounting_gaps(GROUPS, ATTEMPTS, [trained(1, 0, 1), trained(2, 2, 3)]) == []


@pytest.mark.parametrize(
    ("groups", "attempts"),
    [
        ({"issued": 6}, {}),
        ({"in_flight": 1}, {}),
        ({}, {"sent": 8}),
        ({}, {"in_flight": 1, "sent": 8}),
        ({"trained": 5, "issued": 6}, {}),
        ({"trained": 5, "issued": 6}, {"trained": 5, "sent": 8}),
    ],
)
def test_every_identity_of_the_books_is_checked(groups, attempts):
    history = [trained(1, 0, 1), trained(2, 2, 3)]
    assert accounting_gaps(GROUPS | groups, ATTEMPTS | attempts, history) != []


def test_a_line_that_is_still_being_written_is_left_out(tmp_path):
    path = tmp_path / "history.jsonl"
    assert read_rows(path) == []
    path.write_text('{"event": "restored", "step": 1}\n{"event": "tra')
    assert read_rows(path) == [{"event": "restored", "step": 1}]


def test_the_rate_counts_rollouts_of_undone_steps_too():
    history = [trained(1, 0, 1, at=10.0), {"event": "restored", "step": 0, "time": 11.0}, trained(1, 0, 1, at=12.0)]
    assert rate(trained_at(history, 4), 8.0, 12.0) == 4.0


def test_speed_is_back_from_the_moment_on_which_a_whole_window_is_fast():
    steady = [(at / 10, 10) for at in range(1000)]  # 100 rollouts/s
    stalled = [(at, count) for at, count in steady if not 50 <= at < 57]
    back = back_at(stalled, 50.0, 100.0, 99.0, window_s=5.0)
    assert back is not None
    assert 56.3 <= back <= 57.1
    assert back_at(steady, 50.0, 100.0, 99.0, window_s=5.0) == 50.0


def test_speed_is_not_back_before_a_window_has_passed_or_when_it_stays_low():
    steady = [(at / 10, 10) for at in range(1000)]
    assert back_at(steady, 50.0, 100.0, 54.9, window_s=5.0) is None
    assert back_at(steady[::2], 50.0, 100.0, 99.0, window_s=5.0) is None


def test_figures_miss_their_goals_when_something_does_not_hold():
    kill = {"kind": "kill", "variant": "process", "victim": "generation-0", "hold_s": 0.0}
    taken = {"faults": [kill], "before": 90.0, "repaired_s": 1.0, "start_s": 12.0, "recovery_s": 2.0}
    good = {"rounds": [taken], "exit_code": 0, "gaps": [], "twice": [], "two_contents": [], "left": []}
    good |= {"trained_rollouts": 100, "restarts": 0}
    figures = {figure.name: figure for figure in figures_of(good)}
    assert all(figure.holds is not False for figure in figures.values())
    assert figures["recovery.max"].value == 2.0
    assert figures["start.generation.max"].value == 12.0
    assert math.isnan(figures["start.learner-rl.max"].value)
    for bad in ({"gaps": ["x"]}, {"twice": [1]}, {"two_contents": [1]}, {"left": ["x"]}, {"exit_code": 1}):
        assert any(figure.holds is False for figure in figures_of(good | bad))
    for missed in ({"recovery_s": None}, {"recovery_s": 11.0}):
        assert any(figure.holds is False for figure in figures_of(good | {"rounds": [taken | missed]}))


def test_a_missing_program_is_named_with_its_package(monkeypatch):
    monkeypatch.setitem(chaos_world._PROGRAMS, "no-such-program", "no-such-package")
    with pytest.raises(FailedPrecondition, match="no-such-package"):
        chaos_world.enter(["true"])


def test_a_machine_that_permits_no_namespaces_says_so(monkeypatch, tmp_path):
    refusing = tmp_path / "unshare"
    refusing.write_text("#!/bin/sh\necho 'unshare failed: Operation not permitted' >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(FailedPrecondition, match=r"permits no network namespaces.*Operation not permitted"):
        chaos_world.enter(["true"])
