"""The PPO part of an rl run's config; defaults follow the known implementation details of PPO for RLHF."""

from typing import Literal

from pydantic import Field, model_validator

from preceptor.learner.run_configs.base import ConfigModel, OptimizerConfig


class KlConfig(ConfigModel):
    """Penalty for leaving the reference policy, taken from the reward token by token."""

    coef: float = Field(default=0.05, ge=0, le=100, description="Coefficient (the first one, if adaptive).")
    estimator: Literal["k1", "k2", "k3"] = Field(default="k1", description="Per-token estimator in the reward.")
    controller: Literal["fixed", "adaptive"] = Field(default="fixed", description="adaptive: Ziegler et al. 2019.")
    target: float = Field(default=6.0, gt=0, le=10_000, description="Adaptive: wanted KL per sequence (k1, nats).")
    horizon: int = Field(default=10_000, ge=1, le=10**9, description="Adaptive: rollouts over which coef can double.")


class CorrectionConfig(ConfigModel):
    """How samples of older weights, and of an engine that rounds differently, are corrected.

    The weight of a token is w = exp(old_logprobs - sampling_logprobs); sampling_logprobs are the behaviour policy.
    """

    kind: Literal["none", "truncated", "icepop"] = Field(
        default="truncated",
        description="truncated: min(w, cap); icepop: w in [low, high], else the token is masked.",
    )
    cap: float = Field(default=2.0, ge=1, le=1000, description="Truncated: largest weight.")
    low: float = Field(default=0.5, gt=0, le=1, description="IcePop: smallest weight that is kept.")
    high: float = Field(default=5.0, ge=1, le=1000, description="IcePop: largest weight that is kept.")


class PpoConfig(ConfigModel):
    """One PPO update: a batch of rollouts, some epochs of minibatches."""

    batch_size: int = Field(default=128, ge=1, le=1_048_576, description="Rollouts per update.")
    epochs: int = Field(default=4, ge=1, le=100, description="Passes over the batch.")
    minibatches: int = Field(default=1, ge=1, le=65_536, description="Optimiser steps per epoch.")
    micro_batch_tokens: int = Field(
        default=16_384, ge=64, le=16_777_216, description="Tokens per forward pass; the rest is gradient accumulation."
    )
    temperature: float = Field(
        default=1.0, gt=0, le=100, description="Sampling temperature; logits are divided by it everywhere."
    )
    clip: float = Field(default=0.2, gt=0, le=10, description="Probability ratios are clipped to [1 - clip, 1 + clip].")
    clip_high: float | None = Field(default=None, gt=0, le=100, description="Upper clip, if not `clip` (DAPO).")
    value_clip: float = Field(default=0.2, gt=0, le=1e6, description="Values move at most this far from the old ones.")
    gamma: float = Field(default=1.0, ge=0, le=1, description="Discount per token.")
    lam: float = Field(default=0.95, ge=0, le=1, description="GAE's lambda.")
    kl: KlConfig = Field(default_factory=KlConfig, description="Penalty against the reference policy.")
    correction: CorrectionConfig = Field(default_factory=CorrectionConfig, description="Off-policy correction.")
    entropy_coef: float = Field(default=0.0, ge=0, le=10, description="Weight of the entropy bonus.")
    missing_eos_penalty: float = Field(
        default=0.0, ge=0, le=1000, description="Taken from the score of a rollout that was cut by length."
    )
    score_clip: float | None = Field(default=None, gt=0, le=1e6, description="Scores are clipped to +-this; null: no.")
    score_scale: Literal["none", "running"] = Field(
        default="none", description="running: scores are divided by their running standard deviation, not shifted."
    )
    whiten_rewards: bool = Field(default=False, description="Rewards to sd 1 over the batch's tokens, mean kept.")
    whiten_advantages: bool = Field(default=True, description="Advantages to mean 0, sd 1 over the batch's tokens.")
    target_kl: float | None = Field(
        default=None, gt=0, le=100, description="Epochs end early once approxkl exceeds this; null = never."
    )
    critic: Literal["reward_model", "policy"] = Field(
        default="reward_model", description="What the critic's trunk starts as (and its head, if the reward model)."
    )
    optimizer: OptimizerConfig = Field(
        default_factory=lambda: OptimizerConfig(learning_rate=3e-6, eps=1e-5), description="Of the policy."
    )
    critic_optimizer: OptimizerConfig = Field(
        default_factory=lambda: OptimizerConfig(learning_rate=6e-6, eps=1e-5), description="Of the critic."
    )
    total_updates: int | None = Field(
        default=None, ge=1, description="Updates over which schedules run; null: set by the rl run."
    )

    @model_validator(mode="after")
    def _minibatches_fit(self) -> "PpoConfig":
        if self.batch_size % self.minibatches:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of minibatches {self.minibatches}")
        return self
