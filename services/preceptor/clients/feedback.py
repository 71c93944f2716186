"""Client of FeedbackService. Requests and answers are the protos of preceptor.api.feedback.v1."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import grpc
import grpc.aio

from preceptor.api.feedback.v1 import feedback_service_pb2 as pb
from preceptor.api.feedback.v1 import feedback_service_pb2_grpc
from preceptor.clients.base import AsyncClient, SyncClient


class FeedbackClient(SyncClient):
    """FeedbackService, for threads."""

    def __init__(self, target: str | grpc.Channel) -> None:
        super().__init__(target)
        self._stub = feedback_service_pb2_grpc.FeedbackServiceStub(self._channel)

    def create_project(self, request: pb.CreateProjectRequest, *, timeout_s: float = 10.0) -> pb.CreateProjectResponse:
        """Creates a project, or returns the equal one that exists."""
        return self._call(self._stub.CreateProject, request, timeout_s)

    def get_project(self, request: pb.GetProjectRequest, *, timeout_s: float = 10.0) -> pb.GetProjectResponse:
        """Returns a project."""
        return self._call(self._stub.GetProject, request, timeout_s)

    def list_projects(self, request: pb.ListProjectsRequest, *, timeout_s: float = 10.0) -> pb.ListProjectsResponse:
        """Returns a page of projects."""
        return self._call(self._stub.ListProjects, request, timeout_s)

    def create_comparisons(
        self, request: pb.CreateComparisonsRequest, *, timeout_s: float = 60.0
    ) -> pb.CreateComparisonsResponse:
        """Adds comparisons, all or none; repeating one changes nothing."""
        return self._call(self._stub.CreateComparisons, request, timeout_s)

    def get_comparison(self, request: pb.GetComparisonRequest, *, timeout_s: float = 10.0) -> pb.GetComparisonResponse:
        """Returns a comparison."""
        return self._call(self._stub.GetComparison, request, timeout_s)

    def list_comparisons(
        self, request: pb.ListComparisonsRequest, *, timeout_s: float = 10.0
    ) -> pb.ListComparisonsResponse:
        """Returns a page of comparisons."""
        return self._call(self._stub.ListComparisons, request, timeout_s)

    def lease_comparison(
        self, request: pb.LeaseComparisonRequest, *, timeout_s: float = 10.0
    ) -> pb.LeaseComparisonResponse:
        """Returns the rater's next task, or no lease and when to ask again."""
        return self._call(self._stub.LeaseComparison, request, timeout_s)

    def extend_lease(self, request: pb.ExtendLeaseRequest, *, timeout_s: float = 10.0) -> pb.ExtendLeaseResponse:
        """Prolongs a lease."""
        return self._call(self._stub.ExtendLease, request, timeout_s)

    def release_lease(self, request: pb.ReleaseLeaseRequest, *, timeout_s: float = 10.0) -> pb.ReleaseLeaseResponse:
        """Gives a lease back unanswered."""
        return self._call(self._stub.ReleaseLease, request, timeout_s)

    def submit_ranking(self, request: pb.SubmitRankingRequest, *, timeout_s: float = 10.0) -> pb.SubmitRankingResponse:
        """Stores a vote; safe to repeat with the same event_id."""
        return self._call(self._stub.SubmitRanking, request, timeout_s)

    def retract_ranking(
        self, request: pb.RetractRankingRequest, *, timeout_s: float = 10.0
    ) -> pb.RetractRankingResponse:
        """Takes a vote out of force."""
        return self._call(self._stub.RetractRanking, request, timeout_s)

    def list_rankings(self, request: pb.ListRankingsRequest, *, timeout_s: float = 10.0) -> pb.ListRankingsResponse:
        """Returns a page of the votes in force, newest first."""
        return self._call(self._stub.ListRankings, request, timeout_s)

    def create_snapshot(
        self, request: pb.CreateSnapshotRequest, *, timeout_s: float = 60.0
    ) -> pb.CreateSnapshotResponse:
        """Names the labels in force now, or up to a high-water mark."""
        return self._call(self._stub.CreateSnapshot, request, timeout_s)

    def export_rankings(
        self, request: pb.ExportRankingsRequest, *, timeout_s: float = 600.0
    ) -> Iterator[pb.ExportRankingsResponse]:
        """Yields a snapshot's votes in sequence order."""
        return self._stream(self._stub.ExportRankings, request, timeout_s)

    def stats(self, request: pb.GetStatsRequest, *, timeout_s: float = 30.0) -> pb.GetStatsResponse:
        """Returns a project's counts."""
        return self._call(self._stub.GetStats, request, timeout_s)

    def update_project(self, request: pb.UpdateProjectRequest, *, timeout_s: float = 10.0) -> pb.UpdateProjectResponse:
        """Changes what update_mask names."""
        return self._call(self._stub.UpdateProject, request, timeout_s)

    def update_comparisons(
        self, request: pb.UpdateComparisonsRequest, *, timeout_s: float = 60.0
    ) -> pb.UpdateComparisonsResponse:
        """Changes overlap, priority or state of comparisons, all or none."""
        return self._call(self._stub.UpdateComparisons, request, timeout_s)

    def get_rater_report(
        self, request: pb.GetRaterReportRequest, *, timeout_s: float = 60.0
    ) -> pb.GetRaterReportResponse:
        """Measures the raters of a project."""
        return self._call(self._stub.GetRaterReport, request, timeout_s)

    def set_rater_state(self, request: pb.SetRaterStateRequest, *, timeout_s: float = 10.0) -> pb.SetRaterStateResponse:
        """Pauses a rater or lets them go on."""
        return self._call(self._stub.SetRaterState, request, timeout_s)

    def mint_gold(self, request: pb.MintGoldRequest, *, timeout_s: float = 60.0) -> pb.MintGoldResponse:
        """Makes gold items of what raters agree on."""
        return self._call(self._stub.MintGold, request, timeout_s)

    def submit_demonstration(
        self, request: pb.SubmitDemonstrationRequest, *, timeout_s: float = 10.0
    ) -> pb.SubmitDemonstrationResponse:
        """Stores what a person would have answered; safe to repeat."""
        return self._call(self._stub.SubmitDemonstration, request, timeout_s)

    def list_demonstrations(
        self, request: pb.ListDemonstrationsRequest, *, timeout_s: float = 30.0
    ) -> pb.ListDemonstrationsResponse:
        """Returns a page of demonstrations, oldest first."""
        return self._call(self._stub.ListDemonstrations, request, timeout_s)


class AsyncFeedbackClient(AsyncClient):
    """As `FeedbackClient`, for asyncio."""

    def __init__(self, target: str | grpc.aio.Channel) -> None:
        super().__init__(target)
        self._stub = feedback_service_pb2_grpc.FeedbackServiceStub(self._channel)

    async def create_project(
        self, request: pb.CreateProjectRequest, *, timeout_s: float = 10.0
    ) -> pb.CreateProjectResponse:
        return await self._call(self._stub.CreateProject, request, timeout_s)

    async def get_project(self, request: pb.GetProjectRequest, *, timeout_s: float = 10.0) -> pb.GetProjectResponse:
        return await self._call(self._stub.GetProject, request, timeout_s)

    async def list_projects(
        self, request: pb.ListProjectsRequest, *, timeout_s: float = 10.0
    ) -> pb.ListProjectsResponse:
        return await self._call(self._stub.ListProjects, request, timeout_s)

    async def create_comparisons(
        self, request: pb.CreateComparisonsRequest, *, timeout_s: float = 60.0
    ) -> pb.CreateComparisonsResponse:
        return await self._call(self._stub.CreateComparisons, request, timeout_s)

    async def get_comparison(
        self, request: pb.GetComparisonRequest, *, timeout_s: float = 10.0
    ) -> pb.GetComparisonResponse:
        return await self._call(self._stub.GetComparison, request, timeout_s)

    async def list_comparisons(
        self, request: pb.ListComparisonsRequest, *, timeout_s: float = 10.0
    ) -> pb.ListComparisonsResponse:
        return await self._call(self._stub.ListComparisons, request, timeout_s)

    async def lease_comparison(
        self, request: pb.LeaseComparisonRequest, *, timeout_s: float = 10.0
    ) -> pb.LeaseComparisonResponse:
        return await self._call(self._stub.LeaseComparison, request, timeout_s)

    async def extend_lease(self, request: pb.ExtendLeaseRequest, *, timeout_s: float = 10.0) -> pb.ExtendLeaseResponse:
        return await self._call(self._stub.ExtendLease, request, timeout_s)

    async def release_lease(
        self, request: pb.ReleaseLeaseRequest, *, timeout_s: float = 10.0
    ) -> pb.ReleaseLeaseResponse:
        return await self._call(self._stub.ReleaseLease, request, timeout_s)

    async def submit_ranking(
        self, request: pb.SubmitRankingRequest, *, timeout_s: float = 10.0
    ) -> pb.SubmitRankingResponse:
        return await self._call(self._stub.SubmitRanking, request, timeout_s)

    async def retract_ranking(
        self, request: pb.RetractRankingRequest, *, timeout_s: float = 10.0
    ) -> pb.RetractRankingResponse:
        return await self._call(self._stub.RetractRanking, request, timeout_s)

    async def list_rankings(
        self, request: pb.ListRankingsRequest, *, timeout_s: float = 10.0
    ) -> pb.ListRankingsResponse:
        return await self._call(self._stub.ListRankings, request, timeout_s)

    async def create_snapshot(
        self, request: pb.CreateSnapshotRequest, *, timeout_s: float = 60.0
    ) -> pb.CreateSnapshotResponse:
        return await self._call(self._stub.CreateSnapshot, request, timeout_s)

    def export_rankings(
        self, request: pb.ExportRankingsRequest, *, timeout_s: float = 600.0
    ) -> AsyncIterator[pb.ExportRankingsResponse]:
        return self._stream(self._stub.ExportRankings, request, timeout_s)

    async def stats(self, request: pb.GetStatsRequest, *, timeout_s: float = 30.0) -> pb.GetStatsResponse:
        return await self._call(self._stub.GetStats, request, timeout_s)

    async def update_project(
        self, request: pb.UpdateProjectRequest, *, timeout_s: float = 10.0
    ) -> pb.UpdateProjectResponse:
        return await self._call(self._stub.UpdateProject, request, timeout_s)

    async def update_comparisons(
        self, request: pb.UpdateComparisonsRequest, *, timeout_s: float = 60.0
    ) -> pb.UpdateComparisonsResponse:
        return await self._call(self._stub.UpdateComparisons, request, timeout_s)

    async def get_rater_report(
        self, request: pb.GetRaterReportRequest, *, timeout_s: float = 60.0
    ) -> pb.GetRaterReportResponse:
        return await self._call(self._stub.GetRaterReport, request, timeout_s)

    async def set_rater_state(
        self, request: pb.SetRaterStateRequest, *, timeout_s: float = 10.0
    ) -> pb.SetRaterStateResponse:
        return await self._call(self._stub.SetRaterState, request, timeout_s)

    async def mint_gold(self, request: pb.MintGoldRequest, *, timeout_s: float = 60.0) -> pb.MintGoldResponse:
        return await self._call(self._stub.MintGold, request, timeout_s)

    async def submit_demonstration(
        self, request: pb.SubmitDemonstrationRequest, *, timeout_s: float = 10.0
    ) -> pb.SubmitDemonstrationResponse:
        return await self._call(self._stub.SubmitDemonstration, request, timeout_s)

    async def list_demonstrations(
        self, request: pb.ListDemonstrationsRequest, *, timeout_s: float = 30.0
    ) -> pb.ListDemonstrationsResponse:
        return await self._call(self._stub.ListDemonstrations, request, timeout_s)
