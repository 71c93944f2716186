"""The server as a process: signals, exit codes, and the one line a person reads."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from preceptor.api.reward.v1.reward_service_pb2 import ScoreRequest
from preceptor.clients.reward import RewardClient
from preceptor.common.errors import PreceptorError, Unavailable
from preceptor.common.waiting import wait_until
from tests.support.ports import free_port
from tests.support.processes import ServiceProcess

_IN_FLIGHT = 'preceptor_grpc_server_requests_in_flight{method="/preceptor.api.reward.v1.RewardService/Score"} 1.0'
Start = Callable[..., ServiceProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts toy services; at the end each must be gone without an orphan."""
    started: list[ServiceProcess] = []

    def start_one(**env: str) -> ServiceProcess:
        ports = {"PRECEPTOR_TOY_PORT": str(free_port()), "PRECEPTOR_TOY_METRICS_PORT": str(free_port())}
        full = {"PRECEPTOR_TOY_ARTIFACTS_URL": tmp_path.as_uri(), **ports, **env}
        process = ServiceProcess(
            "tests.unit.common.toy_service", full, tmp_path, metrics_port=int(full["PRECEPTOR_TOY_METRICS_PORT"])
        )
        started.append(process.start())
        return process

    yield start_one
    for process in started:
        process.__exit__()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_the_calls_in_progress_and_exits_0(start: Start, number: int) -> None:
    process = start().wait_ready()
    with RewardClient(f"127.0.0.1:{process.env['PRECEPTOR_TOY_PORT']}") as client:
        running = client._stub.Score.future(ScoreRequest(model="wait"), timeout=20)
        wait_until(lambda: _IN_FLIGHT in process.http("/metrics")[1], 5, "the call to run")
        process.signal(number)
        assert running.result(timeout=10).model
    assert process.wait() == 0
    assert "draining with 30 s" in process.log()
    assert process.log().rstrip().endswith("left")


def test_a_drain_that_hangs_is_cut_off_at_the_limit(start: Start) -> None:
    process = start(TOY_MODE="hangs", PRECEPTOR_TOY_DRAIN_TIMEOUT_S="0.5").wait_ready()
    with RewardClient(f"127.0.0.1:{process.env['PRECEPTOR_TOY_PORT']}") as client:
        running = client._stub.Score.future(ScoreRequest(model="wait"), timeout=20)
        wait_until(lambda: _IN_FLIGHT in process.http("/metrics")[1], 5, "the call to run")
        assert process.terminate(timeout_s=5) == 0
        assert running.exception(timeout=5) is not None


def test_a_signal_during_the_start_ends_it_at_once(start: Start) -> None:
    process = start(TOY_MODE="never-starts")
    wait_until(lambda: "starting" in process.log(), 20, "the start")
    assert process.http("/healthz")[0] == 200
    assert process.http("/readyz")[0] == 503
    assert process.terminate(timeout_s=5) == 0


def test_not_ready_server_answers_health_but_its_start_error_ends_it_with_one_line(start: Start) -> None:
    process = start(TOY_MODE="refuses")
    assert process.wait(20) == 1
    assert _last_line(process) == "no model at /nowhere: set PRECEPTOR_TOY_MODEL"
    assert "Traceback" not in process.log()
    assert "draining with" in process.log(), "what the start had begun must be ended"


def test_a_defect_in_the_start_is_logged_whole_and_ends_the_process(start: Start) -> None:
    process = start(TOY_MODE="breaks")
    assert process.wait(20) == 1
    assert "RuntimeError: a defect" in process.log()
    assert "draining with" in process.log()


@pytest.mark.parametrize("variable", ["PRECEPTOR_TOY_PORT", "PRECEPTOR_TOY_METRICS_PORT"])
def test_a_port_in_use_is_one_line_and_exit_1(start: Start, variable: str) -> None:
    first = start().wait_ready()
    second = start(**{variable: first.env[variable]})
    assert second.wait(20) == 1
    assert _last_line(second) == f"port {first.env[variable]} is in use: stop what uses it or set {variable}"
    assert "Traceback" not in second.log()
    assert first.http("/readyz")[0] == 200


def test_an_address_that_is_not_ours_names_the_variable(start: Start) -> None:
    process = start(PRECEPTOR_TOY_HOST="192.0.2.1")
    assert process.wait(20) == 1
    assert "PRECEPTOR_TOY_HOST" in _last_line(process)
    assert "Traceback" not in process.log()


def test_wrong_settings_exit_2_with_a_line_each(start: Start) -> None:
    process = start(PRECEPTOR_TOY_PORT="70000", PRECEPTOR_TOY_LOG_LEVEL="LOUD")
    assert process.wait(20) == 2
    assert process.log().splitlines() == [
        "PRECEPTOR_TOY_PORT='70000' is wrong: a port is a number from 1 to 65535, or 0 for any free one",
        "PRECEPTOR_TOY_LOG_LEVEL='LOUD' is wrong: input should be 'DEBUG', 'INFO', 'WARNING' or 'ERROR'",
    ]


def test_a_client_finds_a_killed_server_again_within_seconds(start: Start) -> None:
    process = start().wait_ready()
    with RewardClient(f"127.0.0.1:{process.env['PRECEPTOR_TOY_PORT']}") as client:
        assert client.score(ScoreRequest()).model
        process.kill()
        with pytest.raises(Unavailable):
            client.score(ScoreRequest(), timeout_s=5)
        process.start().wait_ready()
        wait_until(lambda: _answers(client), 5, "the client to reconnect")


def _answers(client: RewardClient) -> bool:
    try:
        return bool(client.score(ScoreRequest(), timeout_s=5).model)
    except PreceptorError:
        return False


def _last_line(process: ServiceProcess) -> str:
    return process.log().strip().splitlines()[-1]
