"""Celery on Redis as every queue of ours uses it, and the worker process around it.

Redis may lose a message between BRPOP and kombu's `unacked` record, whatever the settings: whoever sends keeps a ledger
and sends again, and every task is safe to run twice. What the settings here buy is that a worker survives any restart
of Redis and takes no more messages than it has threads.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from datetime import datetime
from typing import Any

import celery
from celery import signals
from celery.app.amqp import AMQP
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.exceptions import OperationalError

from preceptor.common.config import ServiceSettings
from preceptor.common.errors import PortInUse, Unavailable
from preceptor.common.health import Health
from preceptor.common.http_probe import start_probe_server
from preceptor.common.process import exit_with
from preceptor.common.redis_client import KEEPALIVE_OPTIONS
from preceptor.common.telemetry import counter, get_logger, histogram, log_context, start_trace, traceparent

log = get_logger(__name__)

RECONNECT = {"interval_start": 0.2, "interval_step": 0.4, "interval_max": 2.0}
VISIBILITY_TIMEOUT_S = 3600  # above the longest task, or it would be delivered again while it runs
_tasks = counter("preceptor_celery_tasks_total", "Finished tasks.", ("task", "outcome"))
_seconds = histogram("preceptor_celery_task_seconds", "Time from a task's start to its end.", ("task",))


class PreceptorTask(celery.Task):  # type: ignore[misc]
    """The base of every task: policy, metrics, and log lines that carry the sender's trace."""

    acks_late = True
    reject_on_worker_lost = True
    ignore_result = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        start_trace(self.request.get("traceparent"))
        started, outcome = time.monotonic(), "failed"
        try:
            with log_context(task=self.name, task_id=self.request.id):
                result = super().__call__(*args, **kwargs)
            outcome = "succeeded"
            return result
        finally:
            _tasks.labels(self.name, outcome).inc()
            _seconds.labels(self.name).observe(time.monotonic() - started)


class _Connection(Connection):
    """Tries for ever and at least every 2 s; the default waits longer after each failure, up to 30 s."""

    def ensure_connection(self, *args: Any, **kwargs: Any) -> Any:
        return super().ensure_connection(*args, **RECONNECT | kwargs)  # type: ignore[no-untyped-call]


class _Amqp(AMQP):  # type: ignore[misc]
    Connection = _Connection


def make_celery(
    name: str, redis_url: str, queue: str, *, visibility_timeout_s: float = VISIBILITY_TIMEOUT_S
) -> celery.Celery:
    """Returns an app whose tasks travel on one queue. Makes no connection."""
    app = celery.Celery(name, broker=redis_url, task_cls=PreceptorTask, amqp=_Amqp, set_as_current=False)
    app.conf.update(
        # delivery
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,  # Redis only: else the reserved count drifts far above 1 (celery >= 5.6)
        worker_pool="threads",
        # Threads cannot be cancelled; what runs when Redis goes away finishes, and its message may come again.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_transport_options={
            "visibility_timeout": visibility_timeout_s,
            "unacked_restore_interval": 10,
            "unacked_restore_throttle": 1,
            "socket_timeout": 5.0,  # else a half-open connection is waited on for ever
            "socket_connect_timeout": 5.0,
            "socket_keepalive": True,
            "socket_keepalive_options": KEEPALIVE_OPTIONS,
            # A consumer whose BRPOP is overdue by 1 s and twice this connects anew: else it is alive but not consuming.
            "health_check_interval": 2,
        },
        broker_connection_timeout=5.0,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # for ever
        # messages
        task_default_queue=queue,
        task_queues=[Queue(queue, routing_key=queue)],  # type: ignore[no-untyped-call]
        task_serializer="json",
        accept_content=["json"],
        result_backend=None,
        task_ignore_result=True,
        task_publish_retry=True,
        task_publish_retry_policy={"max_retries": 2, "interval_start": 0.1, "interval_step": 0.3, "interval_max": 1.0},
        # process
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        enable_utc=True,
    )
    return app


def send(
    app: celery.Celery,
    task_name: str,
    kwargs: dict[str, Any],
    queue: str,
    *,
    expires: datetime | float | None = None,
    task_id: str | None = None,
) -> str:
    """Puts a task on a queue and returns its id. Threads may share the app.

    Args:
        app: from `make_celery`, of any queue.
        task_name: as registered by the worker.
        kwargs: JSON values.
        queue: where.
        expires: after this time (or this many seconds) a worker drops the message instead of running it.
        task_id: made when absent.

    Raises:
        Unavailable: Redis does not answer, after two more tries (about 1 s when it is gone, 20 s when it hangs).
    """
    try:
        result = app.send_task(
            task_name,
            kwargs=kwargs,
            queue=queue,
            expires=expires,
            task_id=task_id,
            headers={"traceparent": traceparent()},
        )
    except (OperationalError, OSError) as error:
        raise Unavailable(
            f"Redis does not answer while sending {task_name}: {error}", reason="REDIS_UNAVAILABLE", retry_after_s=1.0
        ) from error
    return str(result.id)


def run_worker(app: celery.Celery, queue: str, concurrency: int, settings: ServiceSettings, health: Health) -> int:
    """Runs a worker of `concurrency` threads in this process until SIGTERM or SIGINT. Returns the exit code.

    A signal makes it unready, lets the tasks in progress finish, and ends the process after `drain_timeout_s` at the
    latest; a task cut off by that is delivered again. Exits with code 1 and one line when the metrics port is in use.
    Call from the main thread.
    """
    try:
        probe = start_probe_server(
            settings.host, settings.metrics_port, health, variable=settings.variable("metrics_port")
        )
    except PortInUse as error:
        exit_with(error)

    def on_ready(**_: Any) -> None:
        log.info("consuming", queue=queue, concurrency=concurrency, metrics_port=probe.port)
        health.set_ready(True)

    def on_shutting_down(**_: Any) -> None:
        health.set_ready(False)
        timer = threading.Timer(settings.drain_timeout_s, _give_up, (settings.drain_timeout_s,))
        timer.daemon = True
        timer.start()

    signals.worker_ready.connect(on_ready, weak=False)
    signals.worker_shutting_down.connect(on_shutting_down, weak=False)
    worker = app.Worker(
        hostname=f"{settings.instance}@{socket.gethostname()}",
        pool="threads",
        concurrency=concurrency,
        queues=[queue],
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
        loglevel=settings.log_level,
    )
    try:
        worker.start()
    finally:
        signals.worker_ready.disconnect(on_ready)
        signals.worker_shutting_down.disconnect(on_shutting_down)
        health.set_ready(False)
        probe.close()
    return int(worker.exitcode or 0)


def _give_up(drain_timeout_s: float) -> None:
    log.error("tasks did not finish in time; they will be delivered again", drain_timeout_s=drain_timeout_s)
    os._exit(1)  # threads cannot be interrupted
