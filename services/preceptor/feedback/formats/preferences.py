"""What a ranking says, in the simpler words of other formats: pairs, good and bad, best."""

from __future__ import annotations

from dataclasses import dataclass

from preceptor.api.common.v1 import text_pb2
from preceptor.api.feedback.v1 import feedback_pb2 as fb
from preceptor.common.errors import InvalidInput
from preceptor.common.preference_pairs import pairs_of
from preceptor.feedback.formats.losses import Losses
from preceptor.feedback.formats.rows import Message

Prompt = str | list[Message]


@dataclass(frozen=True, slots=True)
class Preference:
    prompt: Prompt
    chosen: str
    rejected: str


@dataclass(frozen=True, slots=True)
class Judged:
    """A completion and whether it is good."""

    prompt: Prompt
    completion: str
    good: bool


def prompt_of(proto: text_pb2.Prompt) -> Prompt:
    """Text, or the turns of a conversation."""
    if proto.WhichOneof("content") == "text":
        return proto.text
    return [{"role": message.role, "content": message.content} for message in proto.conversation.messages]


def as_messages(prompt: Prompt) -> list[Message]:
    """Plain text becomes one turn of the user."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def groups_of(item: fb.RankedComparison) -> list[list[fb.Candidate]]:
    """The tie groups, best first, as candidates.

    Raises:
        InvalidInput: a group names what is no candidate.
    """
    by_id = {candidate.candidate_id: candidate for candidate in item.comparison.candidates}
    try:
        return [[by_id[name] for name in group.candidate_ids] for group in item.ranking.body.tie_groups]
    except KeyError as error:
        raise InvalidInput(f"ranking {item.ranking.event_id}: {error} is no candidate of its comparison") from error


def preferences_of(item: fb.RankedComparison, losses: Losses) -> list[Preference]:
    """All pairs of a better and a worse candidate whose texts differ; K candidates without ties give K (K - 1) / 2."""
    groups = groups_of(item)
    texts = [candidate.text for group in groups for candidate in group]
    pairs = pairs_of(_places(groups))
    prompt = prompt_of(item.comparison.prompt)
    losses.vote(item, [candidate for group in groups for candidate in group])
    losses.count("all_bad", item.ranking.body.all_bad)
    losses.count("structure", len(texts) > 2)
    losses.count("ties", sum(pair.target == 0.5 for pair in pairs))
    strict = [Preference(prompt, texts[pair.first], texts[pair.second]) for pair in pairs if pair.target != 0.5]
    distinct = [preference for preference in strict if preference.chosen != preference.rejected]
    losses.count("same_text", len(strict) - len(distinct))
    return distinct


def judgements_of(item: fb.RankedComparison, losses: Losses) -> list[Judged]:
    """The best group is good and the worst bad; all are bad where the rater found none acceptable.

    A vote that holds all equal says neither, unless it is that all are bad.
    """
    groups = groups_of(item)
    prompt = prompt_of(item.comparison.prompt)
    if item.ranking.body.all_bad:
        judged = [(candidate, False) for group in groups for candidate in group]
    elif len(groups) < 2:
        losses.count("undecided")
        return []
    else:
        judged = [(candidate, True) for candidate in groups[0]] + [(candidate, False) for candidate in groups[-1]]
        losses.count("middle", sum(map(len, groups[1:-1])))
        losses.count("relative")
    losses.vote(item, [candidate for candidate, _ in judged])
    losses.count("structure", len(item.comparison.candidates) > 2)
    return [Judged(prompt, candidate.text, good) for candidate, good in judged]


def best_of(item: fb.RankedComparison, losses: Losses) -> list[Judged]:
    """The best group; nothing where the rater found none acceptable or all equal."""
    groups = groups_of(item)
    if item.ranking.body.all_bad:
        losses.count("all_bad_left_out")
        return []
    if len(groups) < 2:
        losses.count("undecided")
        return []
    losses.vote(item, groups[0])
    losses.count("worse", sum(map(len, groups[1:])))
    return [Judged(prompt_of(item.comparison.prompt), candidate.text, good=True) for candidate in groups[0]]


def _places(groups: list[list[fb.Candidate]]) -> list[list[int]]:
    """The groups as indexes into their own concatenation."""
    places: list[list[int]] = []
    start = 0
    for group in groups:
        places.append(list(range(start, start + len(group))))
        start += len(group)
    return places
