"""The lease rules, as functions of what is known of one comparison. With overlap m it has slots 0 .. m - 1."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime

from preceptor.feedback.types import Comparison, ComparisonState, Lease, LeaseState

FILLING = frozenset({LeaseState.HELD, LeaseState.ANSWERED})
"""The states in which a lease has a slot."""


def has_room(comparison: Comparison, leases: Collection[Lease], now: datetime) -> bool:
    """Whether one more rater may start: votes in force and raters at work are together fewer than wanted."""
    if comparison.state is not ComparisonState.OPEN:
        return False
    return comparison.rankings + sum(lease.live(now) for lease in leases) < comparison.overlap


def free_slot(comparison: Comparison, leases: Collection[Lease], now: datetime) -> int | None:
    """The lowest slot that nobody fills, or else the one of the lease that expired first; None when all are taken."""
    filled = {lease.slot for lease in leases if lease.state in FILLING}
    unused = next((slot for slot in range(comparison.overlap) if slot not in filled), None)
    if unused is not None:
        return unused
    expired = _expired(leases, now)
    return expired[0].slot if expired else None


def to_lapse(leases: Collection[Lease], slot: int) -> Lease | None:
    """The expired lease that has to give way, as it shall be stored, when `slot` is given to another rater."""
    holder = next((lease for lease in leases if lease.state is LeaseState.HELD and lease.slot == slot), None)
    return None if holder is None else replace(holder, state=LeaseState.LAPSED, slot=None)


def may_renew(lease: Lease, comparison: Comparison, leases: Collection[Lease], now: datetime) -> bool:
    """Whether a held lease may be prolonged: it is live, or it expired and the comparison still waits for it."""
    if lease.state is not LeaseState.HELD:
        return False
    return lease.live(now) or has_room(comparison, leases, now)


def is_late(lease: Lease | None, now: datetime) -> bool:
    """Whether a first vote on this lease comes after its time. A vote without a lease has no time to miss."""
    if lease is None or lease.state in (LeaseState.ANSWERED, LeaseState.RETRACTED):
        return False
    return not lease.live(now)


def answered(lease: Lease, comparison: Comparison, leases: Sequence[Lease]) -> Lease:
    """The lease as it stands after its rater's vote: in its own slot, in a free one, or beyond the overlap."""
    if lease.state in FILLING:
        return replace(lease, state=LeaseState.ANSWERED)
    filled = {other.slot for other in leases if other.state in FILLING}
    slot = next((slot for slot in range(comparison.overlap) if slot not in filled), None)
    return replace(lease, state=LeaseState.ANSWERED, slot=slot)


def state_after(comparison: Comparison, rankings: int) -> ComparisonState:
    """The comparison's state once it has this many rankings in force. A closed one stays closed."""
    if comparison.state is ComparisonState.CLOSED:
        return ComparisonState.CLOSED
    return ComparisonState.COMPLETE if rankings >= comparison.overlap else ComparisonState.OPEN


def _expired(leases: Collection[Lease], now: datetime) -> list[Lease]:
    held = [lease for lease in leases if lease.state is LeaseState.HELD and not lease.live(now)]
    return sorted(held, key=lambda lease: lease.expires_at)
