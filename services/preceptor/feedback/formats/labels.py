"""A row of a file as the comparison and the vote that it stands for, with ids that its content decides."""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from preceptor.api.common.v1 import text_pb2
from preceptor.api.feedback.v1 import feedback_pb2 as fb
from preceptor.api.feedback.v1 import feedback_service_pb2 as pb
from preceptor.common.errors import InvalidInput
from preceptor.feedback import canonical, converters, ranking, validation
from preceptor.feedback.formats.rows import Message, RowError
from preceptor.feedback.limits import TextLimits

CLIENT = "import"
_NAMESPACE = uuid.UUID("6f0c1b1e-52f5-5c0a-9d5a-0f3f1c6d7a11")
_LIMITS = TextLimits()


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """Attributes:
    rater_id: who voted, where the file does not say; a pseudonym.
    overlap: rankings wanted per comparison, where the file does not say.
    axes: those of the project; None where it is still to be made, with whatever axes the file rates.
    """

    project_id: str
    rater_id: str = "import"
    overlap: int = 1
    axes: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Label:
    """What one row says.

    Attributes:
        notes: what was odd about a row that is used nonetheless.
        not_carried: names of what the row holds and a vote cannot.
    """

    line: int
    comparison: fb.Comparison
    vote: pb.SubmitRankingRequest
    notes: tuple[str, ...] = ()
    not_carried: tuple[str, ...] = ()
    offset: int = 0


@dataclass(slots=True)
class Reading:
    """One pass over one file."""

    options: ImportOptions
    axes_rated: set[str] = field(default_factory=set)
    _seen: Counter[bytes] = field(default_factory=Counter)

    def occurrence(self, content: str) -> int:
        """How often rows with this content came before."""
        key = bytes.fromhex(content)[:16]
        self._seen[key] += 1
        return self._seen[key] - 1

    def knows_axis(self, axis: str) -> bool:
        return self.options.axes is None or axis in self.options.axes


@dataclass(frozen=True, slots=True)
class Ranked:
    """What a foreign row holds. tie_groups: indexes of texts, best group first. ratings: (axis, index, value)."""

    prompt: text_pb2.Prompt
    texts: Sequence[str]
    tie_groups: Sequence[Sequence[int]]
    ratings: Sequence[tuple[str, int, int]] = ()


def new_vote(reading: Reading, ranked: Ranked) -> tuple[fb.Comparison, pb.SubmitRankingRequest]:
    """Returns the comparison and the vote of a row that has no ids of its own.

    The ids follow from the content, so that a file may be imported again, in part or in another order. Rows of equal
    prompt and candidates are comparisons of their own, counted in file order: each is a vote of somebody.
    """
    prompt = canonical.prompt_value(converters.prompt(ranked.prompt))
    content = canonical.digest([reading.options.project_id, prompt, list(ranked.texts)])
    comparison_id = f"import-{canonical.digest([content, reading.occurrence(content)])[:32]}"
    names = [f"c{place}" for place, _ in enumerate(ranked.texts, start=1)]
    comparison = fb.Comparison(
        comparison_id=comparison_id,
        project_id=reading.options.project_id,
        prompt=ranked.prompt,
        prompt_id=canonical.digest(prompt)[:16],
        overlap=reading.options.overlap,
        candidates=[
            fb.Candidate(candidate_id=name, text=text, policy_version=-1)
            for name, text in zip(names, ranked.texts, strict=True)
        ],
    )
    groups = [[names[index] for index in sorted(group)] for group in ranked.tie_groups]
    ratings = sorted((axis, names[index], value) for axis, index, value in ranked.ratings)
    vote = pb.SubmitRankingRequest(
        event_id=derived_event_id(comparison_id, reading.options.rater_id, groups, ratings),
        comparison_id=comparison_id,
        rater_id=reading.options.rater_id,
        client=CLIENT,
        body=fb.RankingBody(
            tie_groups=[fb.TieGroup(candidate_ids=group) for group in groups],
            axis_ratings=[fb.AxisRating(axis=axis, candidate_id=name, value=value) for axis, name, value in ratings],
        ),
    )
    return comparison, vote


def new_preference(
    reading: Reading, prompt: text_pb2.Prompt, chosen: str, rejected: str
) -> tuple[fb.Comparison, pb.SubmitRankingRequest]:
    """As `new_vote`, for a pair. Its place tells nothing: the candidates stand in the order of their texts' digests.

    Raises:
        RowError: the two are the same.
    """
    if chosen == rejected:
        raise RowError("chosen equals rejected")
    texts = sorted((chosen, rejected), key=lambda text: hashlib.sha256(text.encode()).digest())
    groups = [[texts.index(chosen)], [texts.index(rejected)]]
    return new_vote(reading, Ranked(prompt, texts, groups))


def derived_event_id(*content: object) -> str:
    """The same UUID for the same content, for ever."""
    return str(uuid.uuid5(_NAMESPACE, canonical.digest(list(content))))


def text_prompt(text: str) -> text_pb2.Prompt:
    return text_pb2.Prompt(text=text)


def conversation(messages: Sequence[Message]) -> text_pb2.Prompt:
    turns = [text_pb2.Message(role=message["role"], content=message["content"]) for message in messages]
    return text_pb2.Prompt(conversation=text_pb2.Conversation(messages=turns))


def check(label: Label, reading: Reading) -> None:
    """Returns when the service will take the label, as far as that depends on the label alone.

    Raises:
        RowError: naming the field and what is allowed.
    """
    try:
        comparison = converters.comparison(label.comparison)
        submission = converters.submission(label.vote)
        validation.check_comparison(comparison, "comparison", _LIMITS)
        validation.check_event_id(submission.event_id, "event_id")
        validation.check_rater_id(submission.rater_id)
        validation.check_comment(submission.body, _LIMITS)
        rated = {rating.axis for rating in submission.body.axis_ratings}
        axes: Collection[str] = reading.options.axes if reading.options.axes is not None else rated
        for axis in rated:
            validation.check_id(axis, "axis", validation.AXIS, "lower case letters, digits and underscores, at most 40")
        ranking.check_body(submission.body, comparison.candidate_ids, axes)
    except InvalidInput as error:
        raise RowError(error.message) from error
    reading.axes_rated |= rated
