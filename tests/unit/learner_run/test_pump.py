"""The pump's threads over a scripted stream and sender."""

import queue
from collections.abc import Iterable

import pytest

from preceptor.common.errors import FailedPrecondition, Unavailable
from preceptor.common.waiting import wait_until
from preceptor.learner.pump.attempts import AttemptLimits, SendOrder
from preceptor.learner.pump.credit import Credit
from preceptor.learner.pump.in_flight import InFlightLimit, LimitBounds
from preceptor.learner.pump.ledger import Ledger
from preceptor.learner.pump.lineage import PolicyLineage
from preceptor.learner.pump.ports import PumpSettings
from preceptor.learner.pump.pump import Pump
from preceptor.learner.pump.results import GroupResult, ResultFailure
from preceptor.learner.pump.staleness import DropOlderThan, StalenessPolicy, WaitForAll, WeightDown
from preceptor.learner.types import Experience

CREDIT = Credit(batch_size=4, group_size=2, max_staleness=1, checkpoint_every_steps=2)


class Stream:
    """Entries in memory; `broken` makes every call fail as a Redis that is away."""

    def __init__(self) -> None:
        self.arriving: queue.Queue[GroupResult] = queue.Queue()
        self.acknowledged: list[str] = []
        self.broken = False

    def read(self, timeout_s: float) -> list[GroupResult]:
        if self.broken:
            raise Unavailable("Redis does not answer")
        try:
            return [self.arriving.get(timeout=0.02)]
        except queue.Empty:
            return []

    def acknowledge(self, entry_ids: Iterable[str]) -> None:
        if self.broken:
            raise Unavailable("Redis does not answer")
        self.acknowledged += entry_ids


class Sender:
    def __init__(self) -> None:
        self.sent: list[tuple[int, int, int]] = []  # issue index, attempt, min_policy_version
        self.broken = False

    def send(self, order: SendOrder, min_policy_version: int) -> None:
        if self.broken:
            raise Unavailable("Redis does not answer")
        self.sent.append((order.issue_index, order.attempt, min_policy_version))


def result(index: int, attempt: int = 1, *, version: int = 0, entry: str = "", run_id: str = "run") -> GroupResult:
    rollouts = tuple(
        Experience(
            rollout_id=f"run/{index}/{attempt}/{i}",
            group_id=f"run/{index}",
            issue_index=index,
            prompt_token_ids=(1,),
            token_ids=(2, 3),
            sampling_logprobs=(-1.0, -1.0),
            version_spans=((version, 0, 2),),
            score=1.0,
            finished=True,
            reward_model_version=1,
        )
        for i in range(2)
    )
    return GroupResult(entry or f"{index}-{attempt}", run_id, index, attempt, rollouts, ("a", "b"), 1)


def failure(index: int, attempt: int = 1, *, retryable: bool = True) -> GroupResult:
    reason = ResultFailure("reward", "NAN_SCORE", "the score is nan", retryable)
    return GroupResult(f"{index}-{attempt}-f", "run", index, attempt, (), (), 0, failure=reason)


class Rig:
    def __init__(
        self,
        *,
        policy: StalenessPolicy | None = None,
        lineage: PolicyLineage | None = None,
        deadline_s: float = 30.0,
        straggler_factor: float = 0.0,
        limit: InFlightLimit | None = None,
    ) -> None:
        self.stream, self.sender = Stream(), Sender()
        settings = PumpSettings(
            "run", groups_per_batch=2, group_size=2, total_steps=100, max_consecutive_abandoned=3,
            read_timeout_s=0.02, send_backoff_s=0.01, straggler_factor=straggler_factor, min_patience_s=0.2,
        )  # fmt: skip
        ledger = Ledger(AttemptLimits(deadline_s, 2), max_adopted_groups=CREDIT.max_unacknowledged_groups)
        self.pump = Pump(
            settings, CREDIT, ledger, lineage or PolicyLineage(), policy or WaitForAll(1), self.stream, self.sender,
            limit=limit,
        )  # fmt: skip

    def wait_sent(self, count: int) -> None:
        wait_until(lambda: len(self.sender.sent) >= count, 5, f"{count} attempts to be sent, got {self.sender.sent}")

    def deliver(self, *results: GroupResult) -> None:
        for item in results:
            self.stream.arriving.put(item)


@pytest.fixture
def rig():
    rig = Rig()
    rig.pump.start()
    yield rig
    rig.pump.stop()


def test_issues_up_to_the_credit_and_no_further(rig):
    rig.wait_sent(4)
    assert [index for index, _, _ in rig.sender.sent] == [0, 1, 2, 3]
    assert rig.pump.take(0.1) is None
    assert len(rig.sender.sent) == 4


def test_batches_come_in_issue_order_and_training_frees_credit(rig):
    rig.wait_sent(4)
    rig.deliver(result(1), result(3), result(0))
    batch = rig.pump.take(5)
    assert batch.issue_indexes == [0, 1]
    assert len(batch.experiences) == 4
    rig.pump.trained(batch, 1)
    rig.wait_sent(6)
    assert [index for index, _, _ in rig.sender.sent[4:]] == [4, 5]


def test_requests_ask_for_weights_that_keep_within_max_staleness(rig):
    rig.wait_sent(4)
    assert [minimum for _, _, minimum in rig.sender.sent] == [0, 0, 0, 0]
    rig.deliver(result(0), result(1))
    rig.pump.trained(rig.pump.take(5), 1)
    rig.wait_sent(6)
    assert [minimum for _, _, minimum in rig.sender.sent[4:]] == [1, 1], "used at step 2, one step stale at most"


def test_requests_of_the_drop_policy_ask_for_no_version_that_is_not_published_yet():
    rig = Rig(policy=DropOlderThan(1))
    rig.pump.start()
    rig.wait_sent(4)
    rig.deliver(result(0), result(1))
    rig.pump.trained(rig.pump.take(5), 1)
    rig.wait_sent(6)
    rig.pump.published(1)
    rig.deliver(result(2), result(3))
    rig.pump.trained(rig.pump.take(5), 2)
    rig.wait_sent(8)
    rig.pump.stop()
    assert [minimum for _, _, minimum in rig.sender.sent[4:]] == [0, 0, 1, 1]


def test_requests_never_ask_for_less_than_the_version_after_a_rollback():
    lineage = PolicyLineage(version=3, step=3)
    lineage.republish(8)
    rig = Rig(lineage=lineage)
    rig.pump.start()
    rig.wait_sent(4)
    rig.pump.stop()
    assert {minimum for _, _, minimum in rig.sender.sent} == {8}


def test_rollouts_of_rolled_back_versions_are_orphaned_and_asked_for_again():
    lineage = PolicyLineage(version=3, step=3)
    lineage.republish(8)
    rig = Rig(lineage=lineage)
    rig.pump.start()
    rig.wait_sent(4)
    rig.deliver(result(0, version=5))
    rig.wait_sent(5)
    rig.pump.stop()
    assert rig.sender.sent[4] == (0, 2, 8)
    assert rig.pump.accounting.attempts.orphaned == 1


@pytest.mark.parametrize("version", [7, 0], ids=["rolled-back", "too-old-when-its-turn-comes"])
def test_groups_too_far_ahead_for_weights_young_enough_are_held_back_after_a_rollback(version):
    rig = Rig(policy=WaitForAll(0))
    rig.deliver(result(4, version=version))  # of the process that died: it had come to step 3
    rig.pump.start()
    wait_until(lambda: rig.pump.accounting.attempts.orphaned == 1, 5, "the orphan")
    rig.deliver(*(result(index, version=0) for index in range(2)))
    batch = rig.pump.take(5)
    assert [index for index, _, _ in rig.sender.sent] == [], "4 is used at step 2, and there are weights of step 0"
    rig.pump.trained(batch, 1)
    rig.deliver(result(2, version=1), result(3, version=1))
    rig.pump.trained(rig.pump.take(5), 2)
    wait_until(lambda: (4, 2, 2) in rig.sender.sent, 5, "the orphan's new attempt")
    rig.pump.stop()


def test_failed_group_is_sent_again(rig):
    rig.wait_sent(4)
    rig.deliver(failure(2))
    rig.wait_sent(5)
    assert rig.sender.sent[4][:2] == (2, 2)


def test_groups_failing_in_a_row_end_the_run_with_the_reason(rig):
    rig.wait_sent(4)
    rig.deliver(*(failure(index, retryable=False) for index in range(3)))
    with pytest.raises(FailedPrecondition, match=r"3 prompt groups in a row .* NAN_SCORE: the score is nan"):
        rig.pump.take(5)


def test_entries_are_acknowledged_only_after_they_were_in_a_snapshot(rig):
    rig.wait_sent(4)
    rig.deliver(result(0), result(1), result(2))
    batch = rig.pump.take(5)
    wait_until(lambda: rig.pump.gauges()["pump/staged_groups"] == 3, 5, "the third group")
    assert rig.pump.snapshot()[1] == [], "staged groups are in no checkpoint"
    rig.pump.trained(batch, 1)
    state, settled = rig.pump.snapshot()
    assert settled == ["0-1", "1-1"]
    assert rig.stream.acknowledged == []
    rig.pump.acknowledge(settled)
    assert rig.stream.acknowledged == ["0-1", "1-1"]
    assert rig.pump.snapshot()[1] == []
    assert state["ledger"]["accounting"]["groups"]["trained"] == 2


def test_entries_that_come_again_are_not_booked_again(rig):
    rig.wait_sent(4)
    rig.deliver(result(0), result(0), result(0, entry="other"), result(1))
    assert rig.pump.take(5).issue_indexes == [0, 1]
    assert rig.pump.counts["results_redelivered"] == 1
    assert rig.pump.accounting.attempts.duplicate == 0


def test_foreign_entries_are_removed_at_once(rig):
    rig.wait_sent(4)
    rig.deliver(result(0, run_id="other", entry="x-1"), result(900, entry="x-2"))
    wait_until(lambda: sorted(rig.stream.acknowledged) == ["x-1", "x-2"], 5, "removal")
    assert rig.pump.accounting.groups.issued == 4


def test_broken_redis_delays_and_loses_nothing(rig):
    rig.wait_sent(4)
    rig.stream.broken = rig.sender.broken = True
    rig.deliver(result(0), result(1))
    assert rig.pump.take(0.2) is None
    rig.pump.acknowledge(["0-1"])  # a warning, no error
    rig.stream.broken = False
    batch = rig.pump.take(5)
    rig.pump.trained(batch, 1)
    assert rig.pump.take(0.2) is None
    rig.sender.broken = False
    rig.wait_sent(6)
    assert [index for index, _, _ in rig.sender.sent] == [0, 1, 2, 3, 4, 5]


def test_blocked_pump_says_that_it_needs_a_checkpoint(rig):
    rig.wait_sent(4)
    for version in range(3):
        rig.deliver(result(2 * version, version=version), result(2 * version + 1, version=version))
        rig.pump.trained(rig.pump.take(5), version + 1)
    rig.deliver(*(result(0, entry=f"again-{i}") for i in range(8)))
    rig.deliver(result(6, version=3), result(7, version=3))
    rig.pump.trained(rig.pump.take(5), 4)
    wait_until(lambda: rig.pump.needs_acknowledgement, 5, "the pump to be blocked")
    rig.pump.acknowledge(rig.pump.snapshot()[1])
    assert not rig.pump.needs_acknowledgement


def test_nothing_expires_while_results_may_lie_unread():
    rig = Rig(deadline_s=0.3)
    rig.stream.broken = True
    rig.pump.start()
    rig.stream.broken = False
    rig.wait_sent(4)
    rig.stream.broken = True
    rig.deliver(result(0), result(1))
    assert rig.pump.take(0.6) is None, "past the deadline, but Redis is away"
    assert rig.pump.accounting.attempts.expired == 0
    rig.stream.broken = False
    assert rig.pump.take(5).issue_indexes == [0, 1]
    wait_until(lambda: rig.pump.accounting.attempts.expired == 2, 5, "2 and 3 to expire")
    rig.pump.stop()


def test_lost_message_does_not_hold_up_the_run_until_its_deadline():
    rig = Rig(straggler_factor=2.0)
    rig.pump.start()
    rig.wait_sent(4)
    rig.deliver(result(1), result(2), result(3))
    rig.wait_sent(5)
    assert rig.sender.sent[4][:2] == (0, 2)
    rig.deliver(result(0, 2))
    assert rig.pump.take(5).issue_indexes == [0, 1]
    rig.pump.stop()


def test_drop_policy_gives_stale_groups_up():
    rig = Rig(policy=DropOlderThan(0))
    rig.pump.start()
    rig.wait_sent(4)
    rig.deliver(result(0), result(1), result(2), result(3))
    rig.pump.trained(rig.pump.take(5), 1)
    assert rig.pump.take(0.3) is None, "2 and 3 were written by version 0"
    rig.pump.stop()
    assert rig.pump.accounting.attempts.stale == 2
    assert rig.pump.accounting.groups.abandoned == 2


def test_down_weight_policy_trains_stale_groups_for_less():
    rig = Rig(policy=WeightDown(0, decay=0.25))
    rig.pump.start()
    rig.wait_sent(4)
    rig.deliver(result(0), result(1), result(2), result(3))
    fresh = rig.pump.take(5)
    assert {experience.weight for experience in fresh.experiences} == {1.0}
    rig.pump.trained(fresh, 1)
    stale = rig.pump.take(5)
    assert stale.staleness == (1, 1)
    assert {experience.weight for experience in stale.experiences} == {0.25}
    assert {e.weight for e in stale.groups[0].rescored([0.0, 1.0], 2).experiences} == {0.25}, "a rescoring keeps it"
    rig.pump.trained(stale, 2)
    rig.pump.stop()
    assert rig.pump.accounting.groups.trained == 4


def test_a_lower_limit_issues_less_and_is_in_the_checkpoint():
    limit = InFlightLimit(LimitBounds(4, 8, 2))
    limit.restore({"limit": 4})
    rig = Rig(limit=limit)
    rig.pump.start()
    rig.wait_sent(2)
    assert rig.pump.take(0.2) is None
    assert len(rig.sender.sent) == 2
    rig.deliver(result(0), result(1))
    rig.pump.trained(rig.pump.take(5), 1)
    assert rig.pump.take(0.2) is None, "the first step is no observation"
    rig.deliver(result(2), result(3))
    rig.pump.take(5)
    wait_until(lambda: len(rig.sender.sent) > 4, 5, "more to be issued: the learner had waited")
    assert rig.pump.gauges()["pump/in_flight_limit"] > 4
    assert rig.pump.snapshot()[0]["in_flight"]["limit"] == limit.limit
    rig.pump.stop()


def test_close_cancels_what_is_in_flight(rig):
    rig.wait_sent(4)
    rig.deliver(result(0))
    wait_until(lambda: rig.pump.gauges()["pump/staged_groups"] == 1, 5, "a staged group")
    rig.pump.stop()
    assert rig.pump.close() == ["0-1"]
    accounting = rig.pump.accounting
    assert (accounting.groups.in_flight, accounting.attempts.in_flight, accounting.attempts.cancelled) == (0, 0, 4)
