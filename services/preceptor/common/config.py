"""The base of every service's settings, and reading them from the environment with errors a person can act on."""

from __future__ import annotations

import difflib
import os
import sys
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from preceptor.common.errors import InvalidInput
from preceptor.common.process import parse_cores

S = TypeVar("S", bound="ServiceSettings")
_MIB = 1024 * 1024


class ServiceSettings(BaseSettings):
    """What every process is told. Subclasses set `model_config = SettingsConfigDict(env_prefix="PRECEPTOR_<SERVICE>_")`
    (pydantic merges it with this one), their default ports, and their own fields.
    """

    model_config = SettingsConfigDict(env_prefix="PRECEPTOR_", frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(0, description="gRPC; 0 = any free one, or none for a process that serves no gRPC")
    metrics_port: int = Field(0, description="HTTP /healthz, /readyz, /metrics")
    redis_url: str = "redis://127.0.0.1:6379/0"
    artifacts_url: str = Field(
        description='where models and checkpoints live, e.g. "file:///var/lib/preceptor/artifacts"'
    )
    log_format: Literal["auto", "text", "json"] = "auto"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    reflection: bool = True
    cpu_cores: str = Field("", description='cores to run on, e.g. "0-1,3"; empty = all')
    threads: int = Field(0, ge=0, le=1024, description="threads of numeric libraries; 0 = their own choice")
    drain_timeout_s: float = Field(30.0, gt=0, le=3600)
    max_concurrent_rpcs: int = Field(1024, ge=1)
    max_message_bytes: int = Field(16 * _MIB, ge=64 * 1024, le=2**31 - 1)
    api_key: SecretStr = Field(SecretStr(""), description="sent to services that ask who calls; give it by a secret")
    instance: str = Field("", description='name of this process, e.g. "generation-0"; empty = the service\'s name')

    @model_validator(mode="before")
    @classmethod
    def _name_instance(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values.get("instance"):
            return {**values, "instance": cls.service_name()}
        return values

    @field_validator("port", "metrics_port")  # not on the field: a subclass's new default would drop the bounds
    @classmethod
    def _port_exists(cls, value: int) -> int:
        if not 0 <= value <= 65535:
            raise ValueError("a port is a number from 1 to 65535, or 0 for any free one")
        return value

    @field_validator("cpu_cores")
    @classmethod
    def _cores_are_readable(cls, value: str) -> str:
        try:
            parse_cores(value)
        except InvalidInput as error:
            raise ValueError(error.message) from error
        return value

    @field_validator("artifacts_url")
    @classmethod
    def _artifacts_are_an_address(cls, value: str) -> str:
        if "://" in value:
            return value.rstrip("/")
        if not value.startswith("/"):
            raise ValueError('give an address such as "file:///var/lib/preceptor" or "s3://bucket/folder"')
        return Path(value).as_uri()

    @field_validator("redis_url")
    @classmethod
    def _redis_is_an_address(cls, value: str) -> str:
        if not value.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError('give an address such as "redis://127.0.0.1:6379/0"')
        return value

    @classmethod
    def service_name(cls) -> str:
        """Returns e.g. "feedback-worker" for the prefix PRECEPTOR_FEEDBACK_WORKER_."""
        prefix = cls.model_config.get("env_prefix") or ""
        return prefix.removeprefix("PRECEPTOR_").strip("_").lower().replace("_", "-") or "preceptor"

    @classmethod
    def variable(cls, field: str) -> str:
        """Returns the environment variable that sets a field, e.g. PRECEPTOR_GENERATION_PORT."""
        return f"{cls.model_config.get('env_prefix') or ''}{field}".upper()


def load_settings(cls: type[S]) -> S:
    """Returns the settings that the environment gives.

    Exits with code 2 after one line per wrong variable on standard error: its name, what is allowed, what to do.
    """
    problems = _misspelt(cls)
    settings: S | None = None
    try:
        settings = cls()
    except ValidationError as error:
        problems += [_describe(cls, detail) for detail in error.errors()]
    if problems or settings is None:
        for problem in problems:
            print(problem, file=sys.stderr)  # noqa: T201  no logger exists before there are settings
        raise SystemExit(2)
    return settings


def _describe(cls: type[ServiceSettings], detail: ErrorDetails) -> str:
    field = ".".join(map(str, detail["loc"])) or "settings"
    name = cls.variable(field)
    if detail["type"] == "missing":
        info = cls.model_fields.get(field)
        return f"{name} is not set: {info.description if info and info.description else 'it is required'}"
    got = detail["input"]
    if isinstance(got, str) and got.startswith("tcp://"):
        hint = "Kubernetes injects such values for a Service of this name: set enableServiceLinks: false on the pod"
        return f'{name}="{got}" is wrong: {hint}'
    message = detail["msg"].removeprefix("Value error, ")
    return f"{name}={str(got)!r} is wrong: {message[:1].lower()}{message[1:]}"


def _misspelt(cls: type[ServiceSettings]) -> list[str]:
    prefix = (cls.model_config.get("env_prefix") or "").upper()
    known = [cls.variable(field) for field in cls.model_fields]
    problems = []
    for name in sorted(os.environ):
        if not name.upper().startswith(prefix) or name.upper() in known:
            continue
        close = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.92)
        if close:
            problems.append(f"{name} is unknown: did you mean {close[0]}?")
    return problems
