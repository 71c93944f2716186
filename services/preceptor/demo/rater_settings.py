"""Settings of the simulated raters' process."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from preceptor.common.config import ServiceSettings


class RaterSettings(ServiceSettings):
    """`PRECEPTOR_RATERS_<FIELD>`."""

    model_config = SettingsConfigDict(env_prefix="PRECEPTOR_RATERS_")

    metrics_port: int = 7270
    feedback_address: str = "127.0.0.1:7120"
    project_id: str = "demo"
    labels: Literal["true", "flipped", "shuffled"] = "true"
    wanted_rankings: int = Field(1500, ge=1, description="rankings in force in the project at which all raters rest")
    rankings_per_second: float = Field(50.0, gt=0, description="of each rater, at most")
    seed: int = 0
    journal: Path = Field(description="JSONL file that gets a line before and after every vote")
