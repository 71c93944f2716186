"""The feedback server and worker as processes."""

from pathlib import Path

from tests.support.ports import free_port
from tests.support.processes import ServiceProcess


def feedback_environment(folder: Path, database_url: str, redis_url: str = "") -> dict[str, str]:
    return {
        "PRECEPTOR_FEEDBACK_PORT": str(free_port()),
        "PRECEPTOR_FEEDBACK_METRICS_PORT": str(free_port()),
        "PRECEPTOR_FEEDBACK_DATABASE_URL": database_url,
        "PRECEPTOR_FEEDBACK_REDIS_URL": redis_url or f"redis://127.0.0.1:{free_port()}/0",
        "PRECEPTOR_FEEDBACK_ARTIFACTS_URL": folder.as_uri(),
    }


def feedback_process(folder: Path, database_url: str, redis_url: str = "") -> ServiceProcess:
    """A server with free ports of its own; without `redis_url` no Redis answers, which only costs the notices."""
    environment = feedback_environment(folder, database_url, redis_url)
    metrics_port = int(environment["PRECEPTOR_FEEDBACK_METRICS_PORT"])
    return ServiceProcess("preceptor.feedback", environment, folder, metrics_port=metrics_port)


def feedback_worker(folder: Path, database_url: str, redis_url: str) -> ServiceProcess:
    environment = feedback_environment(folder, database_url, redis_url) | {"PRECEPTOR_FEEDBACK_PORT": "0"}
    metrics_port = int(environment["PRECEPTOR_FEEDBACK_METRICS_PORT"])
    return ServiceProcess("preceptor.feedback.worker", environment, folder, metrics_port=metrics_port)
