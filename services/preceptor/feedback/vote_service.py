"""The votes: an append-only log of rankings and retractions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from preceptor.common.errors import AlreadyExists, FailedPrecondition, InvalidInput, NotFound, PermissionDenied
from preceptor.feedback import canonical, leasing, ranking, validation
from preceptor.feedback.lease_service import new_lease_id
from preceptor.feedback.limits import Limits
from preceptor.feedback.service import Clock, require_comparison, require_project
from preceptor.feedback.store import Store, Transaction
from preceptor.feedback.types import (
    Comparison,
    Lease,
    LeaseState,
    Ranking,
    Retraction,
    Submission,
    VoteEvent,
    VoteKind,
)

CLOCK_SKEW = timedelta(minutes=5)
"""How far ahead a client's clock may run; a vote is never stored as given later than it came."""


@dataclass(frozen=True, slots=True)
class _Bench:
    """What a vote is judged against, read under the comparison's lock."""

    comparison: Comparison
    leases: list[Lease]
    lease: Lease | None  # the rater's own
    in_force: Ranking | None  # the rater's own
    guideline_version: int


class VoteService:
    def __init__(
        self, store: Store, clock: Clock, limits: Limits, new_lease_id: Callable[[], str] = new_lease_id
    ) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits
        self._new_lease_id = new_lease_id

    def submit(self, submission: Submission) -> Ranking:
        """Stores the vote and returns it; for a repeated event_id with the same body, the vote stored the first time.

        A vote is never refused for coming late. One without a lease (an import) counts like any other.

        Raises:
            InvalidInput: the body is no answer to this comparison; names the field.
            NotFound: an unknown comparison, or a lease that is not this rater's on this comparison.
            AlreadyExists: the event_id has another body, or the rater's vote in force is not named in `supersedes`.
            FailedPrecondition: `supersedes` names a vote that is not the rater's vote in force.
        """
        self._check(submission)
        canonical_submission = replace(submission, body=ranking.canonical(submission.body))
        request_digest = canonical.submission_digest(canonical_submission)
        return self._store.write(lambda tx: self._submit(tx, canonical_submission, request_digest))

    def _check(self, submission: Submission) -> None:
        validation.check_event_id(submission.event_id, "event_id")
        validation.check_item_id(submission.comparison_id, "comparison_id")
        validation.check_rater_id(submission.rater_id)
        if submission.supersedes:
            validation.check_event_id(submission.supersedes, "supersedes")
        validation.check_text(submission.client, "client", self._limits.text.label)
        if submission.submitted_at is not None and submission.submitted_at > self._clock() + CLOCK_SKEW:
            raise validation.wrong("submitted_at", f"{submission.submitted_at.isoformat()} lies in the future")
        validation.check_comment(submission.body, self._limits.text)

    def _submit(self, tx: Transaction, submission: Submission, request_digest: str) -> Ranking:
        comparison = require_comparison(tx.lock_comparison(submission.comparison_id), submission.comparison_id)
        # Looked for under the lock: a twin of this request may just have been stored.
        if (known := tx.event(submission.event_id)) is not None:
            return _original_ranking(known, request_digest)
        bench = self._bench(tx, submission, comparison)
        _check_supersedes(submission, bench.in_force)
        now = self._clock()
        vote = _ranking(submission, bench, now)
        sequence = tx.append(
            VoteEvent(
                kind=VoteKind.RANKING,
                event_id=vote.event_id,
                project_id=vote.project_id,
                comparison_id=vote.comparison_id,
                rater_id=vote.rater_id,
                submitted_at=vote.submitted_at,
                target=vote.supersedes,
                request_digest=request_digest,
                label_digest=canonical.label_digest(vote, bench.comparison),
                ranking=vote,
            )
        )
        self._settle_lease(tx, submission, bench, now)
        if bench.in_force is None:
            _count(tx, bench.comparison, +1)
        return replace(vote, sequence=sequence)

    def _bench(self, tx: Transaction, submission: Submission, comparison: Comparison) -> _Bench:
        project = require_project(tx, comparison.project_id)
        ranking.check_body(submission.body, comparison.candidate_ids, project.axes)
        leases = tx.leases_of(comparison.comparison_id)
        lease = next((lease for lease in leases if lease.rater_id == submission.rater_id), None)
        if submission.lease_id and (lease is None or lease.lease_id != submission.lease_id):
            raise NotFound(
                f"lease_id: rater {submission.rater_id!r} has no lease {submission.lease_id[:80]!r} on "
                f"{comparison.comparison_id!r}",
                field="lease_id",
            )
        in_force = tx.ranking_in_force(comparison.comparison_id, submission.rater_id)
        version = project.guideline_version if lease is None else lease.guideline_version
        return _Bench(comparison, leases, lease, in_force, version)

    def _settle_lease(self, tx: Transaction, submission: Submission, bench: _Bench, now: datetime) -> None:
        if bench.lease is not None:
            tx.set_lease(leasing.answered(bench.lease, bench.comparison, bench.leases))
            return
        unleased = Lease(
            lease_id=self._new_lease_id(),
            project_id=bench.comparison.project_id,
            comparison_id=bench.comparison.comparison_id,
            rater_id=submission.rater_id,
            state=LeaseState.LAPSED,
            slot=None,
            shown_order=(),
            guideline_version=bench.guideline_version,
            leased_at=now,
            expires_at=now,
        )
        tx.add_lease(leasing.answered(unleased, bench.comparison, bench.leases))

    def retract(self, retraction: Retraction) -> int:
        """Takes a vote out of force and returns the sequence of the retraction.

        Raises:
            NotFound: there is no such vote.
            PermissionDenied: it is another rater's.
            FailedPrecondition: it is not in force any more.
            AlreadyExists: the event_id was used for something else.
        """
        validation.check_event_id(retraction.event_id, "event_id")
        validation.check_event_id(retraction.retracts, "retracts")
        validation.check_rater_id(retraction.rater_id)
        validation.check_text(retraction.reason, "reason", self._limits.text.comment)
        request_digest = canonical.retraction_digest(retraction)
        return self._store.write(lambda tx: self._retract(tx, retraction, request_digest))

    def _retract(self, tx: Transaction, retraction: Retraction, request_digest: str) -> int:
        target = _require_vote(tx, retraction)
        comparison = require_comparison(tx.lock_comparison(target.comparison_id), target.comparison_id)
        if (known := tx.event(retraction.event_id)) is not None:
            return _same_request(known, request_digest).sequence
        if (ending := tx.ending_of(retraction.retracts)) is not None:
            raise FailedPrecondition(
                f"retracts: {retraction.retracts!r} is no longer in force since event {ending.event_id!r}",
                field="retracts",
                reason="NOT_IN_FORCE",
            )
        sequence = tx.append(
            VoteEvent(
                kind=VoteKind.RETRACTION,
                event_id=retraction.event_id,
                project_id=comparison.project_id,
                comparison_id=comparison.comparison_id,
                rater_id=retraction.rater_id,
                submitted_at=self._clock(),
                target=retraction.retracts,
                request_digest=request_digest,
                reason=retraction.reason,
            )
        )
        for lease in tx.leases_of(comparison.comparison_id):
            if lease.rater_id == retraction.rater_id:
                tx.set_lease(replace(lease, state=LeaseState.RETRACTED, slot=None))
        _count(tx, comparison, -1)
        return sequence


def _ranking(submission: Submission, bench: _Bench, now: datetime) -> Ranking:
    lease = bench.lease
    submitted_at = min(now, submission.submitted_at or now)
    return Ranking(
        event_id=submission.event_id,
        project_id=bench.comparison.project_id,
        comparison_id=submission.comparison_id,
        rater_id=submission.rater_id,
        body=submission.body,
        shown_order=lease.shown_order if lease else (),
        lease_id=lease.lease_id if lease and lease.shown_order else "",
        shown_at=submission.shown_at or (lease.leased_at if lease else submitted_at),
        submitted_at=submitted_at,
        guideline_version=bench.guideline_version,
        supersedes=submission.supersedes,
        late=leasing.is_late(lease, now),
        client=submission.client,
    )


def _count(tx: Transaction, comparison: Comparison, change: int) -> None:
    rankings = comparison.rankings + change
    tx.set_comparison(comparison.comparison_id, leasing.state_after(comparison, rankings), rankings)


def _same_request(known: VoteEvent, request_digest: str) -> VoteEvent:
    if known.request_digest != request_digest:
        raise AlreadyExists(
            f"event_id: {known.event_id!r} is stored with another body", field="event_id", reason="EVENT_ID_CONFLICT"
        )
    return known


def _original_ranking(known: VoteEvent, request_digest: str) -> Ranking:
    original = _same_request(known, request_digest).ranking
    if original is None:  # a retraction's digest never equals a submission's
        raise AlreadyExists(f"event_id: {known.event_id!r} is a retraction", field="event_id")
    return original


def _check_supersedes(submission: Submission, in_force: Ranking | None) -> None:
    if in_force is None and not submission.supersedes:
        return
    if in_force is None:
        raise FailedPrecondition(
            f"supersedes: rater {submission.rater_id!r} has no vote in force on {submission.comparison_id!r}",
            field="supersedes",
            reason="NOT_IN_FORCE",
        )
    if not submission.supersedes:
        raise AlreadyExists(
            f"supersedes: rater {submission.rater_id!r} has ranked {submission.comparison_id!r} in event "
            f"{in_force.event_id!r}; name it to change the vote",
            field="supersedes",
            reason="ALREADY_RANKED",
            metadata={"event_id": in_force.event_id},
        )
    if submission.supersedes != in_force.event_id:
        raise FailedPrecondition(
            f"supersedes: the rater's vote in force is {in_force.event_id!r}, not {submission.supersedes!r}",
            field="supersedes",
            reason="NOT_IN_FORCE",
            metadata={"event_id": in_force.event_id},
        )


def _require_vote(tx: Transaction, retraction: Retraction) -> VoteEvent:
    target = tx.event(retraction.retracts)
    if target is None:
        raise NotFound(f"retracts: there is no vote {retraction.retracts!r}", field="retracts")
    if target.kind is not VoteKind.RANKING:
        raise InvalidInput(f"retracts: {retraction.retracts!r} is a retraction itself", field="retracts")
    if target.rater_id != retraction.rater_id:
        raise PermissionDenied(f"retracts: {retraction.retracts!r} is another rater's vote", field="retracts")
    return target
