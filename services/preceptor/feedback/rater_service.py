"""How far raters are trusted: reports, weights, pauses."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from preceptor.feedback import validation
from preceptor.feedback.limits import Limits
from preceptor.feedback.quality.types import Assessment, QualityVote, RaterQuality
from preceptor.feedback.quality.weights import Weights, weights_of
from preceptor.feedback.service import Clock, FeedbackService, require_project
from preceptor.feedback.store import Store, Transaction
from preceptor.feedback.types import Project, ProjectSettings, RaterState

T = TypeVar("T")
SERVICE = "service"
KEPT = 16


@dataclass(frozen=True, slots=True)
class Report:
    assessment: Assessment
    states: dict[str, RaterState]


class RaterService:
    """Args:
    window: raters are measured on so many of a project's newest votes.
    """

    def __init__(self, store: Store, feedback: FeedbackService, clock: Clock, limits: Limits, window: int) -> None:
        self._store = store
        self._feedback = feedback
        self._clock = clock
        self._limits = limits
        self._window = window
        self._assessments: _Kept[Assessment] = _Kept()
        self._weights: _Kept[Weights] = _Kept()

    def report(self, project_id: str, high_water_mark: int = 0) -> Report:
        """Measures the raters at the mark (0: now). The same mark gives the same assessment; pauses are as of now."""
        mark = self._feedback.settled_mark(project_id, high_water_mark)
        assessment = self._assessments.get(project_id, mark)
        if assessment is None:
            from preceptor.feedback.quality.assessment import assess  # statsmodels costs seconds to import

            assessment = self._assessments.keep(project_id, mark, assess(self._votes(project_id, mark), mark))
        return Report(assessment, self._store.read(lambda tx: tx.rater_states(project_id)))

    def weights(self, project_id: str, mark: int) -> Weights:
        """What each rater's votes are worth, from the votes up to the mark alone."""
        known = self._weights.get(project_id, mark)
        return known or self._weights.keep(project_id, mark, weights_of(self._votes(project_id, mark)))

    def _votes(self, project_id: str, mark: int) -> list[QualityVote]:
        return self._store.read(lambda tx: tx.quality_votes(project_id, mark, self._window))

    def set_state(self, state: RaterState) -> RaterState:
        """Pauses a rater or lets them go on, and returns the state as stored."""
        validation.check_rater_id(state.rater_id)
        validation.check_text(state.reason, "reason", self._limits.text.comment)
        if state.paused and not state.reason.strip():
            raise validation.wrong("reason", "say why the rater is paused: they read it")
        stored = replace(state, changed_at=self._clock())

        def step(tx: Transaction) -> RaterState:
            require_project(tx, state.project_id)
            tx.set_rater_state(stored)
            return stored

        return self._store.write(step)

    def pause_unreliable(self, project: Project) -> list[RaterState]:
        """Pauses whoever is surely below the project's thresholds and was never paused or resumed by hand since."""
        if not project.settings.pauses:
            return []
        report = self.report(project.project_id)
        paused = []
        for rater in report.assessment.raters:
            reason = reason_to_pause(rater, project.settings)
            known = report.states.get(rater.rater_id)
            if reason and known is None:
                state = RaterState(project.project_id, rater.rater_id, True, reason, SERVICE)
                paused.append(self.set_state(state))
        return paused

    def projects_that_pause(self) -> list[Project]:
        """Those whose settings let raters be paused."""
        found: list[Project] = []
        after = ""
        while True:
            page = self._feedback.list_projects(after, 1000)
            found += [project for project in page.items if project.settings.pauses]
            if page.next_key is None:
                return found
            after = str(page.next_key)


def reason_to_pause(rater: RaterQuality, settings: ProjectSettings) -> str:
    """Why the rater is to be paused, in words for them; empty when not."""
    for what, estimate, limit in (
        ("orders pairs as the other raters' consensus in", rater.reliability, settings.pause_below_reliability),
        ("ranks gold items rightly in", rater.gold_accuracy, settings.pause_below_gold_accuracy),
    ):
        if estimate.n >= settings.pause_after and estimate.surely_below(limit):
            return (
                f"{what} {estimate.value:.0%} of cases (95 % interval {estimate.low:.0%} to {estimate.high:.0%}, "
                f"{estimate.n} comparisons), below this project's {limit:.0%}"
            )
    return ""


class _Kept(Generic[T]):
    """The newest few results, by project and mark."""

    def __init__(self) -> None:
        self._by_key: OrderedDict[tuple[str, int], T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, project_id: str, mark: int) -> T | None:
        with self._lock:
            return self._by_key.get((project_id, mark))

    def keep(self, project_id: str, mark: int, value: T) -> T:
        with self._lock:
            self._by_key[project_id, mark] = value
            if len(self._by_key) > KEPT:
                self._by_key.popitem(last=False)
        return value
