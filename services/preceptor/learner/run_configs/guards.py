"""What an rl run watches of itself, and what it does about it."""

from typing import Literal

from pydantic import Field, model_validator

from preceptor.learner.run_configs.base import ConfigModel

GuardPolicy = Literal["off", "warn", "roll_back", "stop"]
_POLICY = (
    "off; warn: a sentence in status and log, counted in guard/…; roll_back: back to the last checkpoint, without the "
    "rollouts of the step; stop: the run fails and its last checkpoint stands."
)


class Guard(ConfigModel):
    """What is done when a guard is raised."""

    policy: GuardPolicy = Field(default="warn", description=_POLICY)


class KlGuard(Guard):
    """KL to the reference blows up."""

    limit: float = Field(default=100.0, gt=0, le=1e6, description="Largest objective/kl: k1, nats per rollout.")


class SpikeGuard(Guard):
    """A loss or gradient norm far above what it was."""

    factor: float = Field(
        default=20.0, gt=1, le=1e9, description="Largest multiple of the median magnitude over the window."
    )
    window: int = Field(default=50, ge=5, le=10_000, description="Steps that the median is taken over.")
    metrics: tuple[str, ...] = Field(
        default=("loss/policy_avg", "loss/value_avg", "policy/grad_norm"),
        min_length=1,
        max_length=50,
        description="Metrics that are watched.",
    )


class EntropyGuard(Guard):
    """The policy's entropy collapses."""

    share: float = Field(default=0.05, ge=0, lt=1, description="Smallest share of policy/entropy_avg at the start.")


class RepetitionGuard(Guard):
    """Completions repeat themselves."""

    ngram: int = Field(default=4, ge=1, le=100, description="Tokens of an n-gram.")
    limit: float = Field(
        default=0.6, gt=0, le=1, description="Largest mean share of a completion's n-grams that it had already."
    )


class LengthGuard(Guard):
    """Completions become far shorter or longer."""

    low: float = Field(default=0.1, ge=0, lt=1, description="Smallest share of the mean length at the start.")
    high: float = Field(default=10.0, gt=1, le=1e6, description="Largest multiple of the mean length at the start.")


class DiversityGuard(Guard):
    """The same completion over and over, whatever the prompt."""

    share: float = Field(
        default=0.1, ge=0, lt=1, description="Smallest share of the batch's distinct completions at the start."
    )


class GuardsConfig(ConfigModel):
    """Guards of an rl run. NaN and infinity need none: such a step is skipped, and its rollouts are named."""

    kl: KlGuard = Field(default_factory=KlGuard, description="KL to the reference.")
    spike: SpikeGuard = Field(default_factory=SpikeGuard, description="Loss and gradient spikes.")
    entropy: EntropyGuard = Field(default_factory=EntropyGuard, description="Entropy collapse.")
    repetition: RepetitionGuard = Field(default_factory=RepetitionGuard, description="Repeated n-grams.")
    length: LengthGuard = Field(default_factory=LengthGuard, description="Length collapse.")
    diversity: DiversityGuard = Field(default_factory=DiversityGuard, description="Diversity of the batch.")
    start_steps: int = Field(
        default=10, ge=1, le=10_000, description="Steps whose mean is what the guards call the start."
    )
    max_roll_backs: int = Field(
        default=3, ge=1, le=1000, description="Roll-backs of a process; the next one stops the run."
    )


class SelfCheckConfig(ConfigModel):
    """One update with learning rate 0 before the first step, on its rollouts; the run refuses to start if it fails."""

    enabled: bool = Field(default=False, description="Whether it is done.")
    max_mismatch: float = Field(
        default=0.05, gt=0, le=100, description="Largest mean |old_logprobs - sampling_logprobs|, nats per token."
    )
    tolerance: float = Field(
        default=1e-3, gt=0, le=1, description="How far ratios may be from 1, and repeated losses from each other."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_flag(cls, value: object) -> object:
        """`self_check: true` is short for the defaults."""
        return {"enabled": value} if isinstance(value, bool) else value
