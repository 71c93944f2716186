"""The gRPC face of what is measured of raters, of updates and of demonstrations: convert, call, convert."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from preceptor.api.feedback.v1 import feedback_service_pb2 as pb
from preceptor.api.feedback.v1 import feedback_service_pb2_grpc as pb_grpc
from preceptor.feedback import converters, rater_converters
from preceptor.feedback.access.guard import caller
from preceptor.feedback.demonstration_service import DemonstrationService
from preceptor.feedback.rater_service import RaterService
from preceptor.feedback.types import RaterState
from preceptor.feedback.update_service import UpdateService


@dataclass(frozen=True, slots=True)
class Desks:
    """The use cases behind these methods."""

    raters: RaterService
    updates: UpdateService
    demonstrations: DemonstrationService


class RaterMethods(pb_grpc.FeedbackServiceServicer):
    """Part of the servicer; `FeedbackServicer` has the rest and `_run`."""

    _desks: Desks
    _run: Any

    async def UpdateProject(self, request: pb.UpdateProjectRequest, context: Any) -> pb.UpdateProjectResponse:
        project = converters.project(request.project)
        stored = await self._run(self._desks.updates.update_project, project, list(request.update_mask.paths))
        return pb.UpdateProjectResponse(project=converters.project_to_proto(stored))

    async def UpdateComparisons(
        self, request: pb.UpdateComparisonsRequest, context: Any
    ) -> pb.UpdateComparisonsResponse:
        update = rater_converters.comparison_update(request)
        changed = await self._run(self._desks.updates.update_comparisons, update)
        return pb.UpdateComparisonsResponse(comparisons=[converters.comparison_to_proto(one) for one in changed])

    async def MintGold(self, request: pb.MintGoldRequest, context: Any) -> pb.MintGoldResponse:
        made = await self._run(self._desks.updates.mint_gold, request.project_id, request.min_raters, request.max_items)
        return pb.MintGoldResponse(comparison_ids=made.comparison_ids, created=made.created)

    async def GetRaterReport(self, request: pb.GetRaterReportRequest, context: Any) -> pb.GetRaterReportResponse:
        report = await self._run(self._desks.raters.report, request.project_id, request.label_high_water_mark)
        return pb.GetRaterReportResponse(report=rater_converters.report_to_proto(request.project_id, report))

    async def SetRaterState(self, request: pb.SetRaterStateRequest, context: Any) -> pb.SetRaterStateResponse:
        wanted = RaterState(
            request.project_id, request.rater_id, request.paused, request.reason, caller.get()[0].user_id
        )
        state = await self._run(self._desks.raters.set_state, wanted)
        return pb.SetRaterStateResponse(state=rater_converters.state_to_proto(state))

    async def SubmitDemonstration(
        self, request: pb.SubmitDemonstrationRequest, context: Any
    ) -> pb.SubmitDemonstrationResponse:
        given = rater_converters.demonstration(request)
        stored = await self._run(self._desks.demonstrations.submit, given)
        return pb.SubmitDemonstrationResponse(demonstration=rater_converters.demonstration_to_proto(stored))

    async def ListDemonstrations(
        self, request: pb.ListDemonstrationsRequest, context: Any
    ) -> pb.ListDemonstrationsResponse:
        after = converters.number_token(request.page_token) or 0
        page = await self._run(self._desks.demonstrations.list, request.project_id, after, request.page_size)
        return pb.ListDemonstrationsResponse(
            demonstrations=[rater_converters.demonstration_to_proto(one) for one in page.items],
            next_page_token=converters.token(page.next_key),
        )
