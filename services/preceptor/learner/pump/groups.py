"""The ledger's records: a prompt group and its attempts."""

from dataclasses import dataclass, field

from preceptor.learner.pump.accounting import AttemptState, GroupState

OPEN_ATTEMPTS = (AttemptState.IN_FLIGHT, AttemptState.EXPIRED)
LIVE_ATTEMPTS = (AttemptState.IN_FLIGHT, AttemptState.STAGED)
_TRIES = (AttemptState.FAILED, AttemptState.EXPIRED)
_OPEN_GROUPS = (GroupState.IN_FLIGHT, GroupState.STAGED)


@dataclass(slots=True)
class Attempt:
    state: AttemptState
    deadline_s: float


@dataclass(slots=True)
class Group:
    issue_index: int
    state: GroupState = GroupState.IN_FLIGHT
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def tries(self) -> int:
        """Attempts that count against max_attempts. Orphaned ones do not: they fell to a restart of the learner."""
        return sum(attempt.state in _TRIES for attempt in self.attempts)

    @property
    def is_open(self) -> bool:
        return self.state in _OPEN_GROUPS

    @property
    def is_closed(self) -> bool:
        """Ended, and no attempt can move any more."""
        return not self.is_open and all(attempt.state not in OPEN_ATTEMPTS for attempt in self.attempts)
