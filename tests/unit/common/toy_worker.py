"""A Celery worker that writes down what it does in a Redis list: for tests of what surrounds every worker."""

import os
import sys
import threading

from preceptor.common.celery_app import make_celery, run_worker
from preceptor.common.config import ServiceSettings, SettingsConfigDict, load_settings
from preceptor.common.health import Health
from preceptor.common.telemetry import setup_logging, trace_id

QUEUE = "toy"
DONE = "toy:done"
STARTED = "toy:started"


class WorkerSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="PRECEPTOR_TOY_WORKER_")


def main() -> int:
    settings = load_settings(WorkerSettings)
    setup_logging(settings.instance, settings.log_format, settings.log_level)
    app = make_celery("toy", settings.redis_url, QUEUE)

    @app.task(name="toy.append")
    def append(path: str, item: str, pause_s: float = 0.0) -> None:
        with open(f"{path}.started", "a") as file:
            file.write(f"{item}\n")
        threading.Event().wait(pause_s)
        with open(path, "a") as file:
            file.write(f"{item} {trace_id()}\n")

    @app.task(name="toy.fail")
    def fail() -> None:
        raise ValueError("as asked")

    return run_worker(app, QUEUE, int(os.environ.get("TOY_CONCURRENCY", "2")), settings, Health())


if __name__ == "__main__":
    sys.exit(main())
