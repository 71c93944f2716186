"""From a live rollout group to a comparison: which completions raters are shown, and how many raters."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from enum import StrEnum

from preceptor.feedback.types import Candidate, Comparison, Prompt


@dataclass(frozen=True, slots=True)
class LiveGroup:
    """What the policy wrote to one prompt, each completion with its provenance; none when the group failed."""

    project_id: str
    run_id: str
    group_id: str
    prompt_id: str
    prompt: Prompt
    completions: tuple[Candidate, ...]
    control: bool


@dataclass(frozen=True, slots=True)
class MintingRules:
    max_candidates: int = 9
    overlap_share: float = 0.2
    overlap_raters: int = 3


class Refusal(StrEnum):
    """Why a group makes no comparison."""

    NO_COMPLETIONS = "no_completions"
    TOO_FEW_DISTINCT = "too_few_distinct"
    UNREADABLE_PROMPT = "unreadable_prompt"


def comparison_id_of(project_id: str, group_id: str) -> str:
    """The same for every delivery of the offer, so that a group is offered once."""
    return f"live-{hashlib.sha256(f'{project_id}/{group_id}'.encode()).hexdigest()[:32]}"


def mint(group: LiveGroup, rules: MintingRules) -> Comparison | Refusal:
    """The comparison of this group, or why there is none. Depends on nothing but its arguments.

    Identical texts are shown once. When more distinct ones exist than may be shown, a draw seeded by the group's
    id picks them: never the scores, so that what is ranked stays a fair sample of what the policy writes.
    """
    if not group.completions:
        return Refusal.NO_COMPLETIONS
    if group.prompt.text is None and not group.prompt.turns:
        return Refusal.UNREADABLE_PROMPT
    distinct = _distinct(group.completions)
    if len(distinct) < 2:
        return Refusal.TOO_FEW_DISTINCT
    comparison_id = comparison_id_of(group.project_id, group.group_id)
    if len(distinct) > rules.max_candidates:
        chosen = random.Random(comparison_id).sample(range(len(distinct)), rules.max_candidates)
        distinct = [distinct[i] for i in sorted(chosen)]
    return Comparison(
        comparison_id=comparison_id,
        project_id=group.project_id,
        prompt=group.prompt,
        prompt_id=group.prompt_id,
        candidates=tuple(distinct),
        overlap=rules.overlap_raters if _share(comparison_id) < rules.overlap_share else 0,
        run_id=group.run_id,
        group_id=group.group_id,
        control=group.control,
    )


def _distinct(completions: tuple[Candidate, ...]) -> list[Candidate]:
    """The first completion of each text."""
    first: dict[str, Candidate] = {}
    for completion in completions:
        first.setdefault(completion.text, completion)
    return list(first.values())


def _share(comparison_id: str) -> float:
    """A number in [0, 1), uniform over ids and fixed for each."""
    head = hashlib.sha256(f"overlap/{comparison_id}".encode()).digest()[:8]
    return int.from_bytes(head) / 2**64
