"""The gRPC face of the feedback service: convert, call, convert.

A rater is whom the request says: this slice listens on loopback only. Where access is checked later, it is checked by
an interceptor before these methods, against `rater_id` and `project_id` of the request.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from preceptor.api.feedback.v1 import feedback_service_pb2 as pb
from preceptor.common.telemetry import BusyClock, counter
from preceptor.feedback import converters
from preceptor.feedback.database_threads import DatabaseThreads
from preceptor.feedback.lease_service import LeaseService, Release
from preceptor.feedback.rater_server import Desks, RaterMethods
from preceptor.feedback.service import FeedbackService
from preceptor.feedback.types import Retraction
from preceptor.feedback.vote_service import VoteService

FULL_NAME = "preceptor.api.feedback.v1.FeedbackService"

votes = counter("preceptor_feedback_votes_total", "Answered vote events, repeats included.", ("kind",))
leased = counter("preceptor_feedback_leases_total", "Answers to raters who asked for work.", ("outcome",))


class FeedbackServicer(RaterMethods):
    def __init__(
        self,
        feedback: FeedbackService,
        leases: LeaseService,
        ballots: VoteService,
        desks: Desks,
        threads: DatabaseThreads,
        busy: BusyClock,
        idle_retry_s: float,
    ) -> None:
        self._feedback = feedback
        self._leases = leases
        self._votes = ballots
        self._desks = desks
        self._threads = threads
        self._busy = busy
        self._idle_retry_s = idle_retry_s

    async def _run(self, call: Any, /, *args: Any) -> Any:
        with self._busy:
            return await self._threads.run(call, *args)

    async def CreateProject(self, request: pb.CreateProjectRequest, context: Any) -> pb.CreateProjectResponse:
        project = await self._run(self._feedback.create_project, converters.project(request.project))
        return pb.CreateProjectResponse(project=converters.project_to_proto(project))

    async def GetProject(self, request: pb.GetProjectRequest, context: Any) -> pb.GetProjectResponse:
        project = await self._run(self._feedback.get_project, request.project_id)
        return pb.GetProjectResponse(project=converters.project_to_proto(project))

    async def ListProjects(self, request: pb.ListProjectsRequest, context: Any) -> pb.ListProjectsResponse:
        page = await self._run(self._feedback.list_projects, request.page_token, request.page_size)
        return pb.ListProjectsResponse(
            projects=[converters.project_to_proto(project) for project in page.items],
            next_page_token=converters.token(page.next_key),
        )

    async def CreateComparisons(
        self, request: pb.CreateComparisonsRequest, context: Any
    ) -> pb.CreateComparisonsResponse:
        comparisons = [converters.comparison(proto) for proto in request.comparisons]
        made = await self._run(self._feedback.create_comparisons, comparisons)
        return pb.CreateComparisonsResponse(comparison_ids=made.comparison_ids, created=made.created)

    async def GetComparison(self, request: pb.GetComparisonRequest, context: Any) -> pb.GetComparisonResponse:
        comparison = await self._run(self._feedback.get_comparison, request.comparison_id)
        return pb.GetComparisonResponse(comparison=converters.comparison_to_proto(comparison))

    async def ListComparisons(self, request: pb.ListComparisonsRequest, context: Any) -> pb.ListComparisonsResponse:
        page = await self._run(
            self._feedback.list_comparisons,
            request.project_id,
            converters.state_filter(request.state),
            request.run_id,
            converters.number_token(request.page_token) or 0,
            request.page_size,
        )
        return pb.ListComparisonsResponse(
            comparisons=[converters.comparison_to_proto(comparison) for comparison in page.items],
            next_page_token=converters.token(page.next_key),
        )

    async def LeaseComparison(self, request: pb.LeaseComparisonRequest, context: Any) -> pb.LeaseComparisonResponse:
        offer = await self._run(self._leases.lease, request.project_id, request.rater_id, request.lease_seconds)
        leased.labels("nothing_to_do" if offer is None else "leased").inc()
        if offer is None:
            return pb.LeaseComparisonResponse(retry_after_seconds=self._idle_retry_s)
        return pb.LeaseComparisonResponse(lease=converters.offer_to_proto(offer))

    async def ExtendLease(self, request: pb.ExtendLeaseRequest, context: Any) -> pb.ExtendLeaseResponse:
        expires_at = await self._run(self._leases.extend, request.lease_id, request.rater_id, request.lease_seconds)
        return pb.ExtendLeaseResponse(expires_at=converters.timestamp(expires_at))

    async def ReleaseLease(self, request: pb.ReleaseLeaseRequest, context: Any) -> pb.ReleaseLeaseResponse:
        release = Release(request.lease_id, request.rater_id, request.reason, request.flag)
        await self._run(self._leases.release, release)
        return pb.ReleaseLeaseResponse()

    async def SubmitRanking(self, request: pb.SubmitRankingRequest, context: Any) -> pb.SubmitRankingResponse:
        ranking = await self._run(self._votes.submit, converters.submission(request))
        votes.labels("ranking").inc()
        return pb.SubmitRankingResponse(ranking=converters.ranking_to_proto(ranking))

    async def RetractRanking(self, request: pb.RetractRankingRequest, context: Any) -> pb.RetractRankingResponse:
        retraction = Retraction(request.event_id, request.retracts, request.rater_id, request.reason)
        sequence = await self._run(self._votes.retract, retraction)
        votes.labels("retraction").inc()
        return pb.RetractRankingResponse(sequence=sequence)

    async def ListRankings(self, request: pb.ListRankingsRequest, context: Any) -> pb.ListRankingsResponse:
        page = await self._run(
            self._feedback.list_rankings,
            request.project_id,
            request.rater_id,
            converters.number_token(request.page_token),
            request.page_size,
        )
        return pb.ListRankingsResponse(
            rankings=[converters.ranking_to_proto(ranking) for ranking in page.items],
            next_page_token=converters.token(page.next_key),
        )

    async def CreateSnapshot(self, request: pb.CreateSnapshotRequest, context: Any) -> pb.CreateSnapshotResponse:
        snapshot = await self._run(self._feedback.create_snapshot, request.project_id, request.label_high_water_mark)
        return pb.CreateSnapshotResponse(snapshot=converters.snapshot_to_proto(snapshot))

    async def ExportRankings(
        self, request: pb.ExportRankingsRequest, context: Any
    ) -> AsyncIterator[pb.ExportRankingsResponse]:
        project_id, after = request.project_id, request.after_sequence
        mark = await self._run(self._feedback.settled_mark, project_id, request.label_high_water_mark)
        weights = await self._run(self._desks.raters.weights, project_id, mark)
        while page := await self._run(self._feedback.export_page, project_id, mark, after):
            for item in page:
                weight = weights.of(item.ranking.rater_id)
                yield pb.ExportRankingsResponse(item=converters.ranked_to_proto(item, weight))
            after = page[-1].ranking.sequence

    async def GetStats(self, request: pb.GetStatsRequest, context: Any) -> pb.GetStatsResponse:
        return converters.stats_to_proto(await self._run(self._feedback.stats, request.project_id))
