"""The plaintext HTTP port of every process: /healthz, /readyz and Prometheus's /metrics."""

from __future__ import annotations

import errno
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from preceptor.common.errors import PortInUse
from preceptor.common.health import Health

_SOCKET_TIMEOUT_S = 5.0


class ProbeServer:
    """A running probe port. `port` is the one bound."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self._server = server
        self._thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="probe", daemon=True
        )
        self._thread.start()
        self.port: int = server.server_address[1]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=_SOCKET_TIMEOUT_S)


def start_probe_server(
    host: str,
    port: int,
    health: Health,
    *,
    variable: str = "the metrics port",
    registry: CollectorRegistry = REGISTRY,
) -> ProbeServer:
    """Serves the three pages from a thread of its own.

    Args:
        host: address to bind.
        port: 0 takes a free one.
        health: what the pages report.
        variable: the setting that chooses the port, for the error.
        registry: whose metrics are shown.

    Raises:
        PortInUse: another process has the port.
    """
    handler = type("_Handler", (_ProbeHandler,), {"health": health, "registry": registry})
    try:
        return ProbeServer(_QuietServer((host, port), handler))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(port, variable) from error
        raise


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A prober that hangs up early is no event."""


class _ProbeHandler(BaseHTTPRequestHandler):
    health: Health
    registry: CollectorRegistry
    timeout = _SOCKET_TIMEOUT_S

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/healthz":
            self._answer_health(self.health.alive)
        elif path == "/readyz":
            self._answer_health(self.health.ready)
        elif path == "/metrics":
            self._answer(200, CONTENT_TYPE_LATEST, generate_latest(self.registry))
        else:
            self._answer(404, "text/plain", b"try /healthz, /readyz or /metrics\n")

    def _answer_health(self, well: bool) -> None:
        body = {"ok": well, "ready": self.health.ready, "serving": self.health.serving()}
        self._answer(200 if well else 503, "application/json", json.dumps(body).encode() + b"\n")

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Probes come every few seconds; they are not worth a line."""
