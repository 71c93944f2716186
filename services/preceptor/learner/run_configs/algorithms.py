"""Settings of the algorithms without a critic. PPO's are in ppo.py, what all share in update.py. Imports no torch."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from preceptor.learner.run_configs.update import LossKl, NoKl, SmallKl, UpdateConfig

_CLIP = Field(default=0.2, gt=0, le=10, description="Ratios are clipped to [1 - clip, 1 + clip].")
_CLIP_HIGH = Field(default=None, gt=0, le=100, description="Upper clip, if not `clip` (DAPO takes 0.28).")


class GrpoConfig(UpdateConfig):
    """GRPO (arXiv 2402.03300) with the DAPO (2503.14476) and Dr. GRPO (2503.20783) losses."""

    compares_group: ClassVar[bool] = True

    loss: Literal["grpo", "dapo", "dr_grpo"] = Field(
        default="dapo",
        description="grpo: mean over each completion's tokens, then over completions; dapo: mean over all tokens; "
        "dr_grpo: sum over completions * max_tokens.",
    )
    scale: Literal["group", "batch", "none"] | None = Field(
        default=None,
        description="Advantages are divided by the sd of their group's scores, of the batch's, or not at all; null: "
        "none with dr_grpo, else group.",
    )
    clip: float = _CLIP
    clip_high: float | None = _CLIP_HIGH
    dynamic_sampling: bool = Field(
        default=True,
        description="Groups whose rewards do not differ are counted and left out of the loss and its mean; the step "
        "is then smaller. false: they stay in the denominator (and take part in KL and entropy).",
    )
    kl: LossKl = Field(default_factory=LossKl, description="Penalty against the reference policy.")

    @property
    def scale_by(self) -> str:
        return self.scale or ("none" if self.loss == "dr_grpo" else "group")


class RlooConfig(UpdateConfig):
    """RLOO (arXiv 2402.14740): REINFORCE on whole completions, with the mean of the group's others as baseline."""

    compares_group: ClassVar[bool] = True

    clip: float = _CLIP
    clip_high: float | None = _CLIP_HIGH
    whiten_advantages: bool = Field(default=False, description="Advantages to mean 0, sd 1 over the batch's rollouts.")


class ReinforcePlusPlusConfig(UpdateConfig):
    """REINFORCE++ (arXiv 2501.03262): KL in the reward, returns to go, normalised over the whole batch, PPO's clip."""

    baseline: Literal["none", "group"] = Field(
        default="none", description="group: the group's mean is taken from the scores first (REINFORCE++-baseline)."
    )
    gamma: float = Field(default=1.0, ge=0, le=1, description="Discount per token.")
    clip: float = _CLIP
    clip_high: float | None = _CLIP_HIGH
    kl: SmallKl = Field(default_factory=SmallKl, description="Penalty against the reference.")

    @model_validator(mode="after")
    def _scaled_once(self) -> "ReinforcePlusPlusConfig":
        if self.score_scale == "running":
            raise ValueError("REINFORCE++ normalises advantages over the batch: score_scale running would be undone")
        return self


class ReinforceConfig(UpdateConfig):
    """REINFORCE with a baseline, on whole completions (Williams 1992)."""

    baseline: Literal["running", "group", "batch", "none"] = Field(
        default="running",
        description="Taken from the score: the running mean of earlier batches, the mean of the group, of the batch.",
    )
    baseline_decay: float = Field(
        default=0.9, ge=0, lt=1, description="Running: share of the old mean that each batch keeps."
    )
    whiten_advantages: bool = Field(default=False, description="Advantages to mean 0, sd 1 over the batch's rollouts.")

    @model_validator(mode="after")
    def _sound(self) -> "ReinforceConfig":
        if self.epochs > 1:
            raise ValueError(
                f"epochs {self.epochs}: REINFORCE has no ratio that would correct a second pass; take epochs: 1, or "
                "reinforce_pp"
            )
        if self.whiten_advantages and self.baseline == "batch":
            raise ValueError("whiten_advantages takes the batch's mean away a second time; take another baseline")
        if self.whiten_advantages and self.score_scale == "running":
            raise ValueError("score_scale running and whiten_advantages both rescale the scores; take one of them")
        return self


class RftConfig(UpdateConfig):
    """Best-of-n and rejection-sampling fine-tuning: the best of each group as targets of supervised learning."""

    compares_group: ClassVar[bool] = True
    is_weighted: ClassVar[bool] = False

    top_k: int = Field(default=1, ge=1, le=4096, description="Completions kept per group, best score first.")
    min_score: float | None = Field(
        default=None, description="Completions below it are never kept, however good their group; null: no bound."
    )
    kl: NoKl = Field(default_factory=NoKl, description="Penalty against the reference: in the loss only.")

    @model_validator(mode="after")
    def _no_kl_in_reward(self) -> "RftConfig":
        if self.kl.coef > 0:
            raise ValueError("rft ranks by score: KL in the reward has no gradient here; use kl.loss_coef, or 0")
        return self


class OnlineDpoConfig(UpdateConfig):
    """Online DPO (arXiv 2402.04792): best against worst of each group, labelled by the reward."""

    compares_group: ClassVar[bool] = True
    is_weighted: ClassVar[bool] = False

    loss: Literal["sigmoid", "ipo"] = Field(default="sigmoid", description="sigmoid: DPO; ipo: squared, to 1/(2 beta).")
    beta: float = Field(default=0.1, gt=0, le=100, description="Strength of the reference: small moves far from it.")
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5, description="Sigmoid: chance that a label is flipped.")
    min_gap: float = Field(
        default=0.0, ge=0, le=1e6, description="Groups whose best and worst score differ by no more are skipped."
    )
    kl: NoKl = Field(default_factory=NoKl, description="Must stay 0: beta is online DPO's KL.")

    @model_validator(mode="after")
    def _sound(self) -> "OnlineDpoConfig":
        if self.kl.wanted:
            raise ValueError("online_dpo has its KL in beta: kl.coef and kl.loss_coef must be 0")
        if self.label_smoothing and self.loss == "ipo":
            raise ValueError("label_smoothing has no meaning with loss ipo; set it to 0")
        if self.score_scale == "running" or self.score_clip is not None:
            raise ValueError("online_dpo only orders the scores: score_scale and score_clip can only make ties")
        return self
