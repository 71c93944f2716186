"""Random interleavings of results, losses, expiry, training, checkpoints and crashes: the accounting must close."""

import json
import random
from collections import Counter
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from preceptor.learner.pump.accounting import Accounting
from preceptor.learner.pump.attempts import AttemptLimits, Disposition, Outcome
from preceptor.learner.pump.credit import Credit
from preceptor.learner.pump.ledger import Ledger

CREDIT = Credit(batch_size=4, group_size=2, max_staleness=1, checkpoint_every_steps=2)
GROUPS_PER_BATCH = CREDIT.batch_size // CREDIT.group_size
LIMITS = AttemptLimits(deadline_s=10.0, max_attempts=3, retry_backoff_s=1.0)


@dataclass(frozen=True)
class Entry:
    """One entry of the stream: as the learner reads it."""

    issue_index: int
    attempt: int
    outcome: Outcome


class LedgerMachine(RuleBasedStateMachine):
    """A learner (ledger, entries read) over a world that survives its crashes (broker, stream, checkpoint)."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.ledger = self.new_ledger()
        self.broker: list[tuple[int, int]] = []  # messages on their way to a worker
        self.stream: dict[int, Entry] = {}  # written, not yet acknowledged
        self.next_entry = 0
        self.read: dict[int, Disposition] = {}  # by entry: what the ledger made of it in this life
        self.staged_by: dict[int, int] = {}  # issue index -> entry
        self.trained: Counter[int] = Counter()  # in the present line
        self.saved = (self.ledger.snapshot(), Counter(self.trained))

    @staticmethod
    def new_ledger() -> Ledger:
        return Ledger(LIMITS, max_adopted_groups=CREDIT.max_unacknowledged_groups)

    @rule()
    def issue_what_credit_allows(self) -> None:
        unacknowledged = CREDIT.group_size * (self.ledger.awaited_groups + len(self.read))
        room = CREDIT.groups(
            open_groups=self.ledger.open_groups, unacknowledged_rollouts=unacknowledged, groups_to_go=10**6
        )
        for _ in range(room):
            self.ledger.issue(self.now_s)
        self.broker += [(order.issue_index, order.attempt) for order in self.ledger.due_orders(self.now_s)]

    @precondition(lambda self: self.broker)
    @rule(data=st.data(), outcome=st.sampled_from(list(Outcome)), keep=st.booleans())
    def worker_writes_a_result(self, data: st.DataObject, outcome: Outcome, keep: bool) -> None:
        """keep: the broker delivers the message once more later."""
        place = data.draw(st.integers(0, len(self.broker) - 1))
        index, attempt = self.broker[place] if keep else self.broker.pop(place)
        self.stream[self.next_entry] = Entry(index, attempt, outcome)
        self.next_entry += 1

    @precondition(lambda self: self.broker)
    @rule(data=st.data())
    def broker_loses_a_message(self, data: st.DataObject) -> None:
        self.broker.pop(data.draw(st.integers(0, len(self.broker) - 1)))

    @rule()
    def learner_reads(self) -> None:
        for key, entry in self.stream.items():
            if key not in self.read:
                made = self.ledger.receive(entry.issue_index, entry.attempt, entry.outcome, self.now_s)
                self.read[key] = made
                if made is Disposition.STAGED:
                    self.staged_by[entry.issue_index] = key

    @rule(seconds=st.sampled_from([0.5, 3.0, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.ledger.expire(self.now_s)
        self.broker += [(order.issue_index, order.attempt) for order in self.ledger.due_orders(self.now_s)]

    @rule()
    def stragglers_are_sent_again(self) -> None:
        self.ledger.resend_stragglers(self.now_s, 1.0)
        self.broker += [(order.issue_index, order.attempt) for order in self.ledger.due_orders(self.now_s)]

    @rule()
    def train_a_batch(self) -> None:
        batch = self.ledger.head(GROUPS_PER_BATCH)
        if batch is not None:
            self.ledger.train(batch)
            self.trained.update(batch)
            for index in batch:
                self.staged_by.pop(index)

    @rule()
    def drop_the_oldest_as_stale(self) -> None:
        for index in self.ledger.head(1) or []:
            self.ledger.drop_stale(index)
            self.staged_by.pop(index)

    @rule()
    def checkpoint_and_acknowledge(self) -> None:
        self.saved = (self.ledger.snapshot(), Counter(self.trained))
        settled = set(self.read) - set(self.staged_by.values())
        for key in settled:
            self.stream.pop(key, None)
            del self.read[key]

    @precondition(lambda self: self.stream)
    @rule(data=st.data())
    def redis_loses_an_entry(self, data: st.DataObject) -> None:
        """As after a power cut. The learner's own memory still has what it read."""
        del self.stream[data.draw(st.sampled_from(sorted(self.stream)))]

    @rule()
    def restored_state_is_the_saved_one(self) -> None:
        """A snapshot through JSON, as a checkpoint keeps it, restores a ledger with the same snapshot."""
        snapshot = json.loads(json.dumps(self.saved[0]))
        again = self.new_ledger()
        again.restore(snapshot)
        once_more = self.new_ledger()
        once_more.restore(again.snapshot())
        assert once_more.snapshot() == again.snapshot()
        assert again.accounting.groups == Accounting.restored(snapshot["accounting"]).groups

    @rule()
    def crash_and_restore(self) -> None:
        snapshot, trained = self.saved
        self.ledger = self.new_ledger()
        self.ledger.restore(snapshot)
        self.trained = Counter(trained)
        self.read, self.staged_by = {}, {}

    @invariant()
    def identities_hold(self) -> None:
        self.ledger.accounting.check()

    @invariant()
    def no_group_is_trained_twice_in_the_line(self) -> None:
        assert all(count == 1 for count in self.trained.values())
        assert self.ledger.accounting.groups.trained == len(self.trained)

    @invariant()
    def every_issued_group_is_somewhere(self) -> None:
        groups = self.ledger.accounting.groups
        assert groups.issued == self.ledger.cursor
        assert groups.in_flight == self.ledger.open_groups

    @invariant()
    def every_staged_group_is_unacknowledged(self) -> None:
        """So that a restart meets it again, unless Redis lost it; then its deadline passes and it is sent again."""
        assert all(key in self.read for key in self.staged_by.values())

    @invariant()
    def no_more_is_open_than_may_be_unacknowledged(self) -> None:
        """After a restart what had been trained since the checkpoint is open again, never more."""
        assert self.ledger.open_groups <= CREDIT.max_unacknowledged_groups

    def teardown(self) -> None:
        """The run ends: everything has an end state, and what never got one is named cancelled."""
        self.ledger.close()
        self.ledger.accounting.check()
        assert self.ledger.accounting.groups.in_flight == 0
        assert self.ledger.accounting.attempts.in_flight == 0


LedgerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestLedgerMachine = LedgerMachine.TestCase


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.floats(0, 0.6))
def test_a_run_with_losses_and_crashes_comes_to_its_end(seed: int, loss: float) -> None:
    """Liveness: whatever is lost, every group is trained or abandoned in the end, and trained once."""
    draw = random.Random(seed)
    machine = LedgerMachine()
    for _ in range(3000):
        machine.issue_what_credit_allows()
        while machine.broker:
            index, attempt = machine.broker.pop(draw.randrange(len(machine.broker)))
            if draw.random() >= loss:
                machine.stream[machine.next_entry] = Entry(index, attempt, Outcome.USABLE)
                machine.next_entry += 1
        machine.learner_reads()
        machine.train_a_batch()
        event = draw.random()
        if event < 0.2:
            machine.checkpoint_and_acknowledge()
        elif event < 0.25:
            machine.crash_and_restore()
        elif event < 0.7:
            machine.time_passes(3.0)
        machine.identities_hold()
        machine.no_group_is_trained_twice_in_the_line()
        if machine.ledger.accounting.groups.trained >= 40:
            break
    assert machine.ledger.accounting.groups.trained >= 40
    machine.teardown()
