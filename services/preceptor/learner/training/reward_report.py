"""What a reward model is worth, on held-out labels: for whom, where, how sure, and how far it goes by length."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

_BINS = 10
_Z95 = 1.959963984540054
_SHORTEST_GAP = 0.1  # of the longer text; nearer lengths count as equal


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """A held-out pair that a rater did not tie.

    margin: raw score of the chosen candidate minus that of the rejected one, in log-odds. lengths in characters.
    policy_version: of the chosen candidate; -1 where no policy wrote it.
    """

    rater: str
    strength: str
    chosen_length: int
    rejected_length: int
    policy_version: int
    margin: float


@dataclass(frozen=True, slots=True)
class Share:
    """right of n, with its 95 % Wilson interval."""

    right: float
    n: int

    def json(self) -> dict[str, float | int | None]:
        """Returns {accuracy, low, high, n}; accuracy None without a pair."""
        if not self.n:
            return {"accuracy": None, "low": 0.0, "high": 1.0, "n": 0}
        low, high = wilson_interval(self.right, self.n)
        return {"accuracy": self.right / self.n, "low": low, "high": high, "n": self.n}


def report_of(pairs: Sequence[JudgedPair], scores: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """Returns the report as JSON.

    Args:
        pairs: held out, untied.
        scores: (length, raw score) of every held-out candidate.
    """
    return {
        "accuracy": _share(pairs).json(),
        "by_rater": _by(pairs, lambda pair: pair.rater),
        "by_strength": _by(pairs, lambda pair: pair.strength),
        "by_policy_version": _by(pairs, lambda pair: str(pair.policy_version)),
        "by_length_gap": _by(pairs, _length_gap),
        "calibration": calibration(pairs),
        "length_bias": length_bias(pairs, scores),
    }


def calibration(pairs: Sequence[JudgedPair]) -> dict[str, Any]:
    """Returns {ece, bins: [{confidence, accuracy, n}]}.

    A pair's confidence is sigmoid(|margin|), in [0.5, 1]; the expected calibration error is the mean over pairs of
    |accuracy - confidence| of the pair's bin, ten bins of equal width (Guo et al. 2017, arXiv 1706.04599).
    """
    bins: list[list[tuple[float, float]]] = [[] for _ in range(_BINS)]
    for pair in pairs:
        confidence = 1.0 / (1.0 + math.exp(-min(abs(pair.margin), 700.0)))
        place = min(_BINS - 1, int((confidence - 0.5) * 2 * _BINS))
        bins[place].append((confidence, _right(pair)))
    shown, error = [], 0.0
    for members in filter(None, bins):
        confidence = sum(c for c, _ in members) / len(members)
        accuracy = sum(r for _, r in members) / len(members)
        error += len(members) * abs(accuracy - confidence)
        shown.append({"confidence": confidence, "accuracy": accuracy, "n": len(members)})
    return {"ece": error / len(pairs) if pairs else None, "bins": shown}


def length_bias(pairs: Sequence[JudgedPair], scores: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """Returns how the model goes by length beside how the raters do.

    score_length_correlation: Pearson, over candidates. rater_prefers_longer, model_prefers_longer: shares of the pairs
    with a gap in length. accuracy_longer_chosen and accuracy_shorter_chosen: of those pairs, by what the rater chose.
    """
    apart = [pair for pair in pairs if _length_gap(pair) != "about equal"]
    longer = [pair for pair in apart if pair.chosen_length > pair.rejected_length]
    shorter = [pair for pair in apart if pair.chosen_length < pair.rejected_length]
    model_longer = sum(_right(p) for p in longer) + sum(1.0 - _right(p) for p in shorter)
    return {
        "score_length_correlation": correlation([float(length) for length, _ in scores], [s for _, s in scores]),
        "rater_prefers_longer": len(longer) / len(apart) if apart else None,
        "model_prefers_longer": model_longer / len(apart) if apart else None,
        "accuracy_longer_chosen": _share(longer).json(),
        "accuracy_shorter_chosen": _share(shorter).json(),
    }


def doubling_gain(points: Sequence[tuple[int, float]]) -> float | None:
    """Returns the accuracy that twice the labels are expected to add: the last doubling's gain, shrunk as it shrank.

    Args:
        points: (labels, held-out accuracy), each with about twice the labels of the one before; None below two.
    """
    if len(points) < 2:
        return None
    gains = [after - before for (_, before), (_, after) in pairwise(points)]
    last = max(gains[-1], 0.0)
    if len(gains) < 2 or gains[-2] <= 0:
        return last / 2
    return last * min(last / gains[-2], 1.0)


def wilson_interval(right: float, n: int) -> tuple[float, float]:
    """Returns the 95 % score interval of a share (Wilson 1927)."""
    share, z2 = right / n, _Z95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def correlation(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Returns Pearson's correlation; None where one side does not vary."""
    if len(xs) < 2:
        return None
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    var_x, var_y = sum((x - mean_x) ** 2 for x in xs), sum((y - mean_y) ** 2 for y in ys)
    if var_x <= 0 or var_y <= 0:
        return None
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / math.sqrt(var_x * var_y)


def _by(pairs: Sequence[JudgedPair], key: Callable[[JudgedPair], str]) -> dict[str, Any]:
    groups: dict[str, list[JudgedPair]] = defaultdict(list)
    for pair in pairs:
        groups[key(pair)].append(pair)
    return {name: _share(groups[name]).json() for name in sorted(groups)}


def _share(pairs: Iterable[JudgedPair]) -> Share:
    rights = [_right(pair) for pair in pairs]
    return Share(sum(rights), len(rights))


def _right(pair: JudgedPair) -> float:
    """1 where the model orders the pair as the rater did; half of it for equal scores."""
    return 0.5 if pair.margin == 0 else float(pair.margin > 0)


def _length_gap(pair: JudgedPair) -> str:
    gap = pair.chosen_length - pair.rejected_length
    if abs(gap) <= _SHORTEST_GAP * max(pair.chosen_length, pair.rejected_length):
        return "about equal"
    return "chosen longer" if gap > 0 else "chosen shorter"
