"""What the pump needs from outside: its settings, where results come from and where attempts go."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from preceptor.learner.pump.attempts import SendOrder
from preceptor.learner.pump.results import GroupResult


class ExperienceSource(Protocol):
    """Where results come from. Every method may raise Unavailable."""

    def read(self, timeout_s: float) -> list[GroupResult]:
        """Results that were not read in this life, oldest first; the same entry may come again. Empty: caught up."""
        ...

    def acknowledge(self, entry_ids: Iterable[str]) -> None:
        """Removes entries for good."""
        ...


class AttemptSender(Protocol):
    """Sends an attempt to the rollout workers. May raise Unavailable."""

    def send(self, order: SendOrder, min_policy_version: int) -> None: ...


@dataclass(frozen=True, slots=True)
class PumpSettings:
    """total_steps: bounds what is issued. max_consecutive_abandoned: groups without any success before giving up.

    straggler_factor: a group that takes so many times as long as three in four recent ones, and min_patience_s at
    least, is sent again before its deadline; 0: never.
    """

    run_id: str
    groups_per_batch: int
    group_size: int
    total_steps: int
    max_consecutive_abandoned: int
    straggler_factor: float = 0.0
    min_patience_s: float = 5.0
    read_timeout_s: float = 1.0
    send_backoff_s: float = 0.5
    max_send_backoff_s: float = 2.0
