"""What a rater gets next: an ordinary comparison, a gold item, or a repeat of what they ranked before."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from datetime import datetime
from enum import Enum

from preceptor.feedback import canonical
from preceptor.feedback.types import Comparison, ComparisonState, ProjectSettings, TieGroups

REPEAT_GAP = 10
"""A rater is not asked again before they ranked so many others."""
GOLD_OVERLAP = 100
"""Every rater may answer a gold item; this is the most rankings a comparison takes."""


class Kind(Enum):
    ORDINARY = "ordinary"
    GOLD = "gold"
    REPEAT = "repeat"


def draw(settings: ProjectSettings, rng: random.Random) -> Kind:
    """Which kind to try first; where there is none of it, the rater gets an ordinary one."""
    if settings.gold_rate == 0 and settings.repeat_rate == 0:
        return Kind.ORDINARY
    drawn = rng.random()
    if drawn < settings.gold_rate:
        return Kind.GOLD
    return Kind.REPEAT if drawn < settings.gold_rate + settings.repeat_rate else Kind.ORDINARY


def repeat_of(original: Comparison, rater_id: str, now: datetime) -> Comparison:
    """The same question to the same rater. Its id says nothing of what it is: raters see ids."""
    made = replace(
        original,
        comparison_id=_opaque_id("repeat", original.comparison_id, rater_id),
        overlap=1,
        repeat_of=original.comparison_id,
        only_rater=rater_id,
        state=ComparisonState.OPEN,
        rankings=0,
        created_at=now,
    )
    return replace(made, digest=canonical.comparison_digest(made))


def gold_of(original: Comparison, answer: TieGroups) -> Comparison:
    """A gold item that asks what `original` asked; the service fills in the rest."""
    return replace(
        original,
        comparison_id=_opaque_id("gold", original.comparison_id),
        overlap=GOLD_OVERLAP,
        gold=True,
        gold_answer=answer,
        run_id="",
        group_id="",
        control=False,
        state=ComparisonState.OPEN,
        rankings=0,
        created_at=None,
        digest="",
    )


def _opaque_id(*parts: str) -> str:
    return f"cmp-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:32]}"
