"""The PPO part of an rl run's config; defaults follow the known implementation details of PPO for RLHF."""

from pydantic import Field, model_validator

from preceptor.learner.run_configs.base import OptimizerConfig
from preceptor.learner.run_configs.update import CorrectionConfig, CriticConfig, KlConfig

__all__ = ["CorrectionConfig", "KlConfig", "PpoConfig"]


class PpoConfig(CriticConfig):
    """PPO with a critic: GAE, clipped ratio, clipped value loss."""

    epochs: int = Field(default=4, ge=1, le=100, description="Passes over the batch.")
    clip: float = Field(default=0.2, gt=0, le=10, description="Probability ratios are clipped to [1 - clip, 1 + clip].")
    clip_high: float | None = Field(default=None, gt=0, le=100, description="Upper clip, if not `clip` (DAPO).")
    gamma: float = Field(default=1.0, ge=0, le=1, description="Discount per token.")
    lam: float = Field(default=0.95, ge=0, le=1, description="GAE's lambda.")
    whiten_rewards: bool = Field(default=False, description="Rewards to sd 1 over the batch's tokens, mean kept.")
    whiten_advantages: bool = Field(default=True, description="Advantages to mean 0, sd 1 over the batch's tokens.")
    optimizer: OptimizerConfig = Field(
        default_factory=lambda: OptimizerConfig(learning_rate=3e-6, eps=1e-5), description="Of the policy."
    )

    @model_validator(mode="after")
    def _scaled_once(self) -> "PpoConfig":
        if self.whiten_rewards and self.score_scale == "running":
            raise ValueError("score_scale running and whiten_rewards both rescale the rewards; take one of them")
        return self
