"""The probe port: what Kubernetes and Prometheus see."""

import http.client
import json
import socket
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Gauge

from preceptor.common.errors import DeadlineExceeded, PortInUse
from preceptor.common.health import Health
from preceptor.common.http_probe import ProbeServer, start_probe_server


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def server(health: Health) -> Iterator[ProbeServer]:
    registry = CollectorRegistry()
    Gauge("things", "Things.", registry=registry).set(3)
    probe = start_probe_server("127.0.0.1", 0, health, registry=registry)
    yield probe
    probe.close()


def _get(server: ProbeServer, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body


def test_a_starting_process_is_alive_but_not_ready(server: ProbeServer) -> None:
    assert _get(server, "/healthz")[0] == 200
    assert _get(server, "/readyz")[0] == 503


def test_readiness_follows_the_health_and_names_the_services(server: ProbeServer, health: Health) -> None:
    health.set_serving("a.B", True)
    health.set_ready(True)
    status, body = _get(server, "/readyz?verbose=1")
    assert (status, json.loads(body)) == (200, {"ok": True, "ready": True, "serving": {"a.B": True}})
    health.set_ready(False)
    assert _get(server, "/readyz")[0] == 503
    assert _get(server, "/healthz")[0] == 200


def test_a_process_that_cannot_recover_is_not_alive(server: ProbeServer, health: Health) -> None:
    health.set_alive(False)
    assert _get(server, "/healthz")[0] == 503


def test_metrics_are_in_prometheus_text(server: ProbeServer) -> None:
    status, body = _get(server, "/metrics")
    assert status == 200
    assert "things 3.0\n" in body


@pytest.mark.parametrize(
    ("path", "method", "status"), [("/", "GET", 404), ("/x", "GET", 404), ("/healthz", "POST", 501)]
)
def test_anything_else_is_refused(server: ProbeServer, path: str, method: str, status: int) -> None:
    assert _get(server, path, method)[0] == status


def test_a_silent_connection_holds_nobody_up(server: ProbeServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port)):
        assert _get(server, "/healthz")[0] == 200


def test_a_port_in_use_names_the_setting(server: ProbeServer, health: Health) -> None:
    with pytest.raises(
        PortInUse, match=f"port {server.port} is in use: stop what uses it or set PRECEPTOR_X_METRICS_PORT"
    ):
        start_probe_server("127.0.0.1", server.port, health, variable="PRECEPTOR_X_METRICS_PORT")


def test_a_closed_port_can_be_bound_again(health: Health) -> None:
    first = start_probe_server("127.0.0.1", 0, health)
    assert _get(first, "/healthz")[0] == 200
    first.close()
    second = start_probe_server("127.0.0.1", first.port, health)
    assert _get(second, "/healthz")[0] == 200
    second.close()


def test_listeners_hear_every_change_until_they_leave(health: Health) -> None:
    heard: list[tuple[str, bool]] = []

    def listen(name: str, serving: bool) -> None:
        heard.append((name, serving))

    health.subscribe(listen)
    health.set_serving("a.B", True)
    health.set_ready(True)
    health.unsubscribe(listen)
    health.set_ready(False)
    assert heard == [("a.B", True), ("", True)]


def test_waiting_for_readiness_has_an_end(health: Health) -> None:
    with pytest.raises(DeadlineExceeded):
        health.wait_ready(0.1)
    health.set_ready(True)
    health.wait_ready(0)
