"""Monitor, control, phases and totals."""

import threading

import pytest

from preceptor.common.errors import DeadlineExceeded, FailedPrecondition
from preceptor.common.telemetry import BusyClock
from preceptor.common.waiting import wait_until
from preceptor.learner.monitor import RunControl, RunMonitor, RunState, StepMetrics
from preceptor.learner.phases import WAIT, PhaseClock
from preceptor.learner.totals import RunTotals


def test_monitor_keeps_history_and_tells_listeners():
    monitor, calls = RunMonitor("r", "rl"), []
    monitor.subscribe(lambda: calls.append(monitor.snapshot.step))
    for step in (1, 2, 3):
        monitor.step_done(StepMetrics(step, step, {"loss": float(step)}, 0.0), policy_version=step)
    assert calls == [1, 2, 3]
    assert [item.step for item in monitor.steps_after(1)] == [2, 3]
    assert (monitor.snapshot.policy_version, monitor.snapshot.metrics) == (3, {"loss": 3.0})


def test_checkpoint_request_is_answered_by_a_later_checkpoint_only():
    control, answers = RunControl(), []
    thread = threading.Thread(target=lambda: answers.append(control.checkpoint(5)))
    thread.start()
    wait_until(lambda: control.checkpoint_wanted == 1, 5, "the request")
    control.checkpoint_done(0, 3, "begun-before")
    assert answers == []
    control.checkpoint_done(control.checkpoint_wanted, 4, "uri")
    thread.join(5)
    assert answers == [(4, "uri")]
    assert control.checkpoint_wanted == 0


def test_checkpoint_request_ends_with_the_run_or_its_deadline():
    control = RunControl()
    with pytest.raises(DeadlineExceeded, match=r"no checkpoint within 0\.01 s"):
        control.checkpoint(0.01)
    control.ended()
    with pytest.raises(FailedPrecondition, match="the run has ended"):
        control.checkpoint(5)


def test_stop_ends_a_pause_and_keeps_its_first_reason():
    control = RunControl()
    control.pause()
    assert control.paused
    assert not control.leaving
    control.stop("enough")
    control.stop("other")
    assert (control.paused, control.leaving, control.stop_reason) == (False, True, "enough")


def test_interruption_is_no_stop():
    control = RunControl()
    control.interrupt()
    assert (control.leaving, control.interrupted, control.stop_reason) == (True, True, None)


def test_only_waiting_is_not_busy():
    busy = BusyClock("learner-test")
    clock = PhaseClock(busy, {"train": 5.0, WAIT: 9.0})
    with clock(WAIT):
        assert busy.total_s == 0.0
    with clock("train"):
        pass
    seconds = clock.next_step()
    assert set(seconds) == {WAIT, "train"}
    assert clock.next_step() == {}
    assert clock.busy_s == pytest.approx(5.0, abs=0.5)


def test_critic_trains_alone_after_a_switch_of_the_reward_model():
    totals = RunTotals()
    versions = [1, 1, 2, 2, 2, 3, 3]
    assert [totals.critic_only(version, 2) for version in versions] == [
        False, False, True, True, False, True, True,
    ]  # fmt: skip


def test_totals_survive_a_checkpoint():
    totals = RunTotals(step=3, reward_model_version=2, critic_only_left=1)
    totals.published(4, 3, 0.5)
    assert RunTotals.restored(totals.snapshot()) == totals
    assert totals.summary()["policy_versions"] == [4]


@pytest.mark.parametrize("state", list(RunState))
def test_every_state_has_a_proto_value(state):
    from preceptor.api.learner.v1 import learner_service_pb2

    assert f"RUN_STATE_{state.value.upper()}" in dict(learner_service_pb2.RunState.items())
