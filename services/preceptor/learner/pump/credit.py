"""How many groups may be issued: the pump's flow control."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Credit:
    """Bounds in rollouts. issue_limit: issued, not yet trained. unacknowledged_limit: in the stream, or to come."""

    batch_size: int
    group_size: int
    max_staleness: int
    checkpoint_every_steps: int

    @property
    def issue_limit(self) -> int:
        return (self.max_staleness + 1) * self.batch_size

    @property
    def unacknowledged_limit(self) -> int:
        return (self.max_staleness + 1 + self.checkpoint_every_steps) * self.batch_size

    @property
    def max_unacknowledged_groups(self) -> int:
        return self.unacknowledged_limit // self.group_size

    def groups(
        self, *, open_groups: int, unacknowledged_rollouts: int, groups_to_go: int, in_flight_limit: int | None = None
    ) -> int:
        """Groups that may be issued now.

        open_groups: issued, neither trained nor abandoned. unacknowledged_rollouts: in entries read and not yet
        acknowledged, plus those still awaited. groups_to_go: what the run's remaining steps need beyond the open ones.
        in_flight_limit: a tighter bound than issue_limit.
        """
        free = self._free(open_groups, in_flight_limit)
        room = min(free, self.unacknowledged_limit - unacknowledged_rollouts)
        return max(0, min(room // self.group_size, groups_to_go))

    def blocked_by_acknowledgement(
        self, *, open_groups: int, unacknowledged_rollouts: int, in_flight_limit: int | None = None
    ) -> bool:
        """True if only a checkpoint, which lets entries be acknowledged, can make room for another group."""
        free = self._free(open_groups, in_flight_limit)
        return free >= self.group_size and self.unacknowledged_limit - unacknowledged_rollouts < self.group_size

    def _free(self, open_groups: int, in_flight_limit: int | None) -> int:
        limit = self.issue_limit if in_flight_limit is None else min(self.issue_limit, in_flight_limit)
        return limit - open_groups * self.group_size
