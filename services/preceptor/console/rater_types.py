"""What the console shows and takes about raters and demonstrations."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from preceptor.console.types import EventId, Id, Message, Model, RaterId


class Estimate(Model):
    """A value with its 95 % interval over n observations; n 0: nothing to measure."""

    value: float
    low: float
    high: float
    n: int


class RaterState(Model):
    """Whether a rater is given work, and why not."""

    rater_id: str
    paused: bool
    reason: str
    changed_by: str
    changed_at: datetime | None


class RaterStateRequest(Model):
    """Pauses a rater, or lets them go on."""

    paused: bool
    reason: str = Field(default="", max_length=2_000, description="Shown to the rater; needed for a pause.")


class RaterQuality(Model):
    """What is measured of one rater."""

    rater_id: str
    rankings: int
    reliability: Estimate = Field(description="Probability of ordering a pair rightly; n in shared comparisons.")
    weight: float = Field(description="Of the rater's votes in training: 1 always right, 0 a coin.")
    gold_accuracy: Estimate
    left_wins: Estimate = Field(description="Share of pairs won by the candidate shown earlier.")
    self_consistency: Estimate
    median_seconds: float
    fast_share: float
    slow_share: float
    careless: bool
    findings: tuple[str, ...]
    state: RaterState


class RaterPair(Model):
    """Cohen's kappa of two raters."""

    rater_a: str
    rater_b: str
    kappa: Estimate


class RaterReport(Model):
    """Agreement of a project's raters, and each of them."""

    project_id: str
    label_high_water_mark: int
    rankings: int
    shared_comparisons: int
    krippendorff_alpha: Estimate
    fleiss_kappa: Estimate
    fleiss_raters: int
    cohen_kappa: tuple[RaterPair, ...]
    raters: tuple[RaterQuality, ...]
    unknown_weight: float


class DemonstrationRequest(Model):
    """What a rater would have answered themselves; a row of supervised fine-tuning."""

    event_id: EventId
    rater_id: RaterId
    comparison_id: Id
    text: str = Field(min_length=1, max_length=100_000)


class Demonstration(Model):
    """A demonstration as stored."""

    event_id: str
    sequence: int
    project_id: str
    rater_id: str
    comparison_id: str
    prompt: tuple[Message, ...]
    text: str
