"""Clients of LearnerService and WeightService. Requests and answers are the protos of preceptor.api.learner.v1."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import grpc
import grpc.aio

from preceptor.api.learner.v1 import learner_service_pb2 as learner_pb
from preceptor.api.learner.v1 import learner_service_pb2_grpc, weight_service_pb2_grpc
from preceptor.api.learner.v1 import weight_service_pb2 as weight_pb
from preceptor.clients.base import AsyncClient, SyncClient
from preceptor.common.weight_chunks import Chunk, decode_chunk

_FETCH_WEIGHTS = f"/{weight_pb.DESCRIPTOR.services_by_name['WeightService'].full_name}/FetchWeights"


class LearnerClient(SyncClient):
    """LearnerService, for threads."""

    def __init__(self, target: str | grpc.Channel) -> None:
        super().__init__(target)
        self._stub = learner_service_pb2_grpc.LearnerServiceStub(self._channel)

    def status(self, request: learner_pb.GetStatusRequest, *, timeout_s: float = 10.0) -> learner_pb.GetStatusResponse:
        """Returns state, step, last metrics and the accounting."""
        return self._call(self._stub.GetStatus, request, timeout_s)

    def watch_metrics(
        self, request: learner_pb.WatchMetricsRequest, *, timeout_s: float = 3600.0
    ) -> Iterator[learner_pb.WatchMetricsResponse]:
        """Yields each step's metrics from after_step on, then live until the run ends."""
        return self._stream(self._stub.WatchMetrics, request, timeout_s)

    def pause(self, request: learner_pb.PauseRequest, *, timeout_s: float = 300.0) -> learner_pb.PauseResponse:
        """Stops after the current step."""
        return self._call(self._stub.Pause, request, timeout_s)

    def resume(self, request: learner_pb.ResumeRequest, *, timeout_s: float = 10.0) -> learner_pb.ResumeResponse:
        """Goes on."""
        return self._call(self._stub.Resume, request, timeout_s)

    def checkpoint(
        self, request: learner_pb.CheckpointRequest, *, timeout_s: float = 600.0
    ) -> learner_pb.CheckpointResponse:
        """Writes a checkpoint after the current step; returns when it is durable."""
        return self._call(self._stub.Checkpoint, request, timeout_s)

    def change_settings(
        self, request: learner_pb.ChangeSettingsRequest, *, timeout_s: float = 600.0
    ) -> learner_pb.ChangeSettingsResponse:
        """Changes settings between two steps; returns when that is durable."""
        return self._call(self._stub.ChangeSettings, request, timeout_s)

    def stop(self, request: learner_pb.StopRequest, *, timeout_s: float = 600.0) -> learner_pb.StopResponse:
        """Ends the run after the current step."""
        return self._call(self._stub.Stop, request, timeout_s)


class AsyncLearnerClient(AsyncClient):
    """As `LearnerClient`, for asyncio."""

    def __init__(self, target: str | grpc.aio.Channel) -> None:
        super().__init__(target)
        self._stub = learner_service_pb2_grpc.LearnerServiceStub(self._channel)

    async def status(
        self, request: learner_pb.GetStatusRequest, *, timeout_s: float = 10.0
    ) -> learner_pb.GetStatusResponse:
        return await self._call(self._stub.GetStatus, request, timeout_s)

    def watch_metrics(
        self, request: learner_pb.WatchMetricsRequest, *, timeout_s: float = 3600.0
    ) -> AsyncIterator[learner_pb.WatchMetricsResponse]:
        return self._stream(self._stub.WatchMetrics, request, timeout_s)

    async def pause(self, request: learner_pb.PauseRequest, *, timeout_s: float = 300.0) -> learner_pb.PauseResponse:
        return await self._call(self._stub.Pause, request, timeout_s)

    async def resume(self, request: learner_pb.ResumeRequest, *, timeout_s: float = 10.0) -> learner_pb.ResumeResponse:
        return await self._call(self._stub.Resume, request, timeout_s)

    async def checkpoint(
        self, request: learner_pb.CheckpointRequest, *, timeout_s: float = 600.0
    ) -> learner_pb.CheckpointResponse:
        return await self._call(self._stub.Checkpoint, request, timeout_s)

    async def change_settings(
        self, request: learner_pb.ChangeSettingsRequest, *, timeout_s: float = 600.0
    ) -> learner_pb.ChangeSettingsResponse:
        return await self._call(self._stub.ChangeSettings, request, timeout_s)

    async def stop(self, request: learner_pb.StopRequest, *, timeout_s: float = 600.0) -> learner_pb.StopResponse:
        return await self._call(self._stub.Stop, request, timeout_s)


class WeightClient(SyncClient):
    """WeightService, for threads."""

    def __init__(self, target: str | grpc.Channel) -> None:
        super().__init__(target)
        self._stub = weight_service_pb2_grpc.WeightServiceStub(self._channel)
        self._fetch_serialised: grpc.UnaryStreamMultiCallable[weight_pb.FetchWeightsRequest, bytes] = (
            self._channel.unary_stream(_FETCH_WEIGHTS, weight_pb.FetchWeightsRequest.SerializeToString, None)
        )

    def watch(self, request: weight_pb.WatchRequest, *, timeout_s: float = 3600.0) -> Iterator[weight_pb.WatchResponse]:
        """Yields the newest manifest, then each later one."""
        return self._stream(self._stub.Watch, request, timeout_s)

    def get_manifest(
        self, request: weight_pb.GetManifestRequest, *, timeout_s: float = 10.0
    ) -> weight_pb.GetManifestResponse:
        """Returns one manifest; the newest when no version is named."""
        return self._call(self._stub.GetManifest, request, timeout_s)

    def fetch_weights(
        self, request: weight_pb.FetchWeightsRequest, *, timeout_s: float = 600.0
    ) -> Iterator[weight_pb.FetchWeightsResponse]:
        """Yields a version's bytes in chunks from an offset."""
        return self._stream(self._stub.FetchWeights, request, timeout_s)

    def fetch_chunks(self, request: weight_pb.FetchWeightsRequest, *, timeout_s: float = 600.0) -> Iterator[Chunk]:
        """As `fetch_weights`, with fewer copies of each chunk. DataLoss for what is no chunk."""
        for message in self._stream(self._fetch_serialised, request, timeout_s):
            yield decode_chunk(message)


class AsyncWeightClient(AsyncClient):
    """As `WeightClient`, for asyncio."""

    def __init__(self, target: str | grpc.aio.Channel) -> None:
        super().__init__(target)
        self._stub = weight_service_pb2_grpc.WeightServiceStub(self._channel)

    def watch(
        self, request: weight_pb.WatchRequest, *, timeout_s: float = 3600.0
    ) -> AsyncIterator[weight_pb.WatchResponse]:
        return self._stream(self._stub.Watch, request, timeout_s)

    async def get_manifest(
        self, request: weight_pb.GetManifestRequest, *, timeout_s: float = 10.0
    ) -> weight_pb.GetManifestResponse:
        return await self._call(self._stub.GetManifest, request, timeout_s)

    def fetch_weights(
        self, request: weight_pb.FetchWeightsRequest, *, timeout_s: float = 600.0
    ) -> AsyncIterator[weight_pb.FetchWeightsResponse]:
        return self._stream(self._stub.FetchWeights, request, timeout_s)
