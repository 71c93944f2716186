"""Config of a DPO run."""

from typing import Literal

from pydantic import Field, model_validator

from preceptor.learner.run_configs.base import ModelSource, OptimizerConfig, PathText, RunConfig
from preceptor.learner.run_configs.reward import RewardData


class DpoConfig(RunConfig):
    """Direct preference optimisation on rankings or preferences; every untied pair of a ranking is one example."""

    kind: Literal["dpo"] = Field(description="Which run this is.")
    model: ModelSource = Field(description="What is tuned: usually the sft run's model.")
    reference: PathText | None = Field(
        default=None,
        description="Frozen policy that the log-ratios are taken to; default: the model as it is at the start. Its "
        "log-probs are computed once, before the first step, so that it needs no memory during training.",
    )
    data: tuple[RewardData, ...] = Field(min_length=1, max_length=1000, description="Files of labels.")
    eval_fraction: float = Field(
        default=0.05, ge=0, le=0.9, description="Share of the prompts held out; a prompt is never on both sides."
    )
    eval_every_steps: int = Field(default=200, ge=1, le=1_000_000, description="Steps between evaluations.")
    loss: Literal["sigmoid", "robust", "ipo"] = Field(
        default="sigmoid",
        description="sigmoid: DPO (label_smoothing makes it conservative); robust: unbiased under flipped labels; ipo: "
        "squared, on log-ratios per token.",
    )
    beta: float = Field(default=0.1, gt=0, le=100, description="Strength of the tie to the reference (ipo: tau).")
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=0.5, description="Probability that a label is flipped; sigmoid and robust."
    )
    max_length: int = Field(
        default=1024, ge=2, le=131_072, description="Tokens of prompt + completion; longer prompts lose their start."
    )
    epochs: int = Field(default=1, ge=1, le=1000, description="Passes over the pairs.")
    batch_size: int = Field(default=32, ge=1, le=65_536, description="Pairs per optimiser step.")
    micro_batch_tokens: int = Field(
        default=16_384, ge=64, le=16_777_216, description="Tokens per forward pass; the rest is gradient accumulation."
    )
    optimizer: OptimizerConfig = Field(
        default_factory=lambda: OptimizerConfig(learning_rate=1e-6, schedule="linear"), description="AdamW."
    )

    @model_validator(mode="after")
    def _loss_fits(self) -> "DpoConfig":
        if self.loss == "ipo" and self.label_smoothing:
            raise ValueError("label_smoothing has no meaning for loss ipo; leave it out, or take sigmoid or robust")
        if self.loss == "robust" and not self.label_smoothing:
            raise ValueError("loss robust needs label_smoothing, the probability that a label is flipped")
        return self
