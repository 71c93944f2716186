"""Settings of the feedback service and of its Celery worker."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from preceptor.common.config import ServiceSettings
from preceptor.feedback.limits import Limits
from preceptor.feedback.validation import MAX_CANDIDATES, MAX_OVERLAP, MIN_CANDIDATES

MIN_ADMIN_KEY = 24


class FeedbackSettings(ServiceSettings):
    """`PRECEPTOR_FEEDBACK_<FIELD>`."""

    model_config = SettingsConfigDict(env_prefix="PRECEPTOR_FEEDBACK_")

    port: int = Field(7120, ge=0, le=65535)
    metrics_port: int = Field(7220, ge=0, le=65535)
    database_url: str = Field(
        description='where the votes live: "sqlite:////var/lib/preceptor/feedback.sqlite" or '
        '"postgresql://user:password@host/name"'
    )
    database_threads: int = Field(8, ge=1, le=64)
    """Calls that use the database at a time; each has a thread and a connection."""
    database_queue: int = Field(256, ge=1)
    """Calls that may wait for one of the threads; further ones are refused."""
    max_open_comparisons: int = Field(100_000, ge=1)
    """Per project; more are refused until some are ranked."""
    default_lease_s: float = Field(300.0, gt=0, le=86_400)
    max_lease_s: float = Field(86_400.0, gt=0, le=30 * 86_400)
    idle_retry_s: float = Field(2.0, gt=0, le=3600)
    """When a rater for whom there is nothing to do should ask again."""
    notice_interval_s: float = Field(1.0, gt=0, le=3600)
    """How often new votes are announced in Redis."""

    rater_watch_interval_s: float = Field(60.0, gt=0, le=86_400)
    """How often raters are measured in projects that pause raters below a threshold."""
    rater_window: int = Field(20_000, ge=100, le=1_000_000)
    """Raters are measured, and weighted in training, on so many of a project's newest votes."""

    access: Literal["open", "required"] = "open"
    """open: whoever reaches the port may do everything; for loopback. required: every call carries an API key or a
    session token."""
    admin_key: SecretStr = SecretStr("")
    """An API key with all rights, to make the first users with; give it by a secret. Empty: none."""
    annotator_calls_per_s: float = Field(20.0, gt=0, le=10_000)
    """Of one annotator; faster ones are told when to come back."""

    @model_validator(mode="after")
    def _admin_key_is_long(self) -> FeedbackSettings:
        if 0 < len(self.admin_key.get_secret_value()) < MIN_ADMIN_KEY:
            raise ValueError(f"admin_key: give at least {MIN_ADMIN_KEY} characters")
        return self

    @field_validator("database_url")
    @classmethod
    def _database_is_known(cls, value: str) -> str:
        if value.startswith("sqlite:///") and len(value) > len("sqlite:///") and ":memory:" not in value:
            return value
        if value.startswith(("postgresql://", "postgresql+psycopg://")):
            return value
        raise ValueError('give "sqlite:////path/to/file.sqlite" or "postgresql://user:password@host/name"')

    @property
    def limits(self) -> Limits:
        return Limits(
            max_open_comparisons=self.max_open_comparisons,
            default_lease_s=self.default_lease_s,
            max_lease_s=self.max_lease_s,
        )


class FeedbackWorkerSettings(FeedbackSettings):
    """The worker shares the server's variables; it serves no gRPC."""

    port: int = Field(0, ge=0, le=65535)
    metrics_port: int = Field(7221, ge=0, le=65535)
    concurrency: int = Field(2, ge=1, le=64)
    max_candidates: int = Field(MAX_CANDIDATES, ge=MIN_CANDIDATES, le=MAX_CANDIDATES)
    """The most completions of one live group that raters are shown."""
    overlap_share: float = Field(0.2, ge=0, le=1)
    """The share of live comparisons that several raters rank."""
    overlap_raters: int = Field(3, ge=1, le=MAX_OVERLAP)
    """How many that is; the rest take the project's default."""

    @classmethod
    def service_name(cls) -> str:
        return "feedback-worker"
