"""Projects, comparisons and everything that is read. Leases are in `lease_service.py`, votes in `vote_service.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from preceptor.common.errors import AlreadyExists, FailedPrecondition, InvalidInput, NotFound, Overloaded
from preceptor.feedback import canonical, validation
from preceptor.feedback.limits import Limits
from preceptor.feedback.scheduling import GOLD_OVERLAP
from preceptor.feedback.store import Store, Transaction
from preceptor.feedback.types import (
    Candidate,
    Comparison,
    ComparisonState,
    LabelLine,
    Page,
    Project,
    RankedComparison,
    Ranking,
    Snapshot,
    Stats,
)

Clock = Callable[[], datetime]
EXPORT_PAGE = 200
DIGEST_PAGE = 5000
BACKLOG_RETRY_S = 60.0


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Created:
    comparison_ids: tuple[str, ...]  # in the order of the request
    created: int  # the rest were there already


class FeedbackService:
    def __init__(self, store: Store, clock: Clock, limits: Limits) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits

    def create_project(self, project: Project) -> Project:
        """Returns the stored project: the new one, or the one that exists and is the same.

        A request with `guideline_version` one above the stored one, and otherwise the same, adds its guidelines as that
        version. Votes keep the version that their rater saw.

        Raises:
            AlreadyExists: the project exists and differs otherwise.
        """
        wanted = replace(project, default_overlap=project.default_overlap or 1)
        validation.check_project(wanted, self._limits.text)
        return self._store.write(lambda tx: self._create_project(tx, wanted))

    def _create_project(self, tx: Transaction, wanted: Project) -> Project:
        stored = tx.project(wanted.project_id)
        if stored is None:
            if wanted.guideline_version not in (0, 1):
                raise validation.wrong("project.guideline_version", "a new project starts at version 1")
            made = replace(wanted, guideline_version=1, created_at=self._clock())
            tx.add_project(made)
            return made
        if wanted.guideline_version in (0, stored.guideline_version):
            if canonical.project_digest(stored) == canonical.project_digest(wanted):
                return stored
        elif wanted.guideline_version == stored.guideline_version + 1:
            revised = replace(wanted, settings=stored.settings, created_at=stored.created_at)
            if canonical.project_digest(replace(wanted, guidelines=stored.guidelines)) == canonical.project_digest(
                stored
            ):
                tx.add_guidelines(revised)
                return revised
        raise AlreadyExists(
            f"project.project_id: {wanted.project_id!r} exists with another content (guideline version "
            f"{stored.guideline_version}); choose another id, or send guideline_version "
            f"{stored.guideline_version + 1} to change its guidelines alone",
            field="project.project_id",
        )

    def get_project(self, project_id: str) -> Project:
        validation.check_project_id(project_id)
        return self._store.read(lambda tx: require_project(tx, project_id))

    def list_projects(self, after: str, page_size: int) -> Page[Project]:
        limit = validation.check_page_size(page_size)
        return self._store.read(lambda tx: tx.projects(after, limit))

    def create_comparisons(self, comparisons: Sequence[Comparison]) -> Created:
        """Adds those that are new, all or none.

        Raises:
            InvalidInput: one of them is wrong; names it by its place.
            NotFound: an unknown project or `repeat_of`.
            AlreadyExists: an id exists with another content.
            Overloaded: the project's backlog of open comparisons is full.
        """
        validation.check_batch(comparisons, "comparisons")
        ready = [self._prepared(comparison, f"comparisons[{i}]") for i, comparison in enumerate(comparisons)]
        return self._store.write(lambda tx: self._create_comparisons(tx, ready))

    def _prepared(self, comparison: Comparison, where: str) -> Comparison:
        named = replace(comparison, candidates=_with_ids(comparison.candidates))
        if not named.comparison_id:
            named = replace(named, comparison_id=canonical.derived_comparison_id(named))
        validation.check_comparison(named, where, self._limits.text)
        return replace(named, digest=canonical.comparison_digest(named))

    def _create_comparisons(self, tx: Transaction, ready: Sequence[Comparison]) -> Created:
        now = self._clock()
        # One adder at a time per project: two batches in opposite order would deadlock, two small ones overfill it.
        for project_id in sorted({c.project_id for c in ready}):
            tx.lock_project(project_id)
        known = tx.comparisons([c.comparison_id for c in ready] + [c.repeat_of for c in ready if c.repeat_of])
        projects = {project_id: require_project(tx, project_id) for project_id in {c.project_id for c in ready}}
        new: dict[str, Comparison] = {}
        for index, comparison in enumerate(ready):
            where = f"comparisons[{index}]"
            _check_repeat_of(comparison, known | new, where)
            twin = known.get(comparison.comparison_id) or new.get(comparison.comparison_id)
            if twin is None:
                default = GOLD_OVERLAP if comparison.gold_answer else projects[comparison.project_id].default_overlap
                overlap = comparison.overlap or default
                new[comparison.comparison_id] = replace(
                    comparison, overlap=overlap, state=ComparisonState.OPEN, rankings=0, created_at=now
                )
            elif twin.digest != comparison.digest:
                raise AlreadyExists(
                    f"{where}.comparison_id: {comparison.comparison_id!r} exists with another content",
                    field=f"{where}.comparison_id",
                )
        self._check_backlog(tx, new.values())
        if new:
            tx.add_comparisons(list(new.values()))
        return Created(tuple(c.comparison_id for c in ready), len(new))

    def _check_backlog(self, tx: Transaction, new: Iterable[Comparison]) -> None:
        counts: dict[str, int] = {}
        for comparison in new:
            counts[comparison.project_id] = counts.get(comparison.project_id, 0) + 1
        limit = self._limits.max_open_comparisons
        for project_id, count in counts.items():
            if tx.open_comparisons(project_id, limit) + count > limit:
                raise Overloaded(
                    f"project {project_id!r} has {limit} open comparisons already; rank some first",
                    reason="BACKLOG_FULL",
                    field="comparisons",
                    retry_after_s=BACKLOG_RETRY_S,
                )

    def get_comparison(self, comparison_id: str) -> Comparison:
        validation.check_item_id(comparison_id, "comparison_id")
        return self._store.read(lambda tx: require_comparison(tx.comparison(comparison_id), comparison_id))

    def list_comparisons(
        self, project_id: str, state: ComparisonState | None, run_id: str, after: int, page_size: int
    ) -> Page[Comparison]:
        limit = validation.check_page_size(page_size)

        def step(tx: Transaction) -> Page[Comparison]:
            require_project(tx, project_id)
            return tx.list_comparisons(project_id, state, run_id, after, limit)

        return self._store.read(step)

    def list_rankings(self, project_id: str, rater_id: str, before: int | None, page_size: int) -> Page[Ranking]:
        limit = validation.check_page_size(page_size)

        def step(tx: Transaction) -> Page[Ranking]:
            require_project(tx, project_id)
            return tx.list_rankings(project_id, rater_id, before, limit)

        return self._store.read(step)

    def stats(self, project_id: str) -> Stats:
        def step(tx: Transaction) -> Stats:
            require_project(tx, project_id)
            return tx.stats(project_id, self._clock())

        return self._store.read(step)

    def settled_mark(self, project_id: str, high_water_mark: int = 0) -> int:
        """The mark to read labels at: the one asked for, or for 0 the newest. No vote at or below it can still appear.

        Raises:
            FailedPrecondition: it lies beyond the newest label.
        """
        if high_water_mark < 0:
            raise validation.wrong("label_high_water_mark", f"{high_water_mark} is negative")

        def step(tx: Transaction) -> int:
            require_project(tx, project_id)
            tx.settle()
            return tx.high_water_mark(project_id)

        newest = self._store.read(step)
        if high_water_mark > newest:
            raise FailedPrecondition(
                f"label_high_water_mark: {high_water_mark} is beyond the newest label, {newest}",
                field="label_high_water_mark",
            )
        return high_water_mark or newest

    def create_snapshot(self, project_id: str, high_water_mark: int = 0) -> Snapshot:
        """Names the labels in force at the mark. The same mark gives the same snapshot for ever."""
        mark = self.settled_mark(project_id, high_water_mark)
        label_hash = canonical.LabelHash()
        rankings, after = 0, 0
        comparisons: set[str] = set()
        while lines := self._label_lines(project_id, mark, after):
            label_hash.update(line.label_digest for line in lines)
            comparisons.update(line.comparison_id for line in lines)
            rankings += len(lines)
            after = lines[-1].sequence
        return Snapshot(project_id, mark, label_hash.hexdigest(), rankings, len(comparisons))

    def _label_lines(self, project_id: str, mark: int, after: int) -> list[LabelLine]:
        return self._store.read(lambda tx: tx.label_digests(project_id, mark, after, DIGEST_PAGE))

    def export_page(self, project_id: str, mark: int, after: int) -> list[RankedComparison]:
        """The next rankings in force at the mark with sequence above `after`; an empty page is the end."""
        if after < 0:
            raise validation.wrong("after_sequence", f"{after} is negative")
        return self._store.read(lambda tx: tx.ranked(project_id, mark, after, EXPORT_PAGE))


def require_project(tx: Transaction, project_id: str) -> Project:
    validation.check_project_id(project_id)
    project = tx.project(project_id)
    if project is None:
        raise NotFound(f"project_id: there is no project {project_id!r}", field="project_id")
    return project


def require_comparison(comparison: Comparison | None, comparison_id: str) -> Comparison:
    if comparison is None:
        raise NotFound(f"comparison_id: there is no comparison {comparison_id!r}", field="comparison_id")
    return comparison


def _with_ids(candidates: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
    """Candidates by place where none has an id of its own."""
    if any(candidate.candidate_id for candidate in candidates):
        return candidates
    return tuple(replace(candidate, candidate_id=f"c{i}") for i, candidate in enumerate(candidates, start=1))


def _check_repeat_of(comparison: Comparison, known: dict[str, Comparison], where: str) -> None:
    if not comparison.repeat_of:
        return
    repeated = known.get(comparison.repeat_of)
    if repeated is None:
        raise NotFound(
            f"{where}.repeat_of: there is no comparison {comparison.repeat_of!r}", field=f"{where}.repeat_of"
        )
    if repeated.project_id != comparison.project_id:
        raise InvalidInput(f"{where}.repeat_of: belongs to another project", field=f"{where}.repeat_of")
