"""Workers against a real Redis: delivery, bounds, drain, and Redis dying under them."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import celery
import pytest
import redis
from kombu.exceptions import OperationalError

from preceptor.common.celery_app import RECONNECT, make_celery, send
from preceptor.common.errors import Unavailable
from preceptor.common.telemetry import start_trace
from preceptor.common.waiting import wait_until
from tests.support.ports import free_port
from tests.support.processes import ServiceProcess
from tests.support.redis import RedisProcess
from tests.unit.common.toy_worker import QUEUE

StartWorker = Callable[..., ServiceProcess]


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisProcess]:
    with RedisProcess(tmp_path / "redis") as process:
        yield process


@pytest.fixture
def app(own_redis: RedisProcess) -> celery.Celery:
    return make_celery("sender", own_redis.url, QUEUE)


@pytest.fixture
def start_worker(own_redis: RedisProcess, tmp_path: Path) -> Iterator[StartWorker]:
    started: list[ServiceProcess] = []

    def start(**env: str) -> ServiceProcess:
        port = free_port()
        full = {
            "PRECEPTOR_TOY_WORKER_REDIS_URL": own_redis.url,
            "PRECEPTOR_TOY_WORKER_ARTIFACTS_URL": tmp_path.as_uri(),
            "PRECEPTOR_TOY_WORKER_METRICS_PORT": str(port),
            **env,
        }
        process = ServiceProcess("tests.unit.common.toy_worker", full, tmp_path, metrics_port=port)
        started.append(process.start())
        return process

    yield start
    for process in started:
        process.__exit__()


@pytest.fixture
def done(tmp_path: Path) -> Path:
    return tmp_path / "done"


def _append(app: celery.Celery, done: Path, item: str, pause_s: float = 0.0, **options: object) -> str:
    kwargs = {"path": str(done), "item": item, "pause_s": pause_s}
    return send(app, "toy.append", kwargs, QUEUE, **options)  # type: ignore[arg-type]


def _items(path: Path) -> list[str]:
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def _started(done: Path) -> list[str]:
    return _items(done.with_name("done.started"))


def test_a_task_runs_with_its_senders_trace(app: celery.Celery, start_worker: StartWorker, done: Path) -> None:
    start_worker().wait_ready()
    trace = start_trace()
    _append(app, done, "a")
    wait_until(lambda: _items(done), 10, "the task")
    assert done.read_text() == f"a {trace}\n"


def test_an_expired_message_is_dropped(app: celery.Celery, start_worker: StartWorker, done: Path) -> None:
    _append(app, done, "late", expires=datetime.now(UTC) - timedelta(seconds=1))
    _append(app, done, "fresh", expires=60.0)
    start_worker().wait_ready()
    wait_until(lambda: "fresh" in _items(done), 10, "the fresh task")
    assert _items(done) == ["fresh"]


def test_a_failing_task_is_counted_and_the_worker_goes_on(
    app: celery.Celery, start_worker: StartWorker, done: Path
) -> None:
    worker = start_worker().wait_ready()
    send(app, "toy.fail", {}, QUEUE)
    _append(app, done, "a")
    wait_until(lambda: _items(done), 10, "the next task")
    wait_until(
        lambda: 'preceptor_celery_tasks_total{outcome="failed",task="toy.fail"} 1.0' in worker.http("/metrics")[1],
        5,
        "the count",
    )


def test_a_worker_takes_no_more_than_its_threads(
    app: celery.Celery, start_worker: StartWorker, own_redis: RedisProcess, done: Path
) -> None:
    start_worker(TOY_CONCURRENCY="2").wait_ready()
    for item in range(12):
        _append(app, done, str(item), pause_s=0.5)
    wait_until(lambda: len(_started(done)) >= 2, 10, "two tasks to start")
    with redis.Redis.from_url(own_redis.url) as client:
        assert client.llen(QUEUE) >= 12 - len(_started(done)) - 2
    wait_until(lambda: len(_items(done)) == 12, 20, "all tasks")


def test_sigterm_lets_running_tasks_finish_and_leaves_the_rest(
    app: celery.Celery, start_worker: StartWorker, done: Path
) -> None:
    worker = start_worker(TOY_CONCURRENCY="1").wait_ready()
    for item in range(5):
        _append(app, done, str(item), pause_s=1.0)
    wait_until(lambda: _started(done), 10, "the first task to start")
    assert worker.terminate(20) == 0
    assert _items(done) == _started(done)
    assert len(_items(done)) < 5
    start_worker().wait_ready()
    wait_until(lambda: set(_items(done)) == set("01234"), 20, "the rest")


def test_a_task_that_outlasts_the_drain_time_is_cut_off(
    app: celery.Celery, start_worker: StartWorker, done: Path
) -> None:
    worker = start_worker(PRECEPTOR_TOY_WORKER_DRAIN_TIMEOUT_S="0.5").wait_ready()
    _append(app, done, "long", pause_s=60)
    wait_until(lambda: _started(done), 10, "the task to start")
    assert worker.terminate(5) == 1
    assert _items(done) == []


@pytest.mark.slow
def test_a_worker_consumes_again_after_redis_was_killed_twice(
    app: celery.Celery, start_worker: StartWorker, own_redis: RedisProcess, done: Path
) -> None:
    worker = start_worker().wait_ready()
    for round_ in range(2):
        for item in range(3):
            _append(app, done, f"before-{round_}-{item}", pause_s=0.2)
        wait_until(lambda first=f"before-{round_}-0": first in _started(done), 10, "a task to start")
        own_redis.restart()
        _append(app, done, f"after-{round_}")
        wait_until(lambda last=f"after-{round_}": last in _items(done), 60, "consuming to resume")
    assert worker.running


@pytest.mark.slow
def test_what_redis_acknowledged_before_its_death_is_run_after_it(
    app: celery.Celery, start_worker: StartWorker, own_redis: RedisProcess, done: Path
) -> None:
    expected = [str(item) for item in range(50)]
    for item in expected:
        _append(app, done, item)
    own_redis.restart()  # no worker yet, so no message is between BRPOP and the record of it: none may be missing
    start_worker().wait_ready()
    wait_until(lambda: sorted(_items(done)) == sorted(expected), 30, "all 50 tasks")


@pytest.mark.slow
def test_tasks_in_progress_survive_a_redis_that_is_away_for_seconds(
    app: celery.Celery, start_worker: StartWorker, own_redis: RedisProcess, done: Path
) -> None:
    worker = start_worker().wait_ready()
    _append(app, done, "during", pause_s=3.0)
    wait_until(lambda: _started(done), 10, "the task to start")
    own_redis.kill()
    wait_until(lambda: "during" in _items(done), 10, "the task to end without Redis")
    own_redis.start()
    _append(app, done, "next")
    wait_until(lambda: "next" in _items(done), 60, "consuming to resume")
    assert worker.running


@pytest.mark.slow
def test_a_worker_consumes_again_after_redis_hung_for_longer_than_the_socket_timeout(
    app: celery.Celery, start_worker: StartWorker, own_redis: RedisProcess, done: Path
) -> None:
    worker = start_worker().wait_ready()
    _append(app, done, "before")
    wait_until(lambda: "before" in _items(done), 10, "the task before")
    own_redis.freeze()
    with pytest.raises(Unavailable):
        _append(app, done, "during")
    own_redis.thaw()
    _append(app, done, "after")
    wait_until(lambda: "after" in _items(done), 60, "consuming to resume")
    assert worker.running


@pytest.mark.slow
def test_a_worker_started_before_redis_waits_for_it(
    app: celery.Celery, start_worker: StartWorker, own_redis: RedisProcess, done: Path
) -> None:
    own_redis.kill()
    worker = start_worker()
    wait_until(lambda: worker.http("/healthz")[0] == 200, 20, "the probe port")
    assert worker.http("/readyz")[0] == 503
    own_redis.start()
    worker.wait_ready(60)
    _append(app, done, "a")
    wait_until(lambda: _items(done), 10, "the task")


def test_sending_without_redis_is_unavailable_and_bounded(app: celery.Celery, own_redis: RedisProcess) -> None:
    own_redis.kill()
    with pytest.raises(Unavailable, match="Redis does not answer"):
        send(app, "toy.fail", {}, QUEUE)


def test_a_busy_metrics_port_is_one_line_and_exit_1(start_worker: StartWorker) -> None:
    first = start_worker().wait_ready()
    second = start_worker(PRECEPTOR_TOY_WORKER_METRICS_PORT=str(first.metrics_port))
    assert second.wait(20) == 1
    assert second.log().strip() == (
        f"port {first.metrics_port} is in use: stop what uses it or set PRECEPTOR_TOY_WORKER_METRICS_PORT"
    )


def test_a_broker_that_is_away_is_tried_at_least_every_two_seconds() -> None:
    app = make_celery("sender", f"redis://127.0.0.1:{free_port()}/0", QUEUE)
    pauses: list[float] = []
    with pytest.raises(OperationalError):
        app.connection_for_read().ensure_connection(lambda _, pause: pauses.append(pause), 4)
    assert pauses == pytest.approx([0.2, 0.6, 1.0, 1.4])
    assert RECONNECT["interval_max"] == 2.0
