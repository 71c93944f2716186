"""The gRPC servicer: convert, call, convert."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from preceptor.api.generation.v1 import generation_service_pb2 as pb
from preceptor.api.generation.v1 import generation_service_pb2_grpc
from preceptor.api.learner.v1.weights_pb2 import WeightManifest
from preceptor.generation import converters
from preceptor.generation.service import Drained, Generation

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["GenerationService"].full_name
Update = Callable[[WeightManifest | None], Awaitable[int]]
Drain = Callable[[float], Awaitable[Drained]]


class GenerationServicer(generation_service_pb2_grpc.GenerationServiceServicer):
    """GenerationService over a Generation.

    Args:
        generation: does the work.
        update: brings a manifest, or the newest, into force and returns the version then in force.
        drain: drains within the seconds given (0 = the server's own) and turns health NOT_SERVING.
    """

    def __init__(self, generation: Generation, update: Update, drain: Drain) -> None:
        self._generation = generation
        self._update = update
        self._drain = drain

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> pb.GenerateResponse:
        outcome = await self._generation.generate(converters.command_from(request, context.time_remaining()))
        identity = self._generation.identity
        return converters.outcome_to(outcome, identity.run_id, identity.generator_id)

    async def GenerateStream(
        self, request: pb.GenerateStreamRequest, context: Any
    ) -> AsyncIterator[pb.GenerateStreamResponse]:
        command = converters.stream_command_from(request, context.time_remaining())
        async for delta in self._generation.stream(command):
            yield converters.delta_to(delta, self._generation.identity.generator_id)

    async def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.GetStatusResponse:
        return converters.status_to(self._generation.status())

    async def UpdateWeights(self, request: pb.UpdateWeightsRequest, context: Any) -> pb.UpdateWeightsResponse:
        manifest = request.manifest if request.HasField("manifest") else None
        return pb.UpdateWeightsResponse(policy_version=await self._update(manifest))

    async def Drain(self, request: pb.DrainRequest, context: Any) -> pb.DrainResponse:
        drained = await self._drain(request.timeout_seconds)
        return pb.DrainResponse(finished_requests=drained.finished, handed_back_requests=drained.handed_back)
