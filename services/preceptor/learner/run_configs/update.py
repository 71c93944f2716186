"""What every algorithm's settings share: one update on a batch of rollouts. Imports no torch."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from preceptor.learner.run_configs.base import ConfigModel, OptimizerConfig

Estimator = Literal["k1", "k2", "k3"]
_CRITIC_KEYS = ("critic", "critic_optimizer", "value_clip", "gamma", "lam")


class KlConfig(ConfigModel):
    """Penalty for leaving the reference policy: in the reward, token by token, or in the loss."""

    coef: float = Field(default=0.05, ge=0, le=100, description="Coefficient in the reward (the first, if adaptive).")
    estimator: Estimator = Field(default="k1", description="Per-token estimator in the reward.")
    loss_coef: float = Field(default=0.0, ge=0, le=100, description="Coefficient in the loss (the first, if adaptive).")
    loss_estimator: Estimator = Field(default="k3", description="Per-token estimator in the loss.")
    weighted: bool = Field(
        default=True,
        description="In the loss: weighted by the ratio to the weights that began the update, so that its gradient is "
        "that of KL(policy || reference); false: the bare estimator, as in the first GRPO.",
    )
    both: bool = Field(default=False, description="Says that KL in the reward and in the loss at once is meant.")
    controller: Literal["fixed", "adaptive"] = Field(default="fixed", description="adaptive: Ziegler et al. 2019.")
    target: float = Field(default=6.0, gt=0, le=10_000, description="Adaptive: wanted KL per sequence (k1, nats).")
    horizon: int = Field(default=10_000, ge=1, le=10**9, description="Adaptive: rollouts over which coef can double.")

    @property
    def wanted(self) -> bool:
        """Whether a reference is needed."""
        return self.coef > 0 or self.loss_coef > 0

    @model_validator(mode="after")
    def _once(self) -> "KlConfig":
        if self.coef > 0 and self.loss_coef > 0 and not self.both:
            raise ValueError(
                f"kl.coef {self.coef} takes KL from the reward and kl.loss_coef {self.loss_coef} adds it to the loss: "
                "the penalty counts twice; set one of them to 0, or say both: true"
            )
        if self.controller == "adaptive" and not self.wanted:
            raise ValueError(
                "an adaptive kl.controller multiplies the coefficient: start above 0 (kl.coef or loss_coef)"
            )
        if self.controller == "adaptive" and self.coef > 0 and self.loss_coef > 0:
            raise ValueError("an adaptive kl.controller moves one coefficient: set kl.coef or kl.loss_coef to 0")
        if self.loss_coef > 0 and self.loss_estimator == "k1" and not self.weighted:
            raise ValueError(
                "kl.loss_estimator k1 without kl.weighted has an expected gradient of 0 on samples of the policy: "
                "it would add noise and no penalty; take weighted: true, or k2 or k3"
            )
        return self


class LossKl(KlConfig):
    """As GRPO has it: in the loss, k3."""

    coef: float = Field(default=0.0, ge=0, le=100, description="Coefficient in the reward (the first, if adaptive).")
    loss_coef: float = Field(
        default=0.04, ge=0, le=100, description="Coefficient in the loss (the first, if adaptive)."
    )


class SmallKl(KlConfig):
    """As REINFORCE++ has it: in the reward, small."""

    coef: float = Field(default=0.01, ge=0, le=100, description="Coefficient in the reward (the first, if adaptive).")


class NoKl(KlConfig):
    """None unless asked."""

    coef: float = Field(default=0.0, ge=0, le=100, description="Coefficient in the reward (the first, if adaptive).")


class CorrectionConfig(ConfigModel):
    """How samples of older weights, and of an engine that rounds differently, are corrected.

    The weight of a token is w = exp(old_logprobs - sampling_logprobs); sampling_logprobs are the behaviour policy.
    """

    kind: Literal["none", "truncated", "icepop", "decoupled"] = Field(
        default="truncated",
        description="truncated: min(w, cap); icepop: w in [low, high], else the token is masked; decoupled: w itself, "
        "as in decoupled PPO, tokens above high masked.",
    )
    level: Literal["token", "sequence", "geometric"] = Field(
        default="token",
        description="Truncated: w of the token; of the whole completion (product); or its geometric mean per token.",
    )
    cap: float = Field(default=2.0, ge=1, le=1000, description="Truncated: largest weight.")
    low: float = Field(default=0.5, gt=0, le=1, description="IcePop: smallest weight that is kept.")
    high: float = Field(default=5.0, ge=1, le=1000, description="IcePop and decoupled: largest weight that is kept.")

    @model_validator(mode="after")
    def _own_fields(self) -> "CorrectionConfig":
        used = {"truncated": {"level", "cap"}, "icepop": {"low", "high"}, "decoupled": {"high"}}.get(self.kind, set())
        others = {name: info for name, info in type(self).model_fields.items() if name not in used | {"kind"}}
        idle = [name for name, info in others.items() if getattr(self, name) != info.default]
        if idle:
            raise ValueError(f"correction.{idle[0]} has no effect with correction.kind {self.kind}; remove it")
        return self


class OverlongConfig(ConfigModel):
    """Completions that near or reach max_tokens (DAPO, arXiv 2503.14476, section 3.4)."""

    cache_tokens: int = Field(
        default=0,
        ge=0,
        le=131_072,
        description="Soft punishment: over so many tokens before max_tokens the score falls linearly; 0: none.",
    )
    penalty: float = Field(default=1.0, ge=0, le=1000, description="What is taken at max_tokens.")
    filter: bool = Field(default=False, description="Rollouts that were cut by length are not trained.")


class UpdateConfig(ConfigModel):
    """One update: a batch of rollouts, some epochs of minibatches."""

    has_critic: ClassVar[bool] = False
    compares_group: ClassVar[bool] = False  # advantages or choices within a group: needs two rollouts of a prompt
    is_weighted: ClassVar[bool] = True  # importance and staleness weights act on the loss

    batch_size: int = Field(default=128, ge=1, le=1_048_576, description="Rollouts per update.")
    epochs: int = Field(default=1, ge=1, le=100, description="Passes over the batch.")
    minibatches: int = Field(default=1, ge=1, le=65_536, description="Optimiser steps per epoch.")
    micro_batch_tokens: int = Field(
        default=16_384, ge=64, le=16_777_216, description="Tokens per forward pass; the rest is gradient accumulation."
    )
    temperature: float = Field(
        default=1.0, gt=0, le=100, description="Sampling temperature; logits are divided by it everywhere."
    )
    max_tokens: int | None = Field(
        default=None, ge=1, le=131_072, description="Tokens per completion at most; null: set by the rl run."
    )
    kl: KlConfig = Field(default_factory=KlConfig, description="Penalty against the reference policy.")
    correction: CorrectionConfig = Field(default_factory=CorrectionConfig, description="Off-policy correction.")
    entropy_coef: float = Field(default=0.0, ge=0, le=10, description="Weight of the entropy bonus.")
    missing_eos_penalty: float = Field(
        default=0.0, ge=0, le=1000, description="Taken from the score of a rollout that was cut by length."
    )
    length_penalty: float = Field(
        default=0.0, ge=0, le=100, description="Taken from the score for every token of the completion."
    )
    overlong: OverlongConfig = Field(default_factory=OverlongConfig, description="Completions near max_tokens.")
    score_clip: float | None = Field(default=None, gt=0, le=1e6, description="Scores are clipped to +-this; null: no.")
    score_scale: Literal["none", "running"] = Field(
        default="none", description="running: scores are divided by their running standard deviation, not shifted."
    )
    target_kl: float | None = Field(
        default=None, gt=0, le=100, description="Epochs end early once approxkl exceeds this; null = never."
    )
    optimizer: OptimizerConfig = Field(
        default_factory=lambda: OptimizerConfig(learning_rate=1e-6, eps=1e-5), description="Of the policy."
    )
    total_updates: int | None = Field(
        default=None, ge=1, description="Updates over which schedules run; null: set by the rl run."
    )

    @model_validator(mode="before")
    @classmethod
    def _no_critic_options(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and not cls.has_critic:
            named = [key for key in _CRITIC_KEYS if key in values and key not in cls.model_fields]
            if named:
                raise ValueError(
                    f"{', '.join(named)}: for a critic, and this algorithm has none; remove what is named, or take ppo"
                )
        return values

    @model_validator(mode="after")
    def _consistent(self) -> "UpdateConfig":
        if self.batch_size % self.minibatches:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of minibatches {self.minibatches}")
        if self.overlong.filter and self.missing_eos_penalty:
            raise ValueError(
                "overlong.filter leaves out what missing_eos_penalty would punish; set one of them to its default"
            )
        if not self.is_weighted and self.correction.kind in ("icepop", "decoupled"):
            raise ValueError(
                f"correction.kind {self.correction.kind} weights policy gradients by importance; this algorithm's loss "
                "is no policy gradient: remove it"
            )
        if self.max_tokens is not None and self.overlong.cache_tokens > self.max_tokens:
            raise ValueError(f"overlong.cache_tokens {self.overlong.cache_tokens} exceeds max_tokens {self.max_tokens}")
        return self


class CriticConfig(UpdateConfig):
    """Settings of an algorithm with a critic."""

    has_critic: ClassVar[bool] = True

    critic: Literal["reward_model", "policy"] = Field(
        default="reward_model", description="What the critic's trunk starts as (and its head, if the reward model)."
    )
    critic_optimizer: OptimizerConfig = Field(
        default_factory=lambda: OptimizerConfig(learning_rate=6e-6, eps=1e-5), description="Of the critic."
    )
    value_clip: float = Field(default=0.2, gt=0, le=1e6, description="Values move at most this far from the old ones.")
