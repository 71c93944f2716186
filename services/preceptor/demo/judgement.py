"""How a simulated rater judges: the gold score through their own noise. Pure; the process around it is raters.py."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from preceptor.demo.gold import REFERENCE_SD, gold_score

LabelMode = Literal["true", "flipped", "shuffled"]

TIE_WITHIN = 0.05
ALL_BAD_BELOW = -1.5
CLEAR_GAP, STRONG_GAP = 0.5, 1.5


@dataclass(frozen=True, slots=True)
class RaterProfile:
    """A rater's character. noise_sd: in units of the corpus's gold SD; careless_share: answers given at random."""

    rater_id: str
    noise_sd: float
    careless_share: float = 0.0


RATERS = (
    RaterProfile("rater-precise", 0.35),
    RaterProfile("rater-hasty", 0.8),
    RaterProfile("rater-careless", 0.8, careless_share=0.4),
)


@dataclass(frozen=True, slots=True)
class Judgement:
    """A ranking by candidate index, best group first. strength of the best group over the rest: 1 slight, 2 clear, 3
    strong."""

    tie_groups: tuple[tuple[int, ...], ...]
    all_bad: bool
    strength: int


def judge(
    profile: RaterProfile, prompt: str, completions: Sequence[str], labels: LabelMode, rng: random.Random
) -> Judgement:
    """Ranks the completions as this rater sees them.

    flipped: the worst is called best. shuffled: the rater's values are dealt to the candidates at random, so that the
    rankings look alike and mean nothing.
    """
    gold = [gold_score(prompt, text) / REFERENCE_SD for text in completions]
    if rng.random() < profile.careless_share:
        values = [rng.gauss(0.0, 1.0) for _ in gold]
    else:
        values = [value + rng.gauss(0.0, profile.noise_sd) for value in gold]
    if labels == "flipped":
        values = [-value for value in values]
    elif labels == "shuffled":
        rng.shuffle(values)
    return _rank(values)


def _rank(values: Sequence[float]) -> Judgement:
    order = sorted(range(len(values)), key=lambda i: -values[i])
    groups: list[list[int]] = [[order[0]]]
    for index in order[1:]:
        if values[groups[-1][0]] - values[index] <= TIE_WITHIN:
            groups[-1].append(index)
        else:
            groups.append([index])
    gap = values[groups[0][0]] - values[groups[1][0]] if len(groups) > 1 else 0.0
    strength = 3 if gap >= STRONG_GAP else 2 if gap >= CLEAR_GAP else 1
    return Judgement(tuple(tuple(group) for group in groups), values[order[0]] < ALL_BAD_BELOW, strength)
