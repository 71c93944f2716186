"""One gRPC server per process: health, reflection, limits, errors, metrics, drain."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

import grpc
import grpc.aio
import uvloop
from grpc_health.v1 import health as grpc_health
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from preceptor.common.config import ServiceSettings
from preceptor.common.errors import PortInUse, PreceptorError
from preceptor.common.health import Health
from preceptor.common.http_probe import ProbeServer, start_probe_server
from preceptor.common.interceptors import EdgeInterceptor
from preceptor.common.process import exit_with
from preceptor.common.tasks import cancel_and_wait
from preceptor.common.telemetry import get_logger

log = get_logger(__name__)
OnStart = Callable[[], Awaitable[None]]
OnDrain = Callable[[float], Awaitable[None]]
_BACKSTOP_RPCS = 256  # beyond the interceptor's limit: probes and reflection, then grpc itself refuses


class Registrar(Protocol):
    """The generated add_<Service>Servicer_to_server."""

    def __call__(self, servicer: Any, server: Any, /) -> None: ...


class Server:
    """A gRPC server with its metrics port.

    Args:
        settings: ports, limits and drain time of this process.
        health: what the health service and the probes report; the server sets its services' states.
    """

    def __init__(self, settings: ServiceSettings, health: Health) -> None:
        self.health = health
        self.draining = asyncio.Event()  # set when the server begins to leave: long streams should end
        self.port = 0
        self.metrics_port = 0
        self._settings = settings
        self._services: list[tuple[Registrar, Any, str]] = []
        self._server: grpc.aio.Server | None = None
        self._probe: ProbeServer | None = None
        self._health_service: _HealthService | None = None

    def add(self, registrar: Registrar, servicer: Any, full_name: str) -> None:
        """Adds a service before the start. `full_name`: e.g. "preceptor.api.reward.v1.RewardService"."""
        self._services.append((registrar, servicer, full_name))

    async def start(self) -> None:
        """Binds both ports and accepts calls; health stays NOT_SERVING until `serve`.

        Raises:
            PortInUse: naming the variable to set.
        """
        server = grpc.aio.server(
            interceptors=[EdgeInterceptor(self._settings.max_concurrent_rpcs)],
            options=_options(self._settings.max_message_bytes),
            maximum_concurrent_rpcs=self._settings.max_concurrent_rpcs + _BACKSTOP_RPCS,
        )
        self._server = server
        self._health_service = _HealthService(self.health)
        health_pb2_grpc.add_HealthServicer_to_server(self._health_service, server)
        names = [name for _, _, name in self._services]
        for registrar, servicer, name in self._services:
            registrar(servicer, server)
            self.health.set_serving(name, False)
        if self._settings.reflection:
            reflection.enable_server_reflection([*names, grpc_health.SERVICE_NAME, reflection.SERVICE_NAME], server)
        self.port = _bind(server, self._settings)
        self._probe = start_probe_server(
            self._settings.host,
            self._settings.metrics_port,
            self.health,
            variable=self._settings.variable("metrics_port"),
        )
        self.metrics_port = self._probe.port
        await server.start()
        log.info("listening", port=self.port, metrics_port=self.metrics_port)

    def serve(self) -> None:
        """Declares every service SERVING and the process ready."""
        for _, _, name in self._services:
            self.health.set_serving(name, True)
        self.health.set_ready(True)

    async def stop(self, on_drain: OnDrain | None = None) -> None:
        """Turns NOT_SERVING, runs `on_drain(seconds left)`, lets calls in progress finish, and closes both ports.

        The whole takes at most `drain_timeout_s`; calls that still run then are cancelled. A second call does nothing.
        """
        if self.draining.is_set():
            return
        self.draining.set()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.drain_timeout_s
        self.health.set_ready(False)
        for _, _, name in self._services:
            self.health.set_serving(name, False)
        if on_drain is not None:
            try:
                await asyncio.wait_for(on_drain(self._settings.drain_timeout_s), self._settings.drain_timeout_s)
            except TimeoutError:
                log.warning("drain did not finish in time", drain_timeout_s=self._settings.drain_timeout_s)
        if self._health_service is not None:
            await self._health_service.close()
        if self._server is not None:
            await self._server.stop(max(0.0, deadline - loop.time()))
        if self._probe is not None:
            await asyncio.to_thread(self._probe.close)

    async def run(self, on_start: OnStart | None = None, on_drain: OnDrain | None = None) -> None:
        """Serves until SIGTERM or SIGINT, then drains and returns.

        Args:
            on_start: loads what the service needs; health turns SERVING when it returns. A signal cancels it.
            on_drain: refuses new work and finishes or hands back what runs, within the seconds it is given. Runs
                whenever on_start was begun, also when that failed: it ends what on_start had started.

        Exits with code 1 and one line on standard error when a port is in use or `on_start` raises a PreceptorError.
        """
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        try:
            await self.start()
        except PreceptorError as error:
            exit_with(error)
        failure: PreceptorError | None = None
        try:
            if await self._prepare(on_start, stopping):
                self.serve()
                log.info("serving")
                await stopping.wait()
        except PreceptorError as error:
            failure = error
        finally:
            log.info("draining")
            await self.stop(on_drain)
            log.info("stopped")
        if failure is not None:
            exit_with(failure)

    async def _prepare(self, on_start: OnStart | None, stopping: asyncio.Event) -> bool:
        if on_start is None:
            return True
        start, stop = asyncio.ensure_future(on_start()), asyncio.ensure_future(stopping.wait())
        await asyncio.wait({start, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not start.done():
            await cancel_and_wait(start)
            return False
        start.result()
        return True


def run_service(coro_factory: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs a service's main coroutine on uvloop until it returns."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(coro_factory())


class _HealthService(grpc_health.aio.HealthServicer):  # type: ignore[misc,name-defined]  # untyped upstream
    """grpc's own servicer, fed by a Health; its watches end when the server leaves instead of holding it up."""

    def __init__(self, health: Health) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        self._health = health
        self._changes: set[asyncio.Task[None]] = set()
        self._server_status[""] = _status(health.ready)
        self._server_status |= {name: _status(serving) for name, serving in health.serving().items()}
        health.subscribe(self._on_change)

    async def Watch(self, request: Any, context: Any) -> None:
        seen = _LastWritten(context)
        watching = asyncio.ensure_future(super().Watch(request, seen))
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait({watching, closing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_and_wait(watching, closing)
        if self._closing.is_set() and seen.status != _status(False):
            await seen.write(health_pb2.HealthCheckResponse(status=_status(False)))

    async def close(self) -> None:
        """Ends the watches, their last word being NOT_SERVING."""
        self._health.unsubscribe(self._on_change)
        await self.enter_graceful_shutdown()
        self._closing.set()

    def _on_change(self, name: str, serving: bool) -> None:
        self._loop.call_soon_threadsafe(self._apply, name, serving)

    def _apply(self, name: str, serving: bool) -> None:
        task = self._loop.create_task(self.set(name, _status(serving)))
        self._changes.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._changes.discard)


class _LastWritten:
    """A servicer context that remembers the status it was last asked to send."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self.status: int | None = None

    async def write(self, response: health_pb2.HealthCheckResponse) -> None:
        self.status = response.status
        await self._context.write(response)


def _status(serving: bool) -> health_pb2.HealthCheckResponse.ServingStatus:
    response = health_pb2.HealthCheckResponse
    return response.SERVING if serving else response.NOT_SERVING


def _options(max_message_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        # With port reuse two servers would share the port, each getting some of the calls, and nobody would be told.
        ("grpc.so_reuseport", 0),
        # Clients ping every 10 s while a long generation moves no data; the default would answer GOAWAY.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # Clients connect anew now and then, and so find servers that joined; calls in progress are not cut.
        ("grpc.max_connection_age_ms", 30 * 60_000),
    ]


def _bind(server: grpc.aio.Server, settings: ServiceSettings) -> int:
    address = f"[{settings.host}]" if ":" in settings.host else settings.host
    try:
        return server.add_insecure_port(f"{address}:{settings.port}")
    except RuntimeError as error:
        _explain(settings)
        raise PreceptorError(f"cannot listen on {address}:{settings.port}: {error}") from error


def _explain(settings: ServiceSettings) -> None:
    # grpc says only that it failed; binding the same address ourselves says why.
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((settings.host, settings.port))
            probe.listen()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(settings.port, settings.variable("port")) from error
        raise PreceptorError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; set {settings.variable('host')}"
        ) from error
