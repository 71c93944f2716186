"""Settings of a generator: PRECEPTOR_GENERATION_*."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from preceptor.common.config import ServiceSettings


class GenerationSettings(ServiceSettings):
    """One generator. Exactly one of `run_id` (follow a run's versions) and `model_dir` (serve one folder) is given."""

    model_config = SettingsConfigDict(env_prefix="PRECEPTOR_GENERATION_", frozen=True, extra="forbid")

    port: int = Field(7100, ge=0, le=65535)
    metrics_port: int = Field(7200, ge=0, le=65535)

    run_id: str = Field("", pattern=r"^([a-z0-9][a-z0-9-]{0,62})?$", description="the run whose versions are served")
    model_dir: Path | None = Field(
        None, validate_default=True, description="a Hugging Face folder to serve as version 0, never updated"
    )
    advertised_host: str = Field("", description="the host that clients reach this process at; empty = host")

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="auto = as stored")
    max_model_len: int = Field(0, ge=0, description="tokens of prompt and completion together; 0 = the model's own")
    tensor_parallel_size: int = Field(
        1,
        ge=1,
        le=64,
        description="GPUs (on CPU: processes) that share the model; each loads its own part",
    )
    max_num_seqs: int = Field(128, ge=1, le=4096, description="completions written at the same time")
    max_num_batched_tokens: int = Field(0, ge=0, description="tokens of one engine step; 0 = at least 2048")
    max_requests: int = Field(1024, ge=1, description="completions running or waiting, past which calls are refused")
    kv_cache_gib: float = Field(0.0, ge=0, description="0 = 1 GiB on CPU, vLLM's own share of a GPU")
    enforce_eager: bool | None = Field(None, description="skip compiling; unset = on CPU yes, on a GPU no")
    chunked_prefill: bool | None = Field(None, description="unset = on CPU no (seeds need it off there), on a GPU yes")
    stream_delta_tokens: int = Field(
        16, ge=1, le=1024, description="a stream's tokens per message after the first, where the call asks for none"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="of the engine's own draws")
    engine_log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "ERROR"

    watch_interval_s: float = Field(1.0, gt=0, le=600, description="how often the store is asked for a newer version")
    announce_interval_s: float = Field(2.0, gt=0, le=60, description="how often the discovery record is renewed")
    max_version_wait_s: float = Field(600.0, gt=0, description="for min_policy_version, when a call has no deadline")
    load_timeout_s: float = Field(600.0, gt=0, description="bound on pausing the engine and loading one version")
    kv_policy: Literal["keep", "recompute"] = Field(
        "keep",
        description="KV of completions in progress when a new version comes into force: keep = they go on with what "
        "older versions computed; recompute = they are preempted and compute it anew with the new weights",
    )
    fetch_streams: int = Field(
        1,
        ge=1,
        le=16,
        description="connections to the learner at a time; more where one does not fill the line",
    )
    fetch_idle_timeout_s: float = Field(
        15.0, gt=0, description="without a byte from the learner, after which a version is fetched from the store"
    )
    staging_dir: Path | None = Field(None, description="for host copies of weights; unset = /dev/shm where it has room")

    @field_validator("model_dir")
    @classmethod
    def _one_source_that_is_there(cls, model_dir: Path | None, info: ValidationInfo) -> Path | None:
        if "run_id" in info.data and bool(info.data["run_id"]) == (model_dir is not None):
            raise ValueError("set exactly one of PRECEPTOR_GENERATION_RUN_ID and PRECEPTOR_GENERATION_MODEL_DIR")
        if model_dir is not None and not (model_dir / "config.json").is_file():
            raise ValueError("there is no config.json in it: give a Hugging Face model folder")
        return model_dir
