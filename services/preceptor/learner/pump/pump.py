"""The pump: keeps the right number of groups on their way and hands over batches in issue order.

Two threads: one reads the stream into the ledger, one issues groups and sends attempts. Both survive Redis being away.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from preceptor.common.errors import FailedPrecondition, PreceptorError, Unavailable
from preceptor.common.telemetry import get_logger
from preceptor.learner.pump.accounting import Accounting
from preceptor.learner.pump.attempts import Disposition, Outcome, SendOrder, patience_s
from preceptor.learner.pump.credit import Credit
from preceptor.learner.pump.in_flight import InFlightLimit, StepObservation
from preceptor.learner.pump.ledger import Ledger
from preceptor.learner.pump.lineage import PolicyLineage
from preceptor.learner.pump.ports import AttemptSender, ExperienceSource, PumpSettings
from preceptor.learner.pump.results import Batch, GroupResult
from preceptor.learner.pump.staleness import StalenessPolicy, group_staleness

log = get_logger(__name__)
_RECENT_GROUPS = 256


class Pump:
    """Owns the ledger and the lineage; every access to them is under one lock."""

    def __init__(
        self,
        settings: PumpSettings,
        credit: Credit,
        ledger: Ledger,
        lineage: PolicyLineage,
        staleness: StalenessPolicy,
        source: ExperienceSource,
        sender: AttemptSender,
        *,
        limit: InFlightLimit | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """limit: how much of the credit is used; all of it by default."""
        self._settings = settings
        self._credit = credit
        self._ledger = ledger
        self._lineage = lineage
        self._staleness = staleness
        self._source = source
        self._sender = sender
        self._clock = clock
        self._limit = limit or InFlightLimit.fixed(credit.issue_limit)
        self._asked_s: float | None = None  # since when the learner waits for a batch
        self._taken_s: float | None = None  # when it got the one before
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._read_until_s: float | None = None  # what was written before has been read
        self._published_version = lineage.version
        self._entries: dict[str, int] = {}  # entry id -> rollouts; read and not yet acknowledged
        self._staged: dict[int, GroupResult] = {}
        self._seconds: deque[float] = deque(maxlen=_RECENT_GROUPS)  # from sending to arrival
        self._last_failure = ""
        self._broken: PreceptorError | None = None
        self.counts: Counter[str] = Counter()
        self._threads = [
            threading.Thread(target=self._run, args=(step,), name=name, daemon=True)
            for name, step in (("pump-read", self._read_once), ("pump-send", self._send_once))
        ]

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends both threads; what is in flight stays in the ledger."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=self._settings.read_timeout_s + self._settings.max_send_backoff_s + 30)

    def retune(self, credit: Credit, staleness: StalenessPolicy, limit: InFlightLimit) -> None:
        """Takes over other bounds; what is in flight already stays."""
        with self._changed:
            limit.restore(self._limit.snapshot())
            self._credit, self._staleness, self._limit = credit, staleness, limit
            self._changed.notify_all()

    def close(self) -> list[str]:
        """Cancels what is in flight and abandons open groups; returns the entries to acknowledge. After `stop`."""
        with self._changed:
            self._ledger.close()
            self._staged.clear()
            self._ledger.accounting.check()
            return list(self._entries)

    # -- the learner's side --------------------------------------------------------------------------------------

    def take(self, timeout_s: float) -> Batch | None:
        """The next batch in issue order, or None after timeout_s.

        Raises:
            FailedPrecondition: too many groups in a row were abandoned; says what the last one failed of.
        """
        with self._changed:
            if self._asked_s is None:
                self._asked_s = self._clock()
            self._changed.wait_for(lambda: self._broken is not None or self._head() is not None, timeout_s)
            if self._broken is not None:
                raise self._broken
            indexes = self._head()
            if indexes is None:
                return None
            self._observe_step(self._asked_s, self._clock())
            ages = [self._age(self._staged[index]) for index in indexes]
            groups = [
                self._staged[index].weighted(self._staleness.weight(a)) for index, a in zip(indexes, ages, strict=True)
            ]
            return Batch(tuple(groups), tuple(ages))

    def trained(self, batch: Batch, version: int) -> None:
        """Books the batch; the learner's weights are now `version`. Frees the credit of the batch."""
        with self._changed:
            self._ledger.train(batch.issue_indexes)
            for index in batch.issue_indexes:
                del self._staged[index]
            self._lineage.advance(version)
            self._changed.notify_all()

    def published(self, version: int) -> None:
        """`version` is durable: requests may ask for it."""
        with self._changed:
            self._published_version = max(self._published_version, version)
            self._changed.notify_all()

    def republish(self, version: int) -> None:
        """The restored weights go out once more under a new number."""
        with self._changed:
            self._lineage.republish(version)

    @property
    def lineage(self) -> PolicyLineage:
        """Changed by `trained` and `republish` alone: the learner's own thread may read it without a lock."""
        return self._lineage

    @property
    def needs_acknowledgement(self) -> bool:
        """True if nothing more can be issued until a checkpoint lets entries be acknowledged."""
        with self._changed:
            return self._head() is None and self._credit.blocked_by_acknowledgement(
                open_groups=self._ledger.open_groups,
                unacknowledged_rollouts=self._unacknowledged(),
                in_flight_limit=self._limit.limit,
            )

    @property
    def accounting(self) -> Accounting:
        """A copy of the counts."""
        with self._changed:
            return Accounting.restored(self._ledger.accounting.snapshot())

    def gauges(self) -> dict[str, float]:
        """Sizes of the queues, for metrics."""
        with self._changed:
            return {
                "pump/awaited_groups": float(self._ledger.awaited_groups),
                "pump/staged_groups": float(len(self._staged)),
                "pump/unacknowledged_rollouts": float(self._unacknowledged()),
                "pump/in_flight_limit": float(self._limit.limit),
                **{f"pump/{name}": float(count) for name, count in self.counts.items()},
            }

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def snapshot(self) -> tuple[dict[str, Any], list[str]]:
        """(JSON state for a checkpoint, entries to acknowledge once that checkpoint is durable)."""
        with self._changed:
            staged = {result.entry_id for result in self._staged.values()}
            state = {
                "ledger": self._ledger.snapshot(),
                "lineage": self._lineage.snapshot(),
                "counts": dict(self.counts),
                "in_flight": self._limit.snapshot(),
            }
            return state, [entry for entry in self._entries if entry not in staged]

    def acknowledge(self, entry_ids: list[str]) -> None:
        """Removes entries from the stream. With Redis away they stay and go with the next checkpoint."""
        try:
            self._source.acknowledge(entry_ids)
        except Unavailable as error:
            log.warning("acknowledging later", entries=len(entry_ids), error=error.message)
            return
        with self._changed:
            for entry in entry_ids:
                self._entries.pop(entry, None)
            self._changed.notify_all()

    # -- threads -------------------------------------------------------------------------------------------------

    def _run(self, step: Callable[[], None]) -> None:
        backoff_s = self._settings.send_backoff_s
        while not self._stopping.is_set():
            try:
                step()
                backoff_s = self._settings.send_backoff_s
            except Unavailable as error:
                log.warning("trying again", error=error.message, backoff_s=backoff_s)
                self._stopping.wait(backoff_s)
                backoff_s = min(2 * backoff_s, self._settings.max_send_backoff_s)
            except PreceptorError as error:
                self._break(error)

    def _break(self, error: PreceptorError) -> None:
        self._stopping.set()
        with self._changed:
            self._broken = error
            self._changed.notify_all()

    def _read_once(self) -> None:
        begun_s = self._clock()
        results = self._source.read(self._settings.read_timeout_s)
        with self._changed:
            now_s = self._clock()
            foreign = [result.entry_id for result in results if not self._book(result, now_s)]
            if not results:
                self._read_until_s = begun_s
            self._changed.notify_all()
        if foreign:
            log.warning("removing entries that are not this run's", entries=foreign[:5], count=len(foreign))
            self._source.acknowledge(foreign)

    def _send_once(self) -> None:
        with self._changed:
            orders = self._plan()
            if not orders:
                self._changed.wait(self._idle_s())
                return
        while orders and not self._stopping.is_set():
            try:
                self._sender.send(orders[0], self._min_policy_version(orders[0].issue_index))
            except Unavailable:
                with self._changed:
                    self._ledger.put_back(orders)
                raise
            orders.pop(0)

    # -- inner workings, under the lock --------------------------------------------------------------------------

    def _book(self, result: GroupResult, now_s: float) -> bool:
        """Tells the ledger; False if the entry is not this run's."""
        if result.entry_id in self._entries:
            return True
        if result.run_id != self._settings.run_id:
            return False
        sent_s = self._ledger.sent_s(result.issue_index, result.attempt)
        made = self._ledger.receive(result.issue_index, result.attempt, self._outcome(result), now_s)
        self.counts[f"results_{made.value}"] += 1
        if made is Disposition.FOREIGN:
            return False
        self._entries[result.entry_id] = max(1, len(result.experiences))
        if made is Disposition.STAGED:
            self._staged[result.issue_index] = result
            if sent_s is not None:
                self._seconds.append(now_s - sent_s)
        elif result.failure is not None and made is Disposition.FAILED:
            self._note_failure(result)
        return True

    def _outcome(self, result: GroupResult) -> Outcome:
        if result.failure is not None:
            return Outcome.FAILED if result.failure.retryable else Outcome.FAILED_FOR_GOOD
        age = group_staleness(result.experiences, self._lineage)
        if age is None:
            return Outcome.ORPHANED
        # Asked for before a rollback, in another line: when its turn comes it would be older than the run allows.
        made_at = self._lineage.step - age
        outdated = self._staleness.waits and made_at < self._required_step(result.issue_index)
        return Outcome.ORPHANED if outdated and self._ledger.awaits(result.issue_index) else Outcome.USABLE

    def _note_failure(self, result: GroupResult) -> None:
        failure = result.failure
        assert failure is not None
        self._last_failure = f"{failure.stage}: {failure.reason}: {failure.message}"
        log.warning(
            "attempt failed",
            group=result.issue_index,
            attempt=result.attempt,
            stage=failure.stage,
            reason=failure.reason,
            message=failure.message,
        )

    def _plan(self) -> list[SendOrder]:
        """Expires, issues, and takes what is to be sent now. Nothing before the stream has been read to its end.

        A result that lies unread in the stream has not expired: deadlines are held against how far reading has come.
        """
        if self._read_until_s is None:
            return []
        now_s = self._clock()
        expired = self._ledger.expire(self._read_until_s)
        if expired:
            self._last_failure = f"no result within the deadline ({expired} attempts at once)"
            log.warning("attempts expired", count=expired)
        self._resend_stragglers(self._read_until_s)
        self._check_progress()
        for _ in range(self._room()):
            self._ledger.issue(now_s)
        return self._ledger.due_orders(now_s, self._may_send)

    def _resend_stragglers(self, now_s: float) -> None:
        settings = self._settings
        if settings.straggler_factor == 0 or len(self._seconds) < settings.groups_per_batch:
            return
        patience = patience_s(self._seconds, settings.straggler_factor, settings.min_patience_s)
        late = self._ledger.resend_stragglers(now_s, patience)
        if late:
            log.warning("groups sent again before their deadline", count=late, patience_s=round(patience, 2))

    def _check_progress(self) -> None:
        abandoned = self._ledger.consecutive_abandoned
        if abandoned >= self._settings.max_consecutive_abandoned:
            raise FailedPrecondition(
                f"{abandoned} prompt groups in a row were abandoned; the last failure was: {self._last_failure}",
                reason="NO_ROLLOUTS",
            )

    def _room(self) -> int:
        steps_to_go = self._settings.total_steps - self._lineage.step
        return self._credit.groups(
            open_groups=self._ledger.open_groups,
            unacknowledged_rollouts=self._unacknowledged(),
            groups_to_go=steps_to_go * self._settings.groups_per_batch - self._ledger.open_groups,
            in_flight_limit=self._limit.limit,
        )

    def _unacknowledged(self) -> int:
        return sum(self._entries.values()) + self._settings.group_size * self._ledger.awaited_groups

    def _idle_s(self) -> float:
        planned = self._ledger.next_event_s()
        return 1.0 if planned is None else min(1.0, max(0.05, planned - self._clock()))

    def _head(self) -> list[int] | None:
        while (first := self._ledger.head(1)) and self._staleness.too_old(self._age(self._staged[first[0]])):
            self._ledger.drop_stale(first[0])
            dropped = self._staged.pop(first[0])
            self.counts["dropped_stale_groups"] += 1
            self.counts["dropped_stale_tokens"] += sum(len(e.token_ids) for e in dropped.experiences)
        return self._ledger.head(self._settings.groups_per_batch)

    def _age(self, result: GroupResult) -> int:
        age = group_staleness(result.experiences, self._lineage)
        assert age is not None, "orphaned groups are never staged"
        return age

    def _required_step(self, issue_index: int) -> int:
        """The step whose weights the group must be written with, if it is taken when its turn in issue order comes."""
        step_of_use = self._lineage.step + self._ledger.place(issue_index) // self._settings.groups_per_batch
        return max(0, step_of_use - self._staleness.max_staleness)

    def _observe_step(self, asked_s: float, now_s: float) -> None:
        """A batch is taken. The first one of this process says nothing: it waited for everything to start."""
        settings = self._settings
        if self._taken_s is not None:
            recent = [*self._seconds][-settings.groups_per_batch :]
            spare = (len(self._staged) - settings.groups_per_batch) * settings.group_size
            self._limit.observe(
                StepObservation(max(0.0, now_s - asked_s), now_s - self._taken_s, spare, max(recent, default=0.0))
            )
            self._changed.notify_all()  # there may be room for more
        self._asked_s, self._taken_s = None, now_s

    def _may_send(self, issue_index: int) -> bool:
        """After a rollback groups may have been issued so far ahead that weights young enough do not exist yet."""
        return not self._staleness.waits or self._required_step(issue_index) <= self._lineage.step

    def _min_policy_version(self, issue_index: int) -> int:
        """What a request asks for at least; never a version that a restart rolled back."""
        with self._changed:
            wanted = self._lineage.version_at(self._required_step(issue_index))
            if not self._staleness.waits:
                wanted = min(wanted, self._published_version)
            return max(self._lineage.floor, wanted)
