"""The gRPC face of the reward service: convert, call, convert."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from preceptor.api.reward.v1 import reward_service_pb2 as pb
from preceptor.api.reward.v1 import reward_service_pb2_grpc as pb_grpc
from preceptor.common.errors import InvalidInput
from preceptor.common.telemetry import BusyClock, counter, gauge
from preceptor.reward.converters import info_to_proto, items_from_request, score_response, spec_from_request
from preceptor.reward.service import RewardScoring

FULL_NAME = "preceptor.api.reward.v1.RewardService"
_PAGE_SIZE = 100

scored = counter("preceptor_reward_scored_items_total", "Items scored, by model and outcome.", ("model", "outcome"))

in_flight = gauge("preceptor_reward_items_in_flight", "Items that wait or are being scored.")


@contextmanager
def _counted(items: int) -> Iterator[None]:
    in_flight.inc(items)
    try:
        yield
    finally:
        in_flight.dec(items)


class RewardServicer(pb_grpc.RewardServiceServicer):
    def __init__(self, scoring: RewardScoring, busy: BusyClock) -> None:
        self._scoring = scoring
        self._busy = busy

    async def Score(self, request: pb.ScoreRequest, context: Any) -> pb.ScoreResponse:
        items = items_from_request(request)
        with self._busy, _counted(len(items)):
            scoring = await self._scoring.score(
                items, model=request.model, reward_model_version=request.reward_model_version
            )
        for result in scoring.results:
            scored.labels(scoring.model, result.failure.reason if result.failure else "OK").inc()
        return score_response(scoring)

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        if request.page_size < 0:
            raise InvalidInput("page_size must be 0 (the server's own) or more", field="page_size")
        size = min(request.page_size or _PAGE_SIZE, _PAGE_SIZE)
        rest = [info for info in self._scoring.list_models() if info.spec.name > request.page_token]
        page = rest[:size]
        token = page[-1].spec.name if len(rest) > size else ""
        return pb.ListModelsResponse(models=[info_to_proto(info) for info in page], next_page_token=token)

    async def LoadModel(self, request: pb.LoadModelRequest, context: Any) -> pb.LoadModelResponse:
        info = await self._scoring.load(spec_from_request(request), make_current=request.make_current)
        return pb.LoadModelResponse(model=info_to_proto(info))

    async def UnloadModel(self, request: pb.UnloadModelRequest, context: Any) -> pb.UnloadModelResponse:
        if not request.name:
            raise InvalidInput("name is missing", field="name")
        await self._scoring.unload(request.name)
        return pb.UnloadModelResponse()
