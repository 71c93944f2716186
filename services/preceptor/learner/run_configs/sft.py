"""Config of a supervised fine-tuning run."""

from typing import Literal

from pydantic import Field

from preceptor.learner.run_configs.base import ModelSource, OptimizerConfig, PathText, RunConfig


class SftConfig(RunConfig):
    """Supervised fine-tuning on JSONL rows {"text"}, {"prompt", "completion"} or {"messages"}."""

    kind: Literal["sft"] = Field(description="Which run this is.")
    model: ModelSource = Field(description="What is tuned.")
    data: tuple[PathText, ...] = Field(min_length=1, max_length=1000, description="Training files (JSONL).")
    eval_data: tuple[PathText, ...] = Field(default=(), max_length=1000, description="Held-out files (JSONL).")
    eval_fraction: float = Field(
        default=0.02, ge=0, le=0.5, description="Share of the training rows held out where eval_data is empty."
    )
    eval_every_steps: int = Field(default=500, ge=1, le=1_000_000, description="Steps between evaluations.")
    completion_only: bool = Field(
        default=True, description="Loss on completions and assistant turns only; rows of plain text count in full."
    )
    max_length: int = Field(default=1024, ge=2, le=131_072, description="Tokens per row; longer rows lose their end.")
    epochs: int = Field(default=1, ge=1, le=1000, description="Passes over the data.")
    batch_size: int = Field(default=32, ge=1, le=65_536, description="Rows per optimiser step.")
    micro_batch_tokens: int = Field(
        default=16_384, ge=64, le=16_777_216, description="Tokens per forward pass; the rest is gradient accumulation."
    )
    optimizer: OptimizerConfig = Field(
        default_factory=lambda: OptimizerConfig(learning_rate=2e-5, schedule="cosine", final_fraction=0.1),
        description="AdamW.",
    )
