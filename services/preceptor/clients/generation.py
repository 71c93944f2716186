"""Client of GenerationService. Requests and answers are the protos of preceptor.api.generation.v1."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import grpc
import grpc.aio

from preceptor.api.generation.v1 import generation_service_pb2 as pb
from preceptor.api.generation.v1 import generation_service_pb2_grpc
from preceptor.clients.base import AsyncClient, SyncClient


class GenerationClient(SyncClient):
    """GenerationService, for threads."""

    def __init__(self, target: str | grpc.Channel) -> None:
        super().__init__(target)
        self._stub = generation_service_pb2_grpc.GenerationServiceStub(self._channel)

    def generate(self, request: pb.GenerateRequest, *, timeout_s: float = 300.0) -> pb.GenerateResponse:
        """Draws n completions of one prompt; repeating it draws anew."""
        return self._call(self._stub.Generate, request, timeout_s)

    def generate_stream(
        self, request: pb.GenerateStreamRequest, *, timeout_s: float = 300.0
    ) -> Iterator[pb.GenerateStreamResponse]:
        """Yields one completion's deltas as they are written; leaving the loop cancels the request."""
        return self._stream(self._stub.GenerateStream, request, timeout_s)

    def status(self, request: pb.GetStatusRequest, *, timeout_s: float = 10.0) -> pb.GetStatusResponse:
        """Returns the version held, load and limits."""
        return self._call(self._stub.GetStatus, request, timeout_s)

    def update_weights(self, request: pb.UpdateWeightsRequest, *, timeout_s: float = 300.0) -> pb.UpdateWeightsResponse:
        """Brings the generator to a manifest, or to the newest in the store; returns once it serves."""
        return self._call(self._stub.UpdateWeights, request, timeout_s)

    def drain(self, request: pb.DrainRequest, *, timeout_s: float = 120.0) -> pb.DrainResponse:
        """Stops admission, finishes or hands back what runs, and returns."""
        return self._call(self._stub.Drain, request, timeout_s)


class AsyncGenerationClient(AsyncClient):
    """As `GenerationClient`, for asyncio."""

    def __init__(self, target: str | grpc.aio.Channel) -> None:
        super().__init__(target)
        self._stub = generation_service_pb2_grpc.GenerationServiceStub(self._channel)

    async def generate(self, request: pb.GenerateRequest, *, timeout_s: float = 300.0) -> pb.GenerateResponse:
        return await self._call(self._stub.Generate, request, timeout_s)

    def generate_stream(
        self, request: pb.GenerateStreamRequest, *, timeout_s: float = 300.0
    ) -> AsyncIterator[pb.GenerateStreamResponse]:
        return self._stream(self._stub.GenerateStream, request, timeout_s)

    async def status(self, request: pb.GetStatusRequest, *, timeout_s: float = 10.0) -> pb.GetStatusResponse:
        return await self._call(self._stub.GetStatus, request, timeout_s)

    async def update_weights(
        self, request: pb.UpdateWeightsRequest, *, timeout_s: float = 300.0
    ) -> pb.UpdateWeightsResponse:
        return await self._call(self._stub.UpdateWeights, request, timeout_s)

    async def drain(self, request: pb.DrainRequest, *, timeout_s: float = 120.0) -> pb.DrainResponse:
        return await self._call(self._stub.Drain, request, timeout_s)
