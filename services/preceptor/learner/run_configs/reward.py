"""Config of a reward-model run."""

from typing import Annotated, Literal

from pydantic import Field

from preceptor.learner.run_configs.base import ConfigModel, ModelSource, OptimizerConfig, PathText, RunConfig

LabelShare = Annotated[float, Field(gt=0, lt=1)]


class RewardData(ConfigModel):
    """One file of labels."""

    path: PathText = Field(description="JSONL file.")
    format: Literal["rankings", "hh", "preferences"] = Field(
        description="rankings: exported RankedComparison per line; hh: Anthropic HH-RLHF chosen/rejected transcripts; "
        "preferences: TRL rows {prompt?, chosen, rejected} of text or messages."
    )


class LabelSnapshot(ConfigModel):
    """Which labels the data are; copied into card.json so that a score can be traced to its votes."""

    project_id: str = Field(default="", max_length=63, description="Feedback project.")
    label_high_water_mark: int = Field(default=0, ge=0, description="Sequence of the newest vote in the data.")
    label_hash: str = Field(default="", max_length=128, description="SHA-256 of the canonical export.")


class StrengthMargins(ConfigModel):
    """By how many log-odds the best group must win, by how sure the rater was (Llama 2, arXiv 2307.09288, eq. 2)."""

    slight: float = Field(default=0.0, ge=0, le=10, description="Margin of a slight preference.")
    clear: float = Field(default=0.0, ge=0, le=10, description="Margin of a clear one.")
    strong: float = Field(default=0.0, ge=0, le=10, description="Margin of a strong one.")

    def of(self, strength: str) -> float:
        """Returns the margin; 0 where the rater was not asked."""
        return {"slight": self.slight, "clear": self.clear, "strong": self.strong}.get(strength, 0.0)


class RewardConfig(RunConfig):
    """Bradley-Terry reward model on rankings or preferences; every pair of a comparison in one batch element."""

    kind: Literal["reward"] = Field(description="Which run this is.")
    reward_model_version: int = Field(default=1, ge=1, lt=2**53, description="Version written into card.json.")
    model: ModelSource = Field(description="Trunk: usually the sft run's model; the scalar head is new.")
    data: tuple[RewardData, ...] = Field(min_length=1, max_length=1000, description="Files of labels.")
    labels: LabelSnapshot = Field(default_factory=LabelSnapshot, description="The snapshot that the data are.")
    eval_fraction: float = Field(
        default=0.2, ge=0, le=0.9, description="Share of the prompts held out; a prompt is never on both sides."
    )
    max_length: int = Field(
        default=1024, ge=2, le=131_072, description="Tokens of prompt + completion; longer prompts lose their start."
    )
    epochs: int = Field(default=1, ge=1, le=1000, description="Passes over the comparisons.")
    batch_size: int = Field(default=16, ge=1, le=65_536, description="Comparisons per optimiser step.")
    micro_batch_tokens: int = Field(
        default=16_384, ge=64, le=16_777_216, description="Tokens per forward pass; the rest is gradient accumulation."
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=0.5, description="Probability that a label is flipped: target 1 - label_smoothing."
    )
    strength_margins: StrengthMargins = Field(
        default_factory=StrengthMargins, description="Margins between the best group and the rest, by strength."
    )
    center_coef: float = Field(
        default=0.0, ge=0, le=10, description="Weight of mean((r_chosen + r_rejected)^2), which centres raw scores."
    )
    normalise_on: Literal["candidates", "initial_policy"] = Field(
        default="candidates",
        description="Samples that get mean 0, sd 1: candidates of the training comparisons, or only those written by a "
        "policy_version up to initial_policy_version.",
    )
    initial_policy_version: int = Field(default=0, ge=0, description="See normalise_on.")
    previous: PathText | None = Field(
        default=None,
        description="Reward model directory; the report compares the new model with it on held-out labels.",
    )
    learning_curve: tuple[LabelShare, ...] = Field(
        default=(),
        max_length=8,
        description="Shares of the labels, rising, that more models are trained on, for the report's estimate of what "
        "twice the labels would add; [0.25, 0.5] costs three quarters of the run again.",
    )
    optimizer: OptimizerConfig = Field(
        default_factory=lambda: OptimizerConfig(learning_rate=1e-5, schedule="linear"), description="AdamW."
    )
