"""What goes wrong in a chaos run, and when: drawn from a seed."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

KINDS = ("kill", "freeze", "cut", "slow")
VARIANTS = {
    "kill": ("process", "child"),  # child: the largest of its own, where it has any
    "freeze": ("family", "process"),
    "cut": ("silent", "link"),
    "slow": ("cpu", "link"),
}
_SECOND_SHARE = 0.2  # of the rounds, two things go wrong at once


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong. hold_s: until the harness puts it right; a kill is put right by the supervisor."""

    kind: str
    variant: str
    victim: str
    hold_s: float

    def __str__(self) -> str:
        held = "" if self.kind == "kill" else f" for {self.hold_s:.1f} s"
        return f"{self.kind} ({self.variant}) {self.victim}{held}"


def plan(
    seed: int, kinds: Sequence[str], victims: Sequence[str], *, shortest_s: float, longest_s: float
) -> Iterator[tuple[Fault, ...]]:
    """Rounds without end. Every kind meets every victim before one of these pairs comes again."""
    draws = random.Random(seed)
    while True:
        pairs = [(kind, victim) for kind in kinds for victim in victims]
        draws.shuffle(pairs)
        for kind, victim in pairs:
            faults = [_fault(draws, kind, victim, shortest_s, longest_s)]
            others = [other for other in victims if other != victim]
            if others and draws.random() < _SECOND_SHARE:
                faults.append(_fault(draws, draws.choice(kinds), draws.choice(others), shortest_s, longest_s))
            yield tuple(faults)


def _fault(draws: random.Random, kind: str, victim: str, shortest_s: float, longest_s: float) -> Fault:
    hold_s = math.exp(draws.uniform(math.log(shortest_s), math.log(longest_s)))
    return Fault(kind, draws.choice(VARIANTS[kind]), victim, 0.0 if kind == "kill" else hold_s)
