"""What is measured of raters."""

from __future__ import annotations

from dataclasses import dataclass

from preceptor.feedback.types import TieGroups


@dataclass(frozen=True, slots=True)
class QualityVote:
    """A vote in force, as much of it as measuring needs.

    Attributes:
        seconds: from shown to submitted.
        gold_answer: the known answer; empty where there is none.
        repeat_of: the comparison that the vote's comparison repeats.
    """

    comparison_id: str
    rater_id: str
    tie_groups: TieGroups
    shown_order: tuple[str, ...] = ()
    seconds: float = 0.0
    gold_answer: TieGroups = ()
    repeat_of: str = ""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval over n observations. n 0: nothing to measure, and the numbers say nothing."""

    value: float = 0.0
    low: float = 0.0
    high: float = 0.0
    n: int = 0

    def surely_below(self, limit: float) -> bool:
        """Whether even the upper end of the interval lies below."""
        return self.n > 0 and self.high < limit


@dataclass(frozen=True, slots=True)
class Kappa:
    """Cohen's kappa of two raters on the pairs that both judged."""

    rater_a: str
    rater_b: str
    kappa: Estimate


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of all raters together, on pairs of candidates that several judged."""

    alpha: Estimate  # Krippendorff, ordinal
    fleiss: Estimate
    fleiss_raters: int  # raters per pair that Fleiss' kappa was taken over
    cohen: tuple[Kappa, ...]


@dataclass(frozen=True, slots=True)
class RaterQuality:
    """What is known of one rater.

    Attributes:
        reliability: probability that a strict pair is ordered rightly (one-coin Dawid-Skene); n in comparisons.
        weight: of the rater's votes in training: 1 is always right, 0 a coin.
        left_wins: share of strict pairs won by the candidate shown earlier; 0.5 is unbiased; n in rankings.
        self_consistency: share of pairs answered alike when asked again; n in repeats.
        fast_share, slow_share: of the rater's votes, beyond the fences of all votes' times.
        careless: found to be clearly less reliable than the others; `findings` says why.
    """

    rater_id: str
    rankings: int
    reliability: Estimate
    weight: float
    gold_accuracy: Estimate
    left_wins: Estimate
    self_consistency: Estimate
    median_seconds: float
    fast_share: float
    slow_share: float
    careless: bool
    findings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Assessment:
    """Everything about the raters of a project at one high-water mark."""

    label_high_water_mark: int
    votes: int
    shared_comparisons: int
    agreement: Agreement
    raters: tuple[RaterQuality, ...]
    unknown_weight: float  # of raters that nothing is known about
