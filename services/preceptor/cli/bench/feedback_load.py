"""Raters at work through gRPC: lease, submit, again."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from dataclasses import dataclass, field

import uvloop

from preceptor.api.common.v1 import text_pb2
from preceptor.api.feedback.v1 import feedback_pb2 as records
from preceptor.api.feedback.v1 import feedback_service_pb2 as pb
from preceptor.cli.bench.models import random_text
from preceptor.clients.feedback import AsyncFeedbackClient, FeedbackClient
from preceptor.common.errors import InternalError

PROJECT = "bench"
CANDIDATES = 4
PROMPT_WORDS = 40
CANDIDATE_WORDS = 80
_MINT_BATCH = 500
_TIMEOUT_S = 60.0


@dataclass(slots=True)
class Taken:
    """One round."""

    seconds: float = 0.0
    lease_s: list[float] = field(default_factory=list)
    submit_s: list[float] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        """Submissions per second, each with the lease before it."""
        return len(self.submit_s) / self.seconds


def create_project(address: str) -> None:
    """Makes the project, or finds it."""
    project = records.Project(project_id=PROJECT, title=PROJECT, default_overlap=1)
    with FeedbackClient(address) as client:
        client.create_project(pb.CreateProjectRequest(project=project))


def rate(address: str, raters: int, submissions: int) -> Taken:
    """Adds as many comparisons as submissions, then lets the raters answer them all. Adding is not timed."""
    return uvloop.run(_rate(address, raters, submissions))


async def _rate(address: str, raters: int, submissions: int) -> Taken:
    async with AsyncFeedbackClient(address) as client:
        for begin in range(0, submissions, _MINT_BATCH):
            batch = [_comparison() for _ in range(min(_MINT_BATCH, submissions - begin))]
            await client.create_comparisons(pb.CreateComparisonsRequest(comparisons=batch), timeout_s=_TIMEOUT_S)
        taken = Taken()
        begun = time.perf_counter()
        await asyncio.gather(*(_rater(client, f"rater-{index}", taken) for index in range(raters)))
        taken.seconds = time.perf_counter() - begun
    if len(taken.submit_s) != submissions:
        raise InternalError(f"{submissions} comparisons were added and {len(taken.submit_s)} ranked")
    return taken


async def _rater(client: AsyncFeedbackClient, rater_id: str, taken: Taken) -> None:
    """Works until nothing is left."""
    while True:
        begun = time.perf_counter()
        request = pb.LeaseComparisonRequest(project_id=PROJECT, rater_id=rater_id)
        answer = await client.lease_comparison(request, timeout_s=_TIMEOUT_S)
        if not answer.HasField("lease"):
            return
        leased = time.perf_counter()
        await client.submit_ranking(_vote(answer.lease, rater_id), timeout_s=_TIMEOUT_S)
        taken.lease_s.append(leased - begun)
        taken.submit_s.append(time.perf_counter() - leased)


def _vote(lease: records.Lease, rater_id: str) -> pb.SubmitRankingRequest:
    groups = [records.TieGroup(candidate_ids=[candidate_id]) for candidate_id in lease.shown_order]
    return pb.SubmitRankingRequest(
        event_id=str(uuid.uuid4()),
        comparison_id=lease.comparison.comparison_id,
        rater_id=rater_id,
        lease_id=lease.lease_id,
        body=records.RankingBody(tie_groups=groups, strength=records.PREFERENCE_STRENGTH_CLEAR),
        client="bench",
    )


def _comparison() -> records.Comparison:
    rng = random.Random()  # other content each time: equal comparisons would be one
    return records.Comparison(
        comparison_id=f"bench-{uuid.uuid4()}",
        project_id=PROJECT,
        prompt=text_pb2.Prompt(text=random_text(PROMPT_WORDS, rng)),
        candidates=[
            records.Candidate(candidate_id=f"c{index}", text=random_text(CANDIDATE_WORDS, rng))
            for index in range(CANDIDATES)
        ],
        overlap=1,
    )
