"""Starts the console: `python -m preceptor.console`."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

import uvicorn

from preceptor.clients.conductor import AsyncLoopClient
from preceptor.clients.feedback import AsyncFeedbackClient
from preceptor.common.channels import aio_channel
from preceptor.common.config import load_settings
from preceptor.common.discovery import AsyncRegistry
from preceptor.common.errors import PortInUse, PreceptorError
from preceptor.common.grpc_server import run_service
from preceptor.common.health import Health
from preceptor.common.http_probe import start_probe_server
from preceptor.common.process import apply_cpu_plan, exit_with, new_process_group
from preceptor.common.telemetry import get_logger, setup_logging
from preceptor.console.adapters.feedback import GrpcFeedback
from preceptor.console.adapters.loops import GrpcLoops
from preceptor.console.adapters.system import DiscoveredSystem
from preceptor.console.config import ConsoleSettings
from preceptor.console.feeds import LoopFeeds
from preceptor.console.server import create_app
from preceptor.console.service import Console

log = get_logger(__name__)


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: it would end the process by the signal instead of with exit code 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: ConsoleSettings) -> None:
    """Serves until SIGTERM or SIGINT, then lets requests in flight finish within drain_timeout_s.

    Raises:
        PortInUse: the HTTP or the metrics port is taken.
    """
    health = Health()
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(bind(settings))
        probe = start_probe_server(
            settings.host, settings.metrics_port, health, variable=settings.variable("metrics_port")
        )
        stack.callback(probe.close)
        app = create_app(await build_console(settings, stack), settings)
        server = _Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                limit_concurrency=settings.max_connections,
                timeout_graceful_shutdown=int(settings.drain_timeout_s),
                server_header=False,
                lifespan="off",
            )
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, server, health)
        health.set_ready(True)
        log.info("serving", address=f"http://{settings.host}:{listener.getsockname()[1]}", metrics_port=probe.port)
        await server.serve(sockets=[listener])
        health.set_ready(False)


def stop(server: uvicorn.Server, health: Health) -> None:
    """Begins the graceful end."""
    health.set_ready(False)
    server.should_exit = True


async def build_console(settings: ConsoleSettings, stack: AsyncExitStack) -> Console:
    """Builds the use cases over gRPC channels and Redis; `stack` closes them."""
    feedback_channel, conductor_channel = (
        aio_channel(settings.feedback_address),
        aio_channel(settings.conductor_address),
    )
    registry = AsyncRegistry(settings.redis_url)
    stack.push_async_callback(registry.close)
    for channel in (feedback_channel, conductor_channel):
        stack.push_async_callback(channel.close, None)
    loops = GrpcLoops(AsyncLoopClient(conductor_channel), settings.rpc_timeout_s)
    feeds = LoopFeeds(
        loops,
        max_loops=settings.watched_loops,
        idle_s=settings.watch_idle_s,
        points_per_curve=settings.points_per_curve,
    )
    stack.push_async_callback(feeds.close)
    system = DiscoveredSystem(
        registry,
        {
            "feedback": (settings.feedback_address, feedback_channel),
            "conductor": (settings.conductor_address, conductor_channel),
        },
        redis_url=settings.redis_url,
        timeout_s=min(2.0, settings.rpc_timeout_s),
    )
    feedback = GrpcFeedback(AsyncFeedbackClient(feedback_channel), settings.rpc_timeout_s)
    return Console(feedback, loops, system, feeds)


def bind(settings: ConsoleSettings) -> socket.socket:
    """The listening socket. Raises PortInUse."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(settings.port, settings.variable("port")) from None
        raise
    return listener


def main() -> None:
    settings = load_settings(ConsoleSettings)
    new_process_group()
    setup_logging(settings.instance, settings.log_format, settings.log_level)
    apply_cpu_plan(settings.cpu_cores, settings.threads)
    try:
        run_service(lambda: serve(settings))
    except PreceptorError as error:
        exit_with(error)


if __name__ == "__main__":
    main()
