"""Settings of the console, from PRECEPTOR_CONSOLE_* variables."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from preceptor.common.config import ServiceSettings


class ConsoleSettings(ServiceSettings):
    """Everything the console can be told; see each field."""

    model_config = SettingsConfigDict(env_prefix="PRECEPTOR_CONSOLE_", frozen=True, extra="forbid")

    port: int = Field(default=8080, ge=0, le=65_535)
    metrics_port: int = Field(default=7260, ge=0, le=65_535)
    feedback_address: str = "127.0.0.1:7120"
    conductor_address: str = "127.0.0.1:7150"
    rpc_timeout_s: float = Field(default=5.0, gt=0, le=60)
    """The deadline of each call to another service; a page waits at most this long."""
    max_body_bytes: int = Field(default=256 * 1024, ge=1024)
    """The largest request body taken; beyond it the answer is 413."""
    max_connections: int = Field(default=512, ge=1)
    """Past this many at once the answer is 503."""
    allowed_hosts: str = "localhost,127.0.0.1,[::1]"
    """Comma-separated names the console answers to (a guard against DNS rebinding); "*" takes any. Name the ingress
    host here when it is reached through one."""
    watched_loops: int = Field(default=8, ge=1, le=256)
    """How many loops' events are kept in memory at once, for the curves."""
    watch_idle_s: float = Field(default=120.0, gt=0)
    """A loop that nobody looked at for this long is no longer watched."""
    points_per_curve: int = Field(default=400, ge=20, le=20_000)
    """Longer curves are thinned to about this many points."""
