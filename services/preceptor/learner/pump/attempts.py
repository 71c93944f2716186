"""What is sent, what comes back, and how often it is tried."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class AttemptLimits:
    """deadline_s: from sending to giving up. retry_backoff_s: after the first failure; doubles with each further."""

    deadline_s: float
    max_attempts: int
    retry_backoff_s: float = 0.0
    max_retry_backoff_s: float = 60.0

    def backoff_s(self, failures: int) -> float:
        """Seconds to wait after so many failed attempts; 0 after none."""
        if failures == 0:
            return 0.0
        return min(self.retry_backoff_s * 2.0 ** min(failures - 1, 30), self.max_retry_backoff_s)


@dataclass(frozen=True, slots=True)
class SendOrder:
    """An attempt to be sent, not before `not_before_s`; `deadline_s` is when it expires."""

    issue_index: int
    attempt: int
    not_before_s: float
    deadline_s: float


class Outcome(StrEnum):
    """What a result says, before the ledger knows what to make of it."""

    USABLE = "usable"
    FAILED = "failed"
    FAILED_FOR_GOOD = "failed_for_good"
    ORPHANED = "orphaned"


class Disposition(StrEnum):
    """What the ledger made of a result. REDELIVERED: the attempt had its result. FOREIGN: not of this run's making."""

    STAGED = "staged"
    STALE = "stale"
    DUPLICATE = "duplicate"
    FAILED = "failed"
    ORPHANED = "orphaned"
    REDELIVERED = "redelivered"
    FOREIGN = "foreign"


def patience_s(recent_s: Collection[float], factor: float, at_least_s: float) -> float:
    """How long a group may take before it counts as a straggler: `factor` times what three in four recent ones stayed
    within. The slowest quarter does not count: an outage makes groups slow that have nothing long about them.
    """
    return max(at_least_s, factor * sorted(recent_s)[3 * (len(recent_s) - 1) // 4])
