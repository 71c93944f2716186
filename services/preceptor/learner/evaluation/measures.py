"""What an evaluation reports."""

import math
from collections.abc import Sequence


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Returns the probability that at least one of k samples passes, estimated without bias from `samples` of which
    `passed` passed: 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374, eq. 1).
    """
    if not 1 <= k <= samples:
        raise ValueError(f"k must lie in [1, {samples}], got {k}")
    return 1.0 - math.comb(samples - passed, k) / math.comb(samples, k)


def win_rate(scores: Sequence[Sequence[float]], reference: Sequence[Sequence[float]]) -> float:
    """Returns how often a completion scores above one of the reference for the same prompt, all pairs of a prompt
    counted, ties as half; the mean over prompts.
    """
    rates = [
        sum((ours > theirs) + 0.5 * (ours == theirs) for ours in mine for theirs in other) / (len(mine) * len(other))
        for mine, other in zip(scores, reference, strict=True)
    ]
    return sum(rates) / len(rates)


def evaluation_metrics(
    scores: Sequence[Sequence[float]], lengths: Sequence[Sequence[int]], *, pass_threshold: float | None
) -> dict[str, float]:
    """Returns means over prompts and samples: eval/reward_mean, eval/reward_sd, eval/length, eval/pass@k for k = 1, 2,
    4, … up to the samples of a prompt.
    """
    flat = [score for row in scores for score in row]
    mean = sum(flat) / len(flat)
    metrics = {
        "eval/reward_mean": mean,
        "eval/reward_sd": math.sqrt(sum((score - mean) ** 2 for score in flat) / len(flat)),
        "eval/length": sum(sum(row) for row in lengths) / len(flat),
    }
    if pass_threshold is None:
        return metrics
    passed = [(len(row), sum(score >= pass_threshold for score in row)) for row in scores]
    k = 1
    while k <= min(count for count, _ in passed):
        metrics[f"eval/pass@{k}"] = sum(pass_at_k(n, c, k) for n, c in passed) / len(passed)
        k *= 2
    return metrics
