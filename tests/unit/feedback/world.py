"""A feedback service over a real database, with a clock that tests move."""

from __future__ import annotations

import random
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from preceptor.feedback.adapters.migrate import migrate
from preceptor.feedback.adapters.sql_store import SqlStore, make_engine
from preceptor.feedback.lease_service import LeaseService
from preceptor.feedback.limits import Limits
from preceptor.feedback.service import FeedbackService
from preceptor.feedback.types import Candidate, Comparison, Offer, Project, Prompt, Ranking, RankingBody, Submission
from preceptor.feedback.vote_service import VoteService

START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
PROJECT = "toy"


class World:
    def __init__(self, url: str, limits: Limits | None = None, threads: int = 8) -> None:
        self.now = START
        self.limits = limits or Limits()
        self.engine = make_engine(url, threads)
        migrate(self.engine)
        self.store = SqlStore(self.engine)
        self.feedback = FeedbackService(self.store, self.clock, self.limits)
        self.leases = LeaseService(self.store, self.clock, self.limits, random.Random(0))
        self.votes = VoteService(self.store, self.clock, self.limits)

    def clock(self) -> datetime:
        return self.now

    def after(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def project(self, project_id: str = PROJECT, **fields: Any) -> Project:
        return self.feedback.create_project(Project(project_id, **fields))

    def add(self, *comparisons: Comparison) -> None:
        self.feedback.create_comparisons(comparisons)

    def lease(self, rater_id: str, seconds: float = 0.0, project_id: str = PROJECT) -> Offer | None:
        return self.leases.lease(project_id, rater_id, seconds)

    def must_lease(self, rater_id: str, seconds: float = 0.0) -> Offer:
        offer = self.lease(rater_id, seconds)
        assert offer is not None, f"nothing to do for {rater_id}"
        return offer

    def submit(self, rater_id: str, comparison_id: str, **fields: Any) -> Ranking:
        return self.votes.submit(vote(rater_id, comparison_id, **fields))

    def state(self, comparison_id: str) -> tuple[str, int]:
        comparison = self.feedback.get_comparison(comparison_id)
        return comparison.state.value, comparison.rankings

    def close(self) -> None:
        self.store.close()


def comparison(comparison_id: str = "one", k: int = 3, **fields: Any) -> Comparison:
    """k candidates a, b, c, ..."""
    names = "abcdefghi"[:k]
    given: dict[str, Any] = {
        "project_id": PROJECT,
        "prompt": Prompt(f"Please answer {comparison_id}."),
        "candidates": tuple(Candidate(name, f"answer {name}") for name in names),
    } | fields
    return Comparison(comparison_id, **given)


def vote(rater_id: str, comparison_id: str = "one", order: str = "abc", **fields: Any) -> Submission:
    """`order`: candidates best first, each a group of its own unless `body` is given."""
    given: dict[str, Any] = {"event_id": new_id(), "body": ranked(*order)} | fields
    return Submission(comparison_id=comparison_id, rater_id=rater_id, **given)


def ranked(*groups: str, **fields: Any) -> RankingBody:
    """`ranked("ab", "c")`: a and b equal, above c."""
    return RankingBody(tuple(tuple(group) for group in groups), **fields)


def new_id() -> str:
    return str(uuid.uuid4())
