"""Settings of the conductor."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from preceptor.common.config import ServiceSettings


class ConductorSettings(ServiceSettings):
    """`PRECEPTOR_CONDUCTOR_<FIELD>`."""

    model_config = SettingsConfigDict(env_prefix="PRECEPTOR_CONDUCTOR_")

    port: int = 7150
    metrics_port: int = 7250
    database_url: str = Field(
        description='e.g. "sqlite:////var/lib/preceptor/conductor.sqlite" or "postgresql+psycopg://…"'
    )
    feedback_address: str = "127.0.0.1:7120"
    reward_address: str = "127.0.0.1:7110"
    launcher: Literal["supervisord", "kubernetes"] = Field("supervisord", description="what runs learner jobs")
    supervisor_socket: Path | None = Field(None, description="supervisord: its unix socket")
    jobs_dir: Path | None = Field(None, description="supervisord: folder of its [include] section, a file per job")
    logs_dir: Path | None = Field(None, description="supervisord: where learner jobs log to")
    job_template: Path | None = Field(None, description="kubernetes: YAML of the Job that a run's is made from")
    namespace: str = Field("", max_length=63, description="kubernetes: where jobs go; empty: the template's namespace")
    owner_deployment: str = Field("", max_length=253, description="kubernetes: the Deployment that owns the jobs")
    learner_port: int = Field(
        7140,
        ge=1,
        le=65534,
        description="gRPC port of an rl job, the next one of others; those after it if they are taken",
    )
    learner_metrics_port: int = Field(7240, ge=1, le=65534, description="likewise for metrics")
    learner_cores: str = Field("", description="cores of an rl job, which shares the machine with generators")
    learner_threads: int = Field(0, ge=0, le=1024)
    all_cores: str = Field("", description="cores of sft and reward jobs, which run alone")
    all_threads: int = Field(0, ge=0, le=1024)
    poll_interval_s: float = Field(0.5, gt=0, le=60)
    patience_s: float = Field(600.0, gt=0, description="how long a service may be out of reach before its stage fails")

    @model_validator(mode="after")
    def _launcher_complete(self) -> Self:
        needed = {
            "supervisord": ("supervisor_socket", "jobs_dir", "logs_dir"),
            "kubernetes": ("job_template",),
        }[self.launcher]
        missing = [f"PRECEPTOR_CONDUCTOR_{name.upper()}" for name in needed if getattr(self, name) is None]
        if missing:
            raise ValueError(f"PRECEPTOR_CONDUCTOR_LAUNCHER is {self.launcher}: it needs {', '.join(missing)}")
        return self

    def job_environment(self, kind: str) -> dict[str, str]:
        """What a learner job is told, beside what it inherits from supervisord."""
        shares = kind == "rl"
        step = 0 if shares else 1  # a reward job runs beside the paused rl job
        threads = self.learner_threads if shares else self.all_threads
        settings = {
            "HOST": self.host,
            "PORT": str(self.learner_port + step),
            "METRICS_PORT": str(self.learner_metrics_port + step),
            "REDIS_URL": self.redis_url,
            "ARTIFACTS_URL": self.artifacts_url,
            "REWARD_ADDRESS": self.reward_address,
            "CPU_CORES": self.learner_cores if shares else self.all_cores,
            "THREADS": str(threads),
            "LOG_FORMAT": self.log_format,
        }
        environment = {f"PRECEPTOR_LEARNER_{key}": value for key, value in settings.items()}
        if threads:
            environment["OMP_NUM_THREADS"] = str(threads)
        return environment | {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
