"""Recording and replaying batches: what comes back, in whose version numbers, and what is refused."""

import json

import pytest

from preceptor.common.errors import FailedPrecondition, InvalidInput, NotFound
from preceptor.learner.adapters.recording import Recorder, Recording, ReplayPump
from preceptor.learner.pump.lineage import PolicyLineage
from preceptor.learner.pump.results import Batch, GroupResult
from preceptor.learner.types import Experience


def batch(index: int, *spans: tuple[int, int, int]) -> Batch:
    experience = Experience(
        f"r/{index}/1/0", f"r/{index}", index, (5, 6), (7, 8), (-0.25, -1e-9), spans, 0.5, True, 3, weight=0.5
    )
    return Batch((GroupResult(f"{index}-0", "r", index, 1, (experience,), ("ab",), 3),), (1,))


def recorded(path, lineage: PolicyLineage, *batches: Batch) -> Recorder:
    recorder = Recorder(path, lineage)
    recorder.rewind(0)
    for step, one in enumerate(batches, start=1):
        lineage.advance(lineage.version + 1)
        assert recorder.step_done(step, lineage.version, one, {}) == {}
    return recorder


def test_batches_come_back_as_they_were(tmp_path):
    path = tmp_path / "deep" / "r.jsonl"
    recorded(path, PolicyLineage(), batch(0, (0, 0, 2)), batch(1, (0, 0, 1), (1, 1, 2)))
    pump = ReplayPump(Recording(path), "r", None)
    taken = pump.take(1.0)
    assert taken.experiences == list(batch(0, (0, 0, 2)).experiences)
    assert (taken.groups[0].completions, taken.staleness) == (("ab",), (1,))
    pump.trained(taken, 1)
    assert pump.take(1.0).experiences == list(batch(1, (0, 0, 1), (1, 1, 2)).experiences)


def test_versions_are_those_of_the_replay(tmp_path):
    path = tmp_path / "r.jsonl"
    recorded(path, PolicyLineage(), batch(0, (0, 0, 2)), batch(1, (0, 0, 1), (1, 1, 2)))
    pump = ReplayPump(Recording(path), "r", None)
    pump.republish(4)  # a restart at step 0, after version 3 had been reserved
    assert pump.take(1.0).experiences[0].version_spans == ((4, 0, 2),)
    pump.trained(pump.take(1.0), 5)
    assert pump.take(1.0).experiences[0].version_spans == ((0, 0, 1), (5, 1, 2))


def test_a_replay_goes_on_from_its_checkpoint_with_closed_accounting(tmp_path):
    path = tmp_path / "r.jsonl"
    recorded(path, PolicyLineage(), batch(0, (0, 0, 2)), batch(1, (1, 0, 2)))
    pump = ReplayPump(Recording(path), "r", None)
    pump.trained(pump.take(1.0), 1)
    state, entries = pump.snapshot()
    again = ReplayPump(Recording(path), "r", json.loads(json.dumps(state)))
    assert entries == []
    again.trained(again.take(1.0), 2)
    again.accounting.check()
    assert (again.accounting.groups.trained, again.accounting.attempts.sent) == (2, 2)
    with pytest.raises(FailedPrecondition, match="holds 2 steps, and step 3 is asked for: lower total_steps"):
        again.take(1.0)


def test_a_recorder_drops_what_was_rolled_back_and_what_was_cut_short(tmp_path):
    path = tmp_path / "r.jsonl"
    recorder = recorded(path, PolicyLineage(), batch(0, (0, 0, 2)), batch(1, (0, 0, 2)), batch(2, (0, 0, 2)))
    with path.open("a") as stream:
        stream.write('{"step": 4, "gro')
    assert Recording(path).steps == 3
    recorder.rewind(1)
    assert Recording(path).steps == 1


@pytest.mark.parametrize("line", ["{}", "[]", "nonsense", '{"step": 2, "groups": [1]}', '{"step": 1, "groups": []}'])
def test_broken_recordings_name_the_line(tmp_path, line):
    (tmp_path / "r.jsonl").write_text(line + "\n")
    with pytest.raises(InvalidInput, match=r"r\.jsonl:1: "):
        Recording(tmp_path / "r.jsonl")


def test_a_missing_recording_is_named(tmp_path):
    with pytest.raises(NotFound, match="replay: no recording at"):
        Recording(tmp_path / "none.jsonl")
