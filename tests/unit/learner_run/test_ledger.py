"""The ledger's transitions, one behaviour per test."""

import pytest

from preceptor.learner.pump.accounting import Accounting, AccountingError, AttemptCounts, GroupCounts
from preceptor.learner.pump.attempts import AttemptLimits, Disposition, Outcome, patience_s
from preceptor.learner.pump.ledger import Ledger


def make_ledger(*, deadline_s: float = 10.0, max_attempts: int = 3, backoff_s: float = 0.0) -> Ledger:
    return Ledger(AttemptLimits(deadline_s, max_attempts, backoff_s), max_adopted_groups=8)


def attempts(ledger: Ledger, **expected: int) -> None:
    zero = dict.fromkeys(AttemptCounts.__dataclass_fields__, 0)
    assert ledger.accounting.attempts == AttemptCounts(**{**zero, **expected})
    ledger.accounting.check()


def test_groups_are_issued_in_order_with_their_first_attempt():
    ledger = make_ledger()
    assert [ledger.issue(0.0), ledger.issue(0.0)] == [0, 1]
    orders = ledger.due_orders(0.0)
    assert [(o.issue_index, o.attempt, o.deadline_s) for o in orders] == [(0, 1, 10.0), (1, 1, 10.0)]
    assert ledger.due_orders(0.0) == []
    assert ledger.accounting.groups == GroupCounts(issued=2, trained=0, abandoned=0, in_flight=2)


def test_head_waits_for_the_oldest_group():
    ledger = make_ledger()
    for _ in range(3):
        ledger.issue(0.0)
    ledger.receive(1, 1, Outcome.USABLE, 1.0)
    ledger.receive(2, 1, Outcome.USABLE, 1.0)
    assert ledger.head(2) is None
    ledger.receive(0, 1, Outcome.USABLE, 1.0)
    assert ledger.head(2) == [0, 1]
    ledger.train([0, 1])
    assert ledger.head(2) is None
    assert ledger.head(1) == [2]
    attempts(ledger, sent=3, trained=2, in_flight=1)


def test_expired_group_is_sent_again_and_its_late_result_is_used():
    ledger = make_ledger()
    ledger.issue(0.0)
    ledger.due_orders(0.0)
    assert ledger.expire(9.9) == 0
    assert ledger.expire(10.0) == 1
    assert [o.attempt for o in ledger.due_orders(10.0)] == [2]
    assert ledger.receive(0, 1, Outcome.USABLE, 11.0) is Disposition.STAGED
    attempts(ledger, sent=2, in_flight=2)
    ledger.train([0])
    assert ledger.receive(0, 2, Outcome.USABLE, 12.0) is Disposition.DUPLICATE
    attempts(ledger, sent=2, trained=1, duplicate=1)


def test_last_attempt_expires_and_the_group_is_abandoned_and_a_late_result_is_stale():
    ledger = make_ledger(max_attempts=2)
    ledger.issue(0.0)
    ledger.due_orders(0.0)
    ledger.expire(10.0)
    ledger.due_orders(10.0)
    ledger.expire(20.0)
    assert ledger.accounting.groups == GroupCounts(issued=1, trained=0, abandoned=1, in_flight=0)
    attempts(ledger, sent=2, expired=2)
    assert ledger.consecutive_abandoned == 1
    assert ledger.receive(0, 2, Outcome.USABLE, 21.0) is Disposition.STALE
    attempts(ledger, sent=2, expired=1, stale=1)


def test_straggler_is_sent_again_once_when_later_groups_have_arrived():
    ledger = make_ledger(deadline_s=100.0)
    ledger.issue(0.0)
    ledger.issue(1.0)
    ledger.due_orders(1.0)
    assert ledger.resend_stragglers(9.9, 5.0) == 0, "nothing arrives at all: that may be an outage"
    ledger.receive(1, 1, Outcome.USABLE, 50.0)
    assert ledger.resend_stragglers(4.9, 5.0) == 0
    assert ledger.resend_stragglers(50.0, 5.0) == 1
    assert [(o.issue_index, o.attempt, o.deadline_s) for o in ledger.due_orders(50.0)] == [(0, 2, 150.0)]
    assert ledger.resend_stragglers(90.0, 5.0) == 0, "once"
    assert ledger.receive(0, 1, Outcome.USABLE, 91.0) is Disposition.STAGED
    assert ledger.receive(0, 2, Outcome.USABLE, 92.0) is Disposition.DUPLICATE
    attempts(ledger, sent=3, duplicate=1, in_flight=2)


def test_everything_is_sent_again_once_after_twice_the_patience_without_any_result():
    ledger = make_ledger(deadline_s=100.0)
    for _ in range(3):
        ledger.issue(0.0)
    ledger.due_orders(0.0)
    ledger.receive(0, 1, Outcome.USABLE, 1.0)
    ledger.issue(2.0)
    ledger.due_orders(2.0)
    assert ledger.resend_stragglers(4.0, 5.0) == 0
    assert ledger.resend_stragglers(11.0, 5.0) == 2, "1 and 2, which were sent 11 s ago; 3 was sent 9 s ago"
    assert ledger.resend_stragglers(12.0, 5.0) == 1
    assert [(o.issue_index, o.attempt) for o in ledger.due_orders(12.0)] == [(1, 2), (2, 2), (3, 2)]
    assert ledger.resend_stragglers(90.0, 5.0) == 0, "once"


def test_patience_comes_from_three_in_four_of_the_recent_groups():
    assert patience_s([2.0] * 6 + [40.0] * 2, 4.0, 5.0) == 8.0, "an outage made two of them slow"
    assert patience_s([2.0, 3.0, 40.0, 40.0], 4.0, 5.0) == 160.0
    assert patience_s([0.1], 4.0, 5.0) == 5.0


def test_order_that_is_held_back_does_not_expire_and_its_deadline_begins_when_it_is_sent():
    ledger = make_ledger()
    ledger.issue(0.0)
    assert ledger.due_orders(0.0, lambda issue_index: False) == []
    assert ledger.expire(100.0) == 0
    (order,) = ledger.due_orders(100.0)
    assert order.deadline_s == 110.0
    assert ledger.expire(109.9) == 0
    assert ledger.expire(110.0) == 1


def test_failure_is_retried_with_growing_backoff_until_the_attempts_are_used_up():
    ledger = make_ledger(backoff_s=2.0)
    ledger.issue(0.0)
    ledger.due_orders(0.0)
    ledger.receive(0, 1, Outcome.FAILED, 1.0)
    assert ledger.due_orders(2.9) == []
    assert ledger.next_event_s() == 3.0
    assert [(o.attempt, o.deadline_s) for o in ledger.due_orders(3.0)] == [(2, 13.0)]
    ledger.receive(0, 2, Outcome.FAILED, 4.0)
    assert [o.attempt for o in ledger.due_orders(8.0)] == [3]
    ledger.receive(0, 3, Outcome.FAILED, 9.0)
    assert ledger.accounting.groups.abandoned == 1
    attempts(ledger, sent=3, failed=3)


def test_failure_for_good_abandons_at_once():
    ledger = make_ledger()
    ledger.issue(0.0)
    ledger.receive(0, 1, Outcome.FAILED_FOR_GOOD, 1.0)
    assert ledger.open_groups == 0
    attempts(ledger, sent=1, failed=1)


def test_failure_waits_for_a_live_attempt_of_the_same_group():
    ledger = make_ledger()
    ledger.issue(0.0)
    ledger.due_orders(0.0)
    ledger.expire(10.0)
    ledger.due_orders(10.0)
    ledger.receive(0, 1, Outcome.FAILED, 11.0)
    assert ledger.due_orders(11.0) == []
    attempts(ledger, sent=2, failed=1, in_flight=1)


def test_retry_whose_group_was_served_meanwhile_is_cancelled_not_sent():
    ledger = make_ledger(backoff_s=5.0)
    ledger.issue(0.0)
    ledger.due_orders(0.0)
    ledger.expire(10.0)
    ledger.receive(0, 1, Outcome.USABLE, 11.0)
    assert ledger.due_orders(20.0) == []
    attempts(ledger, sent=2, in_flight=1, cancelled=1)


def test_orphaned_attempts_are_not_held_against_the_group():
    ledger = make_ledger(max_attempts=2, backoff_s=5.0)
    ledger.issue(0.0)
    for attempt in range(1, 6):
        assert [o.attempt for o in ledger.due_orders(0.0)] == [attempt], "at once, without back-off"
        ledger.receive(0, attempt, Outcome.ORPHANED, 0.0)
    assert ledger.accounting.groups.abandoned == 0
    attempts(ledger, sent=6, orphaned=5, in_flight=1)


def test_orphaned_result_is_counted_and_the_group_sent_again():
    ledger = make_ledger()
    ledger.issue(0.0)
    ledger.due_orders(0.0)
    assert ledger.receive(0, 1, Outcome.ORPHANED, 1.0) is Disposition.ORPHANED
    assert [o.attempt for o in ledger.due_orders(1.0)] == [2]
    attempts(ledger, sent=2, orphaned=1, in_flight=1)


def test_repeated_delivery_changes_nothing():
    ledger = make_ledger()
    ledger.issue(0.0)
    ledger.receive(0, 1, Outcome.USABLE, 1.0)
    assert ledger.receive(0, 1, Outcome.USABLE, 1.0) is Disposition.REDELIVERED
    ledger.train([0])
    assert ledger.receive(0, 1, Outcome.USABLE, 1.0) is Disposition.REDELIVERED
    attempts(ledger, sent=1, trained=1)


def test_group_cannot_be_trained_twice_and_nothing_changes_when_one_of_a_batch_is_not_staged():
    ledger = make_ledger()
    ledger.issue(0.0)
    ledger.issue(0.0)
    ledger.receive(0, 1, Outcome.USABLE, 1.0)
    with pytest.raises(ValueError, match="group 1 is not staged"):
        ledger.train([0, 1])
    ledger.train([0])
    with pytest.raises(ValueError, match="group 0 is not staged"):
        ledger.train([0])


def test_dropped_stale_group_is_abandoned():
    ledger = make_ledger()
    ledger.issue(0.0)
    ledger.receive(0, 1, Outcome.USABLE, 1.0)
    ledger.drop_stale(0)
    attempts(ledger, sent=1, stale=1)
    assert ledger.accounting.groups.abandoned == 1
    assert ledger.consecutive_abandoned == 0


def test_close_leaves_nothing_in_flight():
    ledger = make_ledger()
    for _ in range(3):
        ledger.issue(0.0)
    ledger.receive(0, 1, Outcome.USABLE, 1.0)
    ledger.receive(1, 1, Outcome.USABLE, 1.0)
    ledger.train([0])
    ledger.close()
    assert ledger.accounting.groups == GroupCounts(issued=3, trained=1, abandoned=2, in_flight=0)
    attempts(ledger, sent=3, trained=1, cancelled=2)


def test_restored_ledger_awaits_staged_groups_again():
    ledger = make_ledger()
    ledger.issue(0.0)
    ledger.receive(0, 1, Outcome.USABLE, 1.0)
    restored = make_ledger()
    restored.restore(ledger.snapshot())
    assert restored.head(1) is None
    assert restored.receive(0, 1, Outcome.USABLE, 2.0) is Disposition.STAGED
    assert restored.head(1) == [0]


def test_restored_ledger_still_sends_what_had_not_been_sent():
    ledger = make_ledger(backoff_s=5.0)
    ledger.issue(0.0)
    ledger.due_orders(0.0)
    ledger.receive(0, 1, Outcome.FAILED, 1.0)
    restored = make_ledger()
    restored.restore(ledger.snapshot())
    assert restored.due_orders(5.9) == []
    assert [o.attempt for o in restored.due_orders(6.0)] == [2]


def test_restored_ledger_adopts_groups_and_attempts_sent_after_the_checkpoint():
    ledger = make_ledger()
    ledger.issue(0.0)
    restored = make_ledger()
    restored.restore(ledger.snapshot())
    assert restored.receive(2, 2, Outcome.USABLE, 5.0) is Disposition.STAGED
    assert restored.cursor == 3
    assert restored.issue(5.0) == 3
    attempts(restored, sent=5, expired=1, in_flight=4)
    assert restored.receive(1, 1, Outcome.USABLE, 6.0) is Disposition.STAGED


@pytest.mark.parametrize(("index", "attempt"), [(9, 1), (-1, 1), (0, 68), (0, 0)])
def test_results_nobody_asked_for_are_foreign(index, attempt):
    ledger = make_ledger()
    ledger.issue(0.0)
    before = ledger.snapshot()
    assert ledger.receive(index, attempt, Outcome.USABLE, 1.0) is Disposition.FOREIGN
    assert ledger.snapshot() == before


def test_settled_groups_are_forgotten_so_that_a_long_run_stays_small():
    ledger = make_ledger()
    for index in range(1000):
        ledger.issue(0.0)
        ledger.due_orders(0.0)
        ledger.receive(index, 1, Outcome.USABLE, 1.0)
        ledger.train([index])
    assert len(ledger.snapshot()["groups"]) == 0
    attempts(ledger, sent=1000, trained=1000)


def test_accounting_notices_a_lost_group():
    accounting = Accounting()
    accounting.group_issued()
    accounting.check()
    accounting._groups.clear()
    with pytest.raises(AccountingError, match="issued"):
        accounting.check()
