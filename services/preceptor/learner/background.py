"""The job's gRPC and metrics ports, served by a thread of their own while the main thread trains."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass

import uvloop

from preceptor.api.learner.v1 import learner_service_pb2_grpc
from preceptor.common.discovery import KIND_LEARNER, AsyncRegistry
from preceptor.common.errors import DeadlineExceeded, PreceptorError, Unavailable
from preceptor.common.grpc_server import Server
from preceptor.common.health import Health
from preceptor.common.tasks import cancel_and_wait
from preceptor.common.telemetry import get_logger
from preceptor.learner.adapters.policy_store import PolicyStore
from preceptor.learner.config import LearnerSettings
from preceptor.learner.monitor import RunControl, RunMonitor
from preceptor.learner.server import LearnerServicer, WeightFeed, WeightServicer, add_weight_service

log = get_logger(__name__)
_LEARNER = "preceptor.api.learner.v1.LearnerService"
_WEIGHTS = "preceptor.api.learner.v1.WeightService"
_LEASE_S = 15.0
_START_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Weights:
    """What WeightService shows; of rl runs alone."""

    policies: PolicyStore
    feed: WeightFeed


class BackgroundServer:
    """Starts, announces itself in discovery until it stops, and stops."""

    def __init__(
        self,
        settings: LearnerSettings,
        run_id: str,
        monitor: RunMonitor,
        control: RunControl,
        weights: Weights | None = None,
    ) -> None:
        self._settings = settings
        self._run_id = run_id
        self._monitor = monitor
        self._control = control
        self._weights = weights
        self._started = threading.Event()
        self._failure: PreceptorError | None = None
        self._stop: Callable[[], object] = lambda: None
        self._thread = threading.Thread(target=self._run, name="learner-server", daemon=True)
        self.port = 0
        self.metrics_port = 0

    @property
    def address(self) -> str:
        """Where others reach this server; known once it has started."""
        return self._settings.advertise_address or f"{self._settings.host}:{self.port}"

    def start(self) -> None:
        """Returns once both ports are bound; raises PortInUse and the like."""
        self._thread.start()
        if not self._started.wait(_START_TIMEOUT_S):
            raise DeadlineExceeded(f"the learner's server did not start in {_START_TIMEOUT_S:g} s")
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Lets callers see the end (for at most drain_timeout_s), then closes both ports. Twice is once."""
        if not self._thread.is_alive():
            return
        self._stop()
        self._thread.join(timeout=self._settings.drain_timeout_s + 10)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        loop, stopping = asyncio.get_running_loop(), asyncio.Event()
        self._stop = lambda: loop.call_soon_threadsafe(stopping.set)
        server = self._build()
        try:
            await server.start()
        except PreceptorError as error:
            self._failure = error
            return
        finally:
            self._started.set()
        self.port, self.metrics_port = server.port, server.metrics_port
        server.serve()
        announcing = asyncio.create_task(self._announce())
        await stopping.wait()
        await cancel_and_wait(announcing)
        await server.stop()

    def _build(self) -> Server:
        server = Server(self._settings, Health())
        servicer = LearnerServicer(self._monitor, self._control, server.draining)
        server.add(learner_service_pb2_grpc.add_LearnerServiceServicer_to_server, servicer, _LEARNER)
        if self._weights is not None:
            weights = WeightServicer(self._run_id, self._weights.policies, self._weights.feed, server.draining)
            server.add(add_weight_service, weights, _WEIGHTS)
        return server

    async def _announce(self) -> None:
        """Renews the discovery record at a third of its lease; without Redis the run goes on unannounced."""
        registry = AsyncRegistry(self._settings.redis_url)
        record = {"run_id": self._run_id, "address": self.address, "kind": self._monitor.snapshot.kind}
        silent = False
        try:
            while True:
                try:
                    await registry.announce(KIND_LEARNER, self._run_id, record, _LEASE_S)
                    silent = False
                except Unavailable as error:
                    if not silent:
                        log.warning("not announced in discovery", error=error.message)
                    silent = True
                await asyncio.sleep(_LEASE_S / 3)
        finally:
            await _withdraw(registry, self._run_id)


async def _withdraw(registry: AsyncRegistry, run_id: str) -> None:
    try:
        await registry.withdraw(KIND_LEARNER, run_id)
    except Unavailable as error:
        log.debug("discovery record left to expire", error=error.message)
    await registry.close()
