"""The pump's ledger: the truth about every group and attempt. The broker is only a hint.

No clock and no I/O: times are seconds on whatever clock the caller uses (the pump: Unix time), and what must be sent
comes out of `due_orders`. A ledger that was restored from a checkpoint learns from results of attempts it does not know
("adopts" them): they were sent after that checkpoint, by the process that died.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from preceptor.learner.pump.accounting import Accounting, AttemptState, GroupState
from preceptor.learner.pump.attempts import AttemptLimits, Disposition, Outcome, SendOrder
from preceptor.learner.pump.groups import LIVE_ATTEMPTS, OPEN_ATTEMPTS, Attempt, Group

_MAX_ORPHANS = 64  # attempts beyond max_attempts that a result may still name


class Ledger:
    """Groups by issue index: open ones in issue order, ended ones while an attempt of theirs may still report."""

    def __init__(self, limits: AttemptLimits, *, max_adopted_groups: int) -> None:
        """max_adopted_groups: how far past the cursor a result may lie and still be believed after a restart."""
        self._limits = limits
        self._max_adopted_groups = max_adopted_groups
        self._open: dict[int, Group] = {}
        self._lingering: dict[int, Group] = {}
        self._orders: list[SendOrder] = []
        self._newest_arrived_s = float("-inf")  # when the newest attempt that has reported was sent
        self._last_arrival_s = float("-inf")  # when a result last came in
        self.cursor = 0
        self.consecutive_abandoned = 0
        self.accounting = Accounting()

    @property
    def open_groups(self) -> int:
        """Issued and neither trained nor abandoned."""
        return len(self._open)

    @property
    def awaited_groups(self) -> int:
        """Open groups whose result has not arrived."""
        return sum(group.state is GroupState.IN_FLIGHT for group in self._open.values())

    def place(self, issue_index: int) -> int:
        """How many open groups come before this one in issue order, those included that a restart has yet to adopt."""
        return sum(index < issue_index for index in self._open) + max(0, issue_index - self.cursor)

    def awaits(self, issue_index: int) -> bool:
        """Whether a usable result of this group would be trained."""
        group = self._open.get(issue_index)
        return issue_index >= self.cursor or (group is not None and group.state is GroupState.IN_FLIGHT)

    # -- sending -------------------------------------------------------------------------------------------------

    def issue(self, now_s: float) -> int:
        """Opens the next group in issue order and orders its first attempt; returns its issue index."""
        group = self._open_group(self.cursor)
        self._order_attempt(group, now_s)
        return group.issue_index

    def due_orders(self, now_s: float, may_send: Callable[[int], bool] = lambda issue_index: True) -> list[SendOrder]:
        """Takes out the orders to send now; their deadlines begin now. Groups that may_send refuses are held back.

        Orders of groups that were served meanwhile are cancelled instead.
        """
        due: list[SendOrder] = []
        later: list[SendOrder] = []
        for order in self._orders:
            if not self._is_wanted(order):
                self._cancel_order(order)
            elif order.not_before_s <= now_s and may_send(order.issue_index):
                due.append(self._released(order, now_s))
            else:
                later.append(order)
        self._orders = later
        return due

    def put_back(self, orders: list[SendOrder]) -> None:
        """Returns orders that could not be sent."""
        self._orders = [*orders, *self._orders]

    def next_event_s(self) -> float | None:
        """When `due_orders` or `expire` next has something to do; None if nothing is planned."""
        times = [order.not_before_s for order in self._orders]
        times += [attempt.deadline_s for _, attempt in self._attempts_in_flight()]
        return min(times, default=None)

    # -- results -------------------------------------------------------------------------------------------------

    def receive(self, issue_index: int, attempt: int, outcome: Outcome, now_s: float) -> Disposition:
        """Books the result of an attempt. A repeated result changes nothing; a late one leaves `expired`."""
        if not self._believable(issue_index, attempt):
            return Disposition.FOREIGN
        self._adopt_groups(issue_index, now_s)
        group = self._open.get(issue_index) or self._lingering.get(issue_index)
        if group is None:
            return Disposition.REDELIVERED
        self._adopt_attempts(group, attempt, now_s)
        record = group.attempts[attempt - 1]
        if record.state not in OPEN_ATTEMPTS:
            return Disposition.REDELIVERED
        self._newest_arrived_s = max(self._newest_arrived_s, record.deadline_s - self._limits.deadline_s)
        self._last_arrival_s = max(self._last_arrival_s, now_s)
        disposition = self._judge(group, outcome)
        self._move_attempt(record, AttemptState(disposition.value))
        if disposition is Disposition.STAGED:
            self._move_group(group, GroupState.STAGED)
        else:
            self._retry_or_abandon(group, now_s, for_good=outcome is Outcome.FAILED_FOR_GOOD)
        self._settle(group)
        return disposition

    def expire(self, now_s: float) -> int:
        """Gives up attempts whose deadline has passed and orders the next ones; returns how many expired."""
        late = [(group, attempt) for group, attempt in self._attempts_in_flight() if attempt.deadline_s <= now_s]
        for group, attempt in late:
            self._move_attempt(attempt, AttemptState.EXPIRED)
            self._retry_or_abandon(group, now_s)
            self._settle(group)
        return len(late)

    def resend_stragglers(self, now_s: float, patience_s: float) -> int:
        """Gives up first attempts that have taken patience_s while a group sent no earlier has arrived.

        Their messages are probably lost. So are all of them once nothing has arrived for twice as long: the only worker
        may have been killed with every message. If not, their results are used all the same. Returns how many there
        were.
        """
        silent = now_s - self._last_arrival_s >= 2 * patience_s
        sent_before_s = now_s - 2 * patience_s if silent else min(now_s - patience_s, self._newest_arrived_s)
        latest_s = sent_before_s + self._limits.deadline_s
        firsts = [(g, a) for g, a in self._attempts_in_flight() if g.is_open and len(g.attempts) == 1]
        late = [(group, attempt) for group, attempt in firsts if attempt.deadline_s <= latest_s]
        for group, attempt in late:
            self._move_attempt(attempt, AttemptState.EXPIRED)
            self._retry_or_abandon(group, now_s)
        return len(late)

    def sent_s(self, issue_index: int, attempt: int) -> float | None:
        """When an attempt of a group that is still open was due to be sent."""
        group = self._open.get(issue_index)
        known = group is not None and 1 <= attempt <= len(group.attempts)
        return group.attempts[attempt - 1].deadline_s - self._limits.deadline_s if group and known else None

    # -- training ------------------------------------------------------------------------------------------------

    def head(self, count: int) -> list[int] | None:
        """The first `count` open groups in issue order if every one of them is staged, else None."""
        indexes: list[int] = []
        for index, group in self._open.items():
            if group.state is not GroupState.STAGED:
                return None
            indexes.append(index)
            if len(indexes) == count:
                return indexes
        return None

    def train(self, issue_indexes: list[int]) -> None:
        """Books staged groups as trained. Raises ValueError, before any change, if one of them is not staged."""
        groups = [self._staged(index) for index in issue_indexes]
        for group in groups:
            self._move_staged_attempt(group, AttemptState.TRAINED)
            self._move_group(group, GroupState.TRAINED)
            self._settle(group)
        self.consecutive_abandoned = 0

    def drop_stale(self, issue_index: int) -> None:
        """Books a staged group as too old: its attempt is stale, the group abandoned."""
        group = self._staged(issue_index)
        self._move_staged_attempt(group, AttemptState.STALE)
        self._move_group(group, GroupState.ABANDONED)
        self._settle(group)

    def close(self) -> None:
        """Ends the run's bookkeeping: what is in flight or staged is cancelled, open groups are abandoned."""
        self._orders.clear()
        for group in [*self._open.values(), *self._lingering.values()]:
            for attempt in group.attempts:
                if attempt.state in LIVE_ATTEMPTS:
                    self._move_attempt(attempt, AttemptState.CANCELLED)
            if group.is_open:
                self._move_group(group, GroupState.ABANDONED)
            self._settle(group)

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """JSON of everything but staged results: those are still in the stream and will be delivered again."""
        groups = [*self._open.values(), *self._lingering.values()]
        return {
            "cursor": self.cursor,
            "consecutive_abandoned": self.consecutive_abandoned,
            "accounting": self.accounting.snapshot(),
            "groups": [
                [g.issue_index, g.state.value, [[a.state.value, a.deadline_s] for a in g.attempts]] for g in groups
            ],
            "orders": [[o.issue_index, o.attempt, o.not_before_s, o.deadline_s] for o in self._orders],
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Takes over a snapshot. Staged groups become awaited again."""
        self.cursor = int(snapshot["cursor"])
        self.consecutive_abandoned = int(snapshot["consecutive_abandoned"])
        self.accounting = Accounting.restored(snapshot["accounting"])
        self._open, self._lingering = {}, {}
        for index, state, attempts in snapshot["groups"]:
            group = Group(index, GroupState(state), [Attempt(AttemptState(s), deadline) for s, deadline in attempts])
            (self._open if group.is_open else self._lingering)[index] = group
            if group.state is GroupState.STAGED:
                self._move_staged_attempt(group, AttemptState.IN_FLIGHT)
                self._move_group(group, GroupState.IN_FLIGHT)
        self._orders = [SendOrder(*order) for order in snapshot["orders"]]

    # -- inner workings ------------------------------------------------------------------------------------------

    def _open_group(self, issue_index: int) -> Group:
        group = self._open[issue_index] = Group(issue_index)
        self.cursor = issue_index + 1
        self.accounting.group_issued()
        return group

    def _add_attempt(self, group: Group, deadline_s: float) -> int:
        group.attempts.append(Attempt(AttemptState.IN_FLIGHT, deadline_s))
        self.accounting.attempt_sent()
        return len(group.attempts)

    def _order_attempt(self, group: Group, now_s: float) -> None:
        not_before_s = now_s + self._limits.backoff_s(group.tries)
        deadline_s = not_before_s + self._limits.deadline_s
        attempt = self._add_attempt(group, deadline_s)
        self._orders.append(SendOrder(group.issue_index, attempt, not_before_s, deadline_s))

    def _is_wanted(self, order: SendOrder) -> bool:
        group = self._open.get(order.issue_index)
        if group is None or group.state is not GroupState.IN_FLIGHT:
            return False
        return group.attempts[order.attempt - 1].state is AttemptState.IN_FLIGHT

    def _released(self, order: SendOrder, now_s: float) -> SendOrder:
        deadline_s = now_s + self._limits.deadline_s
        self._open[order.issue_index].attempts[order.attempt - 1].deadline_s = deadline_s
        return replace(order, deadline_s=deadline_s)

    def _cancel_order(self, order: SendOrder) -> None:
        group = self._open.get(order.issue_index) or self._lingering.get(order.issue_index)
        if group is None:
            return
        record = group.attempts[order.attempt - 1]
        if record.state is AttemptState.IN_FLIGHT:
            self._move_attempt(record, AttemptState.CANCELLED)
            self._settle(group)

    def _believable(self, issue_index: int, attempt: int) -> bool:
        is_near = 0 <= issue_index < self.cursor + self._max_adopted_groups
        return is_near and 1 <= attempt <= self._limits.max_attempts + _MAX_ORPHANS

    def _adopt_groups(self, issue_index: int, now_s: float) -> None:
        """Groups are issued in order: a result past the cursor proves that all up to it had been sent."""
        while self.cursor <= issue_index:
            self._add_attempt(self._open_group(self.cursor), now_s + self._limits.deadline_s)

    def _adopt_attempts(self, group: Group, attempt: int, now_s: float) -> None:
        """A later attempt proves that the earlier ones had been given up."""
        while len(group.attempts) < attempt:
            for earlier in group.attempts:
                if earlier.state is AttemptState.IN_FLIGHT:
                    self._move_attempt(earlier, AttemptState.EXPIRED)
            self._add_attempt(group, now_s + self._limits.deadline_s)

    def _judge(self, group: Group, outcome: Outcome) -> Disposition:
        if outcome is Outcome.ORPHANED:
            return Disposition.ORPHANED
        if outcome in (Outcome.FAILED, Outcome.FAILED_FOR_GOOD):
            return Disposition.FAILED
        if group.state is GroupState.IN_FLIGHT:
            return Disposition.STAGED
        return Disposition.STALE if group.state is GroupState.ABANDONED else Disposition.DUPLICATE

    def _retry_or_abandon(self, group: Group, now_s: float, *, for_good: bool = False) -> None:
        if group.state is not GroupState.IN_FLIGHT:
            return
        if not for_good and any(attempt.state is AttemptState.IN_FLIGHT for attempt in group.attempts):
            return
        if not for_good and group.tries < self._limits.max_attempts:
            self._order_attempt(group, now_s)
            return
        self._move_group(group, GroupState.ABANDONED)
        self.consecutive_abandoned += 1

    def _attempts_in_flight(self) -> list[tuple[Group, Attempt]]:
        """Those that were sent: an order that still waits here cannot expire."""
        unsent = {(order.issue_index, order.attempt) for order in self._orders}
        return [
            (group, attempt)
            for group in (*self._open.values(), *self._lingering.values())
            for number, attempt in enumerate(group.attempts, 1)
            if attempt.state is AttemptState.IN_FLIGHT and (group.issue_index, number) not in unsent
        ]

    def _staged(self, issue_index: int) -> Group:
        group = self._open.get(issue_index)
        if group is None or group.state is not GroupState.STAGED:
            raise ValueError(f"group {issue_index} is not staged")
        return group

    def _move_staged_attempt(self, group: Group, new: AttemptState) -> None:
        for attempt in group.attempts:
            if attempt.state is AttemptState.STAGED:
                self._move_attempt(attempt, new)

    def _move_attempt(self, attempt: Attempt, new: AttemptState) -> None:
        self.accounting.attempt_moved(attempt.state, new)
        attempt.state = new

    def _move_group(self, group: Group, new: GroupState) -> None:
        self.accounting.group_moved(group.state, new)
        group.state = new

    def _settle(self, group: Group) -> None:
        """Ended groups leave the open ones; they are forgotten once nothing of theirs can move."""
        if group.is_open:
            return
        self._open.pop(group.issue_index, None)
        if group.is_closed:
            self._lingering.pop(group.issue_index, None)
        else:
            self._lingering[group.issue_index] = group
