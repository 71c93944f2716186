"""Who works on what: handing out comparisons, prolonging and taking back leases."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from preceptor.common.errors import FailedPrecondition, NotFound
from preceptor.feedback import leasing, scheduling, validation
from preceptor.feedback.limits import Limits
from preceptor.feedback.service import Clock, require_project
from preceptor.feedback.store import Store, Transaction
from preceptor.feedback.types import Candidate, Comparison, ComparisonState, Lease, LeaseState, Offer, Project

ATTEMPTS = 100
"""How many comparisons a rater may lose to quicker ones within one call; each loss is another rater's gain."""


@dataclass(frozen=True, slots=True)
class Release:
    lease_id: str
    rater_id: str
    reason: str = ""
    flag: bool = False  # withdraw the comparison for review


def new_lease_id() -> str:
    return str(uuid.uuid4())


class LeaseService:
    def __init__(
        self,
        store: Store,
        clock: Clock,
        limits: Limits,
        rng: random.Random | None = None,
        new_id: Callable[[], str] = new_lease_id,
    ) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits
        self._rng = rng or random.SystemRandom()
        self._new_id = new_id

    def lease(self, project_id: str, rater_id: str, lease_seconds: float = 0.0) -> Offer | None:
        """What the rater shall answer: the comparison they hold, renewed, or the next they never met; None when idle.

        A lease that ran out unanswered is renewed, in the same shown order, as long as nobody took its slot. Gold items
        and repeats come in at the project's rates.

        Raises:
            FailedPrecondition: the rater is paused; the message says why.
        """
        validation.check_rater_id(rater_id)
        seconds = self._seconds(lease_seconds)
        return self._store.write(lambda tx: self._lease(tx, project_id, rater_id, seconds))

    def _lease(self, tx: Transaction, project_id: str, rater_id: str, seconds: float) -> Offer | None:
        project = require_project(tx, project_id)
        _check_not_paused(tx, project_id, rater_id)
        now = self._clock()
        expires_at = now + timedelta(seconds=seconds)
        held = tx.held_lease(project_id, rater_id)
        if held is not None and (renewed := self._renew(tx, held, now, expires_at)) is not None:
            return Offer(renewed[0], _blind(renewed[1]), project.guidelines)
        taken = self._take_next(tx, project, rater_id, now, expires_at)
        return None if taken is None else Offer(taken[0], _blind(taken[1]), project.guidelines)

    def _take_next(
        self, tx: Transaction, project: Project, rater_id: str, now: datetime, expires_at: datetime
    ) -> tuple[Lease, Comparison] | None:
        kind = scheduling.draw(project.settings, self._rng)
        if kind is scheduling.Kind.GOLD:
            taken = self._take(tx, project, rater_id, now, expires_at, gold=True)
            if taken is not None:
                return taken
        elif kind is scheduling.Kind.REPEAT:
            repeat = tx.to_repeat(project.project_id, rater_id, scheduling.REPEAT_GAP)
            if repeat is not None:
                return self._take_repeat(tx, project, rater_id, repeat, now, expires_at)
        gold = False if project.settings.gold_rate else None
        return self._take(tx, project, rater_id, now, expires_at, gold=gold)

    def _take_repeat(
        self,
        tx: Transaction,
        project: Project,
        rater_id: str,
        repeat: tuple[Comparison, tuple[str, ...]],
        now: datetime,
        expires_at: datetime,
    ) -> tuple[Lease, Comparison]:
        original, shown_order = repeat
        comparison = scheduling.repeat_of(original, rater_id, now)
        tx.add_comparisons([comparison])
        lease = self._new_lease(project, comparison, rater_id, 0, now, expires_at)
        swapped = tuple(reversed(shown_order or original.candidate_ids))
        lease = replace(lease, shown_order=swapped)
        tx.add_lease(lease)
        return lease, comparison

    def _renew(
        self, tx: Transaction, held: Lease, now: datetime, expires_at: datetime
    ) -> tuple[Lease, Comparison] | None:
        comparison, leases, lease = _locked(tx, held)
        if leasing.may_renew(lease, comparison, leases, now):
            renewed = replace(lease, expires_at=expires_at)
            tx.set_lease(renewed)
            return renewed, comparison
        if lease.state is LeaseState.HELD:
            tx.set_lease(replace(lease, state=LeaseState.LAPSED, slot=None))
        return None

    def _take(
        self,
        tx: Transaction,
        project: Project,
        rater_id: str,
        now: datetime,
        expires_at: datetime,
        *,
        gold: bool | None,
    ) -> tuple[Lease, Comparison] | None:
        wait = False
        for _ in range(ATTEMPTS):
            comparison = tx.next_comparison(project.project_id, rater_id, now, wait=wait, gold=gold)
            if comparison is None:
                if wait:
                    return None
                wait = True  # for what others are just taking: they may yet fail
                continue
            wait = False
            leases = tx.leases_of(comparison.comparison_id)
            slot = leasing.free_slot(comparison, leases, now)
            met = any(lease.rater_id == rater_id for lease in leases)
            if slot is None or met or not leasing.has_room(comparison, leases, now):
                continue
            if (lapsed := leasing.to_lapse(leases, slot)) is not None:
                tx.set_lease(lapsed)
            lease = self._new_lease(project, comparison, rater_id, slot, now, expires_at)
            tx.add_lease(lease)
            return lease, comparison
        return None

    def _new_lease(
        self, project: Project, comparison: Comparison, rater_id: str, slot: int, now: datetime, expires_at: datetime
    ) -> Lease:
        order = list(comparison.candidate_ids)
        self._rng.shuffle(order)
        return Lease(
            lease_id=self._new_id(),
            project_id=project.project_id,
            comparison_id=comparison.comparison_id,
            rater_id=rater_id,
            state=LeaseState.HELD,
            slot=slot,
            shown_order=tuple(order),
            guideline_version=project.guideline_version,
            leased_at=now,
            expires_at=expires_at,
        )

    def extend(self, lease_id: str, rater_id: str, lease_seconds: float = 0.0) -> datetime:
        """The new expiry.

        Raises:
            NotFound: the rater has no such lease.
            FailedPrecondition: it was answered or given back, or it expired and nothing is left to do.
        """
        seconds = self._seconds(lease_seconds)
        return self._store.write(lambda tx: self._extend(tx, lease_id, rater_id, seconds))

    def _extend(self, tx: Transaction, lease_id: str, rater_id: str, seconds: float) -> datetime:
        comparison, leases, lease = _locked(tx, _require_lease(tx, lease_id, rater_id))
        now = self._clock()
        if not leasing.may_renew(lease, comparison, leases, now):
            raise FailedPrecondition(f"lease_id: {_why_over(lease)}", field="lease_id", reason="LEASE_OVER")
        expires_at = now + timedelta(seconds=seconds)
        tx.set_lease(replace(lease, expires_at=expires_at))
        return expires_at

    def release(self, release: Release) -> None:
        """Gives the lease back. Doing so twice changes nothing.

        Raises:
            NotFound: the rater has no such lease.
            FailedPrecondition: it was answered.
        """
        validation.check_text(release.reason, "reason", self._limits.text.comment)
        self._store.write(lambda tx: self._release(tx, release))

    def _release(self, tx: Transaction, release: Release) -> None:
        comparison, _, lease = _locked(tx, _require_lease(tx, release.lease_id, release.rater_id))
        if lease.state in (LeaseState.ANSWERED, LeaseState.RETRACTED):
            raise FailedPrecondition(f"lease_id: {_why_over(lease)}", field="lease_id", reason="LEASE_OVER")
        tx.set_lease(replace(lease, state=LeaseState.SKIPPED, slot=None, reason=release.reason))
        if release.flag or comparison.only_rater:  # nobody else may answer a repeat
            tx.set_comparison(comparison.comparison_id, ComparisonState.CLOSED, comparison.rankings)

    def _seconds(self, lease_seconds: float) -> float:
        return validation.check_lease_seconds(lease_seconds, self._limits.default_lease_s, self._limits.max_lease_s)


def _check_not_paused(tx: Transaction, project_id: str, rater_id: str) -> None:
    state = tx.rater_state(project_id, rater_id)
    if state is not None and state.paused:
        raise FailedPrecondition(
            f"rater_id: {rater_id!r} is paused in {project_id!r}: {state.reason}",
            field="rater_id",
            reason="RATER_PAUSED",
        )


def _require_lease(tx: Transaction, lease_id: str, rater_id: str) -> Lease:
    validation.check_item_id(lease_id, "lease_id")
    validation.check_rater_id(rater_id)
    lease = tx.lease(lease_id)
    if lease is None or lease.rater_id != rater_id:
        raise NotFound(f"lease_id: rater {rater_id!r} has no lease {lease_id!r}", field="lease_id")
    return lease


def _locked(tx: Transaction, lease: Lease) -> tuple[Comparison, list[Lease], Lease]:
    """The lease's comparison, locked, and its leases and the lease itself as they stand under the lock."""
    comparison = tx.lock_comparison(lease.comparison_id)
    if comparison is None:  # a foreign key forbids it
        raise NotFound(f"lease_id: its comparison {lease.comparison_id!r} is gone", field="lease_id")
    leases = tx.leases_of(lease.comparison_id)
    return comparison, leases, next(other for other in leases if other.lease_id == lease.lease_id)


def _why_over(lease: Lease) -> str:
    return {
        LeaseState.ANSWERED: "was answered",
        LeaseState.RETRACTED: "was answered, and the answer taken back",
        LeaseState.SKIPPED: "was given back",
        LeaseState.LAPSED: "has expired and its slot went to another rater; an answer is still accepted, as overlap",
        LeaseState.HELD: "has expired and no more rankings are wanted; an answer is still accepted, as overlap",
    }[lease.state]


def _blind(comparison: Comparison) -> Comparison:
    """What a rater may see: not where a candidate comes from, nor that the comparison is there to measure them."""
    return replace(
        comparison,
        candidates=tuple(Candidate(candidate.candidate_id, candidate.text) for candidate in comparison.candidates),
        run_id="",
        group_id="",
        control=False,
        repeat_of="",
        gold=False,
        gold_answer=(),
        only_rater="",
    )
