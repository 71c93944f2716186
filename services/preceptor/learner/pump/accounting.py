"""Counts of what became of every group and attempt, and the identities that they must satisfy."""

from collections import Counter
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class GroupState(StrEnum):
    """Where a group is. STAGED: its rollouts have arrived and wait to be trained; counted as in flight."""

    IN_FLIGHT = "in_flight"
    STAGED = "staged"
    TRAINED = "trained"
    ABANDONED = "abandoned"


class AttemptState(StrEnum):
    """Where an attempt is. STAGED: its result has arrived and waits to be trained; counted as in flight.

    STALE: arrived, but too old to use. ORPHANED: computed by a version that a restart rolled back. DUPLICATE: another
    attempt of the group was used. EXPIRED: no result by the deadline, and none since. CANCELLED: the run ended first.
    """

    IN_FLIGHT = "in_flight"
    STAGED = "staged"
    TRAINED = "trained"
    STALE = "stale"
    ORPHANED = "orphaned"
    DUPLICATE = "duplicate"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class GroupCounts:
    """issued = trained + abandoned + in_flight."""

    issued: int
    trained: int
    abandoned: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class AttemptCounts:
    """sent = the sum of the others."""

    sent: int
    trained: int
    stale: int
    orphaned: int
    duplicate: int
    failed: int
    expired: int
    cancelled: int
    in_flight: int


class AccountingError(AssertionError):
    """An identity of the accounting does not hold: a bug in the ledger."""


class Accounting:
    """Tallies every transition. `issued` and `sent` are counted apart from the states: so the identities can fail."""

    def __init__(self) -> None:
        self._issued = 0
        self._sent = 0
        self._groups: Counter[GroupState] = Counter()
        self._attempts: Counter[AttemptState] = Counter()

    def group_issued(self) -> None:
        self._issued += 1
        self._groups[GroupState.IN_FLIGHT] += 1

    def group_moved(self, old: GroupState, new: GroupState) -> None:
        self._groups[old] -= 1
        self._groups[new] += 1

    def attempt_sent(self) -> None:
        self._sent += 1
        self._attempts[AttemptState.IN_FLIGHT] += 1

    def attempt_moved(self, old: AttemptState, new: AttemptState) -> None:
        self._attempts[old] -= 1
        self._attempts[new] += 1

    @property
    def groups(self) -> GroupCounts:
        count = self._groups
        in_flight = count[GroupState.IN_FLIGHT] + count[GroupState.STAGED]
        return GroupCounts(self._issued, count[GroupState.TRAINED], count[GroupState.ABANDONED], in_flight)

    @property
    def attempts(self) -> AttemptCounts:
        count = self._attempts
        return AttemptCounts(
            sent=self._sent,
            trained=count[AttemptState.TRAINED],
            stale=count[AttemptState.STALE],
            orphaned=count[AttemptState.ORPHANED],
            duplicate=count[AttemptState.DUPLICATE],
            failed=count[AttemptState.FAILED],
            expired=count[AttemptState.EXPIRED],
            cancelled=count[AttemptState.CANCELLED],
            in_flight=count[AttemptState.IN_FLIGHT] + count[AttemptState.STAGED],
        )

    def check(self) -> None:
        """Raises AccountingError if an identity fails or a count is negative."""
        groups, attempts = asdict(self.groups), asdict(self.attempts)
        if groups.pop("issued") != sum(groups.values()):
            raise AccountingError(f"groups: issued is not the sum of the others: {self.groups}")
        if attempts.pop("sent") != sum(attempts.values()):
            raise AccountingError(f"attempts: sent is not the sum of the others: {self.attempts}")
        if any(count < 0 for count in (*self._groups.values(), *self._attempts.values())):
            raise AccountingError(f"a count is negative: {self._groups} {self._attempts}")

    def snapshot(self) -> dict[str, Any]:
        """JSON of the tallies, for a checkpoint."""
        return {
            "issued": self._issued,
            "sent": self._sent,
            "groups": {state.value: count for state, count in self._groups.items()},
            "attempts": {state.value: count for state, count in self._attempts.items()},
        }

    @classmethod
    def restored(cls, snapshot: dict[str, Any]) -> "Accounting":
        accounting = cls()
        accounting._issued = int(snapshot["issued"])
        accounting._sent = int(snapshot["sent"])
        accounting._groups.update({GroupState(state): count for state, count in snapshot["groups"].items()})
        accounting._attempts.update({AttemptState(state): count for state, count in snapshot["attempts"].items()})
        return accounting
