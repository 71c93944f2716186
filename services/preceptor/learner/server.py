"""The servicers of a training job: LearnerService and WeightService. Convert, call, convert."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from preceptor.api.learner.v1 import learner_service_pb2 as learner_pb
from preceptor.api.learner.v1 import learner_service_pb2_grpc, weight_service_pb2_grpc, weights_pb2
from preceptor.api.learner.v1 import weight_service_pb2 as weight_pb
from preceptor.common.errors import FailedPrecondition, NotFound
from preceptor.learner.adapters.policy_store import PolicyStore
from preceptor.learner.adapters.weight_stream import RecentChunks, stream_files
from preceptor.learner.converters import metrics_to_proto, status_to_proto
from preceptor.learner.monitor import RunControl, RunMonitor

SERVICE_NAME = weight_pb.DESCRIPTOR.services_by_name["WeightService"].full_name
_RECHECK_S = 5.0  # a watcher looks again at least this often
_DEFAULT_WAIT_S = 300.0


class _Wake:
    """An asyncio event that other threads may set."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __call__(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self) -> None:
        try:
            await asyncio.wait_for(self._event.wait(), _RECHECK_S)
        except TimeoutError:
            return
        self._event.clear()


class LearnerServicer(learner_service_pb2_grpc.LearnerServiceServicer):
    """The run's status, metrics and controls."""

    def __init__(self, monitor: RunMonitor, control: RunControl, draining: asyncio.Event) -> None:
        self._monitor = monitor
        self._control = control
        self._draining = draining

    async def GetStatus(self, request: learner_pb.GetStatusRequest, context: Any) -> learner_pb.GetStatusResponse:
        return status_to_proto(self._monitor.snapshot)

    async def WatchMetrics(
        self, request: learner_pb.WatchMetricsRequest, context: Any
    ) -> AsyncIterator[learner_pb.WatchMetricsResponse]:
        sent = request.after_step
        with _woken_by(self._monitor) as wake:
            while True:
                final = self._monitor.snapshot.state.is_final or self._draining.is_set()
                for item in self._monitor.steps_after(sent):
                    yield metrics_to_proto(item.step, item.policy_version, item.metrics, item.time_s)
                    sent = item.step
                if final:
                    return
                await wake.wait()

    async def Pause(self, request: learner_pb.PauseRequest, context: Any) -> learner_pb.PauseResponse:
        self._control.pause()
        return learner_pb.PauseResponse(step=self._monitor.snapshot.step)

    async def Resume(self, request: learner_pb.ResumeRequest, context: Any) -> learner_pb.ResumeResponse:
        self._control.resume()
        return learner_pb.ResumeResponse(step=self._monitor.snapshot.step)

    async def Checkpoint(self, request: learner_pb.CheckpointRequest, context: Any) -> learner_pb.CheckpointResponse:
        left_s = context.time_remaining()
        step, uri = await asyncio.to_thread(self._control.checkpoint, left_s or _DEFAULT_WAIT_S)
        return learner_pb.CheckpointResponse(step=step, uri=uri)

    async def ChangeSettings(
        self, request: learner_pb.ChangeSettingsRequest, context: Any
    ) -> learner_pb.ChangeSettingsResponse:
        left_s = context.time_remaining()
        step, values = await asyncio.to_thread(self._control.change, dict(request.values), left_s or _DEFAULT_WAIT_S)
        return learner_pb.ChangeSettingsResponse(step=step, values=values)

    async def Stop(self, request: learner_pb.StopRequest, context: Any) -> learner_pb.StopResponse:
        if self._monitor.snapshot.state.is_final:
            raise FailedPrecondition("the run has ended", reason="RUN_ENDED")
        self._control.stop(request.reason)
        return learner_pb.StopResponse(step=self._monitor.snapshot.step)


class WeightFeed:
    """The newest manifest that was published while this process runs. Threads may share it."""

    def __init__(self) -> None:
        self._newest: weights_pb2.WeightManifest | None = None
        self._listeners: list[Callable[[], None]] = []

    @property
    def newest(self) -> weights_pb2.WeightManifest | None:
        return self._newest

    def announce(self, manifest: weights_pb2.WeightManifest) -> None:
        self._newest = manifest
        for listener in list(self._listeners):
            listener()

    def subscribe(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    def unsubscribe(self, listener: Callable[[], None]) -> None:
        self._listeners.remove(listener)


class WeightServicer(weight_service_pb2_grpc.WeightServiceServicer):
    """Manifests as they become durable, and the bytes of stored versions."""

    def __init__(self, run_id: str, policies: PolicyStore, feed: WeightFeed, draining: asyncio.Event) -> None:
        self._run_id = run_id
        self._policies = policies
        self._feed = feed
        self._draining = draining
        self._recent = RecentChunks()

    async def Watch(self, request: weight_pb.WatchRequest, context: Any) -> AsyncIterator[weight_pb.WatchResponse]:
        self._check_run(request.run_id)
        sent = -1
        with _woken_by(self._feed) as wake:
            while not self._draining.is_set():
                manifest = await asyncio.to_thread(self._newest)
                if manifest is not None and manifest.policy_version > sent:
                    yield weight_pb.WatchResponse(manifest=manifest)
                    sent = manifest.policy_version
                await wake.wait()

    async def GetManifest(self, request: weight_pb.GetManifestRequest, context: Any) -> weight_pb.GetManifestResponse:
        self._check_run(request.run_id)
        if request.HasField("policy_version"):
            manifest = await asyncio.to_thread(self._policies.manifest, request.policy_version)
            return weight_pb.GetManifestResponse(manifest=manifest)
        newest = await asyncio.to_thread(self._newest)
        if newest is None:
            raise NotFound(f"run {self._run_id} has published no policy version yet", reason="NO_POLICY_VERSION")
        return weight_pb.GetManifestResponse(manifest=newest)

    async def FetchWeights(self, request: weight_pb.FetchWeightsRequest, context: Any) -> AsyncIterator[bytes]:
        self._check_run(request.run_id)
        files = await asyncio.to_thread(self._policies.files, request.policy_version)
        async for chunk in stream_files(files, request.offset_bytes, request.length_bytes, self._recent):
            yield chunk

    def _newest(self) -> weights_pb2.WeightManifest | None:
        """From this process's feed, or, before its first publication, from the store."""
        if self._feed.newest is not None:
            return self._feed.newest
        stored = self._policies.newest
        return self._policies.manifest(stored) if stored >= 0 else None

    def _check_run(self, run_id: str) -> None:
        if run_id and run_id != self._run_id:
            raise NotFound(f"this learner trains run {self._run_id}, not {run_id}", reason="OTHER_RUN", field="run_id")


def add_weight_service(servicer: WeightServicer, server: Any) -> None:
    """As the generated function, but FetchWeights yields responses that are serialised already."""
    weight_service_pb2_grpc.add_WeightServiceServicer_to_server(servicer, _AsSerialised(server, "FetchWeights"))


class _AsSerialised:
    """Registers handlers with a server; one method's responses are sent as they are."""

    def __init__(self, server: Any, method: str) -> None:
        self._server = server
        self._method = method

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Left to the registered handlers, which serve the same methods."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        handlers = dict(handlers)
        handlers[self._method] = handlers[self._method]._replace(response_serializer=None)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        self._server.add_registered_method_handlers(service, handlers)


@contextmanager
def _woken_by(source: RunMonitor | WeightFeed) -> Iterator[_Wake]:
    wake = _Wake()
    source.subscribe(wake)
    try:
        yield wake
    finally:
        source.unsubscribe(wake)
