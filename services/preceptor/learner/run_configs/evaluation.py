"""Evaluation of an rl run on held-out prompts."""

from typing import Literal

from pydantic import Field

from preceptor.learner.run_configs.base import ConfigModel
from preceptor.learner.run_configs.prompts import PromptSource


class EvaluationConfig(ConfigModel):
    """Held-out prompts, answered by the run's generators with its newest version and scored by its reward."""

    prompts: PromptSource = Field(description="Held-out prompts; all of them are asked each time.")
    every_steps: int = Field(default=50, ge=1, le=1_000_000, description="Steps between evaluations.")
    samples: int = Field(default=1, ge=1, le=1024, description="Completions per prompt.")
    temperature: float = Field(default=1.0, ge=0, le=100, description="0: greedy.")
    max_tokens: int | None = Field(
        default=None, ge=1, le=131_072, description="Tokens per completion; null: as in training."
    )
    reference: Literal["start", "none"] = Field(
        default="start",
        description="Whose completions the win rate is against: those of the run's first version, kept in its folder.",
    )
    pass_threshold: float | None = Field(
        default=None, description="A score of at least this is a pass; with it, pass@k is reported. For binary rewards."
    )
    concurrency: int = Field(default=16, ge=1, le=1024, description="Prompts asked at the same time.")
    timeout_s: float = Field(
        default=300.0, gt=0, le=86_400, description="Longest evaluation; one that fails is counted, the run goes on."
    )
