"""FeedbackPort over FeedbackService."""

from __future__ import annotations

from datetime import UTC, datetime

from preceptor.api.feedback.v1 import feedback_service_pb2 as pb
from preceptor.clients.feedback import AsyncFeedbackClient
from preceptor.console import converters, rater_converters, rater_types, types
from preceptor.console.sampling import SampleBook

SAMPLE_PAGE = 200
PAGES_PER_LOOK = 10
PROJECTS_KEPT = 64
REPORT_TIMEOUT_S = 30.0
CANDIDATES_PER_COMPARISON = 2
"""How many samples one comparison gives: a page full of answers to one prompt says less than several prompts."""


class GrpcFeedback:
    """The feedback service through its client.

    Args:
        client: an open client.
        timeout_s: the deadline of each call.
    """

    def __init__(self, client: AsyncFeedbackClient, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._books: dict[str, SampleBook] = {}

    async def projects(self, page_size: int, page_token: str) -> types.ProjectPage:
        """A page of projects."""
        answer = await self._client.list_projects(
            pb.ListProjectsRequest(page_size=page_size, page_token=page_token), timeout_s=self._timeout_s
        )
        return types.ProjectPage(
            projects=tuple(converters.project(item) for item in answer.projects),
            next_page_token=answer.next_page_token,
        )

    async def project(self, project_id: str) -> types.Project:
        """One project."""
        answer = await self._client.get_project(pb.GetProjectRequest(project_id=project_id), timeout_s=self._timeout_s)
        return converters.project(answer.project)

    async def lease(self, project_id: str, request: types.LeaseRequest) -> types.LeaseOffer:
        """The rater's next comparison, or the one they hold."""
        answer = await self._client.lease_comparison(
            pb.LeaseComparisonRequest(
                project_id=project_id, rater_id=request.rater_id, lease_seconds=request.lease_seconds
            ),
            timeout_s=self._timeout_s,
        )
        lease = converters.lease(answer.lease, datetime.now(UTC)) if answer.HasField("lease") else None
        return types.LeaseOffer(lease=lease, retry_after_seconds=answer.retry_after_seconds)

    async def extend(self, lease_id: str, request: types.ExtendRequest) -> types.LeaseExtension:
        """Prolongs a lease."""
        answer = await self._client.extend_lease(
            pb.ExtendLeaseRequest(lease_id=lease_id, rater_id=request.rater_id, lease_seconds=request.lease_seconds),
            timeout_s=self._timeout_s,
        )
        return converters.extension(answer, datetime.now(UTC))

    async def release(self, lease_id: str, request: types.ReleaseRequest) -> None:
        """Gives a lease back."""
        await self._client.release_lease(
            pb.ReleaseLeaseRequest(
                lease_id=lease_id, rater_id=request.rater_id, reason=request.reason, flag=request.flag
            ),
            timeout_s=self._timeout_s,
        )

    async def submit(self, request: types.RankingRequest, client: str) -> types.Ranking:
        """Stores a vote."""
        answer = await self._client.submit_ranking(converters.submission(request, client), timeout_s=self._timeout_s)
        return converters.ranking(answer.ranking)

    async def retract(self, event_id: str, request: types.RetractRequest) -> types.Retraction:
        """Takes a vote out of force."""
        answer = await self._client.retract_ranking(
            pb.RetractRankingRequest(
                event_id=request.event_id, retracts=event_id, rater_id=request.rater_id, reason=request.reason
            ),
            timeout_s=self._timeout_s,
        )
        return types.Retraction(sequence=answer.sequence)

    async def rankings(self, project_id: str, rater_id: str, page_size: int, page_token: str) -> types.RankingPage:
        """A rater's votes in force, newest first."""
        answer = await self._client.list_rankings(
            pb.ListRankingsRequest(
                project_id=project_id, rater_id=rater_id, page_size=page_size, page_token=page_token
            ),
            timeout_s=self._timeout_s,
        )
        return types.RankingPage(
            rankings=tuple(converters.ranking(item) for item in answer.rankings),
            next_page_token=answer.next_page_token,
        )

    async def comparison(self, comparison_id: str) -> types.ShownComparison:
        """A comparison as raters see it."""
        answer = await self._client.get_comparison(
            pb.GetComparisonRequest(comparison_id=comparison_id), timeout_s=self._timeout_s
        )
        return converters.shown_comparison(answer.comparison)

    async def samples(self, project_id: str, limit: int) -> tuple[types.Sample, ...]:
        """Completions of the newest policy versions and of the first one, as far as the list has been read."""
        book = self._books.pop(project_id, None) or SampleBook()
        self._books[project_id] = book
        if len(self._books) > PROJECTS_KEPT:
            self._books.pop(next(iter(self._books)))
        for _ in range(PAGES_PER_LOOK):
            answer = await self._client.list_comparisons(
                pb.ListComparisonsRequest(project_id=project_id, page_size=SAMPLE_PAGE, page_token=book.page_token),
                timeout_s=self._timeout_s,
            )
            for comparison in answer.comparisons:
                book.add(converters.samples(comparison)[:CANDIDATES_PER_COMPARISON])
            if not answer.next_page_token:
                break
            book.page_token = answer.next_page_token
        return book.pick(limit)

    async def update_project(self, project_id: str, update: types.ProjectUpdate) -> types.Project:
        """Changes what was sent."""
        request = rater_converters.project_update(project_id, update)
        answer = await self._client.update_project(request, timeout_s=self._timeout_s)
        return converters.project(answer.project)

    async def rater_report(self, project_id: str) -> rater_types.RaterReport:
        """Measures the raters; the first time after new votes takes the service a second or two."""
        request = pb.GetRaterReportRequest(project_id=project_id)
        answer = await self._client.get_rater_report(request, timeout_s=max(self._timeout_s, REPORT_TIMEOUT_S))
        return rater_converters.report(answer.report)

    async def set_rater_state(
        self, project_id: str, rater_id: str, request: rater_types.RaterStateRequest
    ) -> rater_types.RaterState:
        """Pauses a rater, or lets them go on."""
        answer = await self._client.set_rater_state(
            pb.SetRaterStateRequest(
                project_id=project_id, rater_id=rater_id, paused=request.paused, reason=request.reason
            ),
            timeout_s=self._timeout_s,
        )
        return rater_converters.rater_state(answer.state)

    async def demonstrate(
        self, project_id: str, request: rater_types.DemonstrationRequest
    ) -> rater_types.Demonstration:
        """Stores what a rater would have answered."""
        answer = await self._client.submit_demonstration(
            pb.SubmitDemonstrationRequest(
                event_id=request.event_id,
                project_id=project_id,
                rater_id=request.rater_id,
                comparison_id=request.comparison_id,
                text=request.text,
            ),
            timeout_s=self._timeout_s,
        )
        return rater_converters.demonstration(answer.demonstration)

    async def stats(self, project_id: str) -> types.Stats:
        """Where a project stands."""
        answer = await self._client.stats(pb.GetStatsRequest(project_id=project_id), timeout_s=self._timeout_s)
        return converters.stats(answer)
