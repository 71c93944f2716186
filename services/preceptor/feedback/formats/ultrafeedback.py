"""UltraFeedback: {instruction, completions: [{response, annotations: {axis: {Rating}}, overall_score}]}.

Candidates are ranked by the mean of their ratings, those of equal mean tied, over the axes that rate all of them (as
the corrected binarised sets do), and by overall_score only where there are no such axes. Version 1 has 2,628
completions whose overall_score of 10 is wrong; such rows are noted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from preceptor.feedback.formats.labels import Label, Ranked, Reading, conversation, new_vote
from preceptor.feedback.formats.rows import Row, RowError, kind
from preceptor.feedback.validation import MAX_CANDIDATES, MIN_CANDIDATES

AXES = ("instruction_following", "honesty", "truthfulness", "helpfulness")
_RATINGS = range(1, 6)
_SCORES = (1.0, 10.0)
_NOT_RATED = {"", "N/A", "n/a", "None"}


@dataclass(frozen=True, slots=True)
class _Completion:
    response: str
    ratings: Mapping[str, int]
    overall_score: float | None


def read(row: Row, reading: Reading) -> Label:
    """Raises RowError naming the completion and the rating that is none of 1 to 5."""
    instruction = row.text("instruction")
    completions = _completions(row)
    rated = [axis for axis in AXES if all(axis in completion.ratings for completion in completions)]
    scores = [_score(completion, rated, place) for place, completion in enumerate(completions)]
    ratings = [
        (axis, place, value)
        for place, completion in enumerate(completions)
        for axis, value in completion.ratings.items()
        if reading.knows_axis(axis)
    ]
    ranked = Ranked(
        conversation([{"role": "user", "content": instruction}]),
        [completion.response for completion in completions],
        _tie_groups(scores),
        ratings,
    )
    comparison, vote = new_vote(reading, ranked)
    lost = _not_carried(row, completions, reading)
    return Label(row.line, comparison, vote, tuple(_notes(completions, rated)), lost, row.offset)


def _completions(row: Row) -> list[_Completion]:
    given = row.fields.get("completions")
    if not isinstance(given, list):
        raise RowError(f"`completions` must be a list, got {kind(given)}")
    if not MIN_CANDIDATES <= len(given) <= MAX_CANDIDATES:
        raise RowError(f"`completions` has {len(given)}; {MIN_CANDIDATES} to {MAX_CANDIDATES} can be ranked")
    return [_completion(f"completions[{place}]", item) for place, item in enumerate(given)]


def _completion(name: str, given: Any) -> _Completion:
    if not isinstance(given, dict) or not isinstance(given.get("response"), str):
        raise RowError(f"`{name}` must be an object with a `response`")
    annotations = given.get("annotations") or {}
    if not isinstance(annotations, dict):
        raise RowError(f"`{name}.annotations` must be an object, got {kind(annotations)}")
    ratings = {axis: _rating(f"{name}.annotations.{axis}", annotations.get(axis)) for axis in AXES}
    return _Completion(
        given["response"],
        {axis: value for axis, value in ratings.items() if value is not None},
        _overall_score(f"{name}.overall_score", given.get("overall_score")),
    )


def _rating(name: str, annotation: Any) -> int | None:
    if annotation is None:
        return None
    if not isinstance(annotation, dict):
        raise RowError(f"`{name}` must be an object with a Rating, got {kind(annotation)}")
    given = annotation.get("Rating")
    if given is None or (isinstance(given, str) and given.strip() in _NOT_RATED):
        return None
    text = given.strip() if isinstance(given, str) else str(given)
    if isinstance(given, bool) or not re.fullmatch(r"[0-9]{1,3}", text) or int(text) not in _RATINGS:
        raise RowError(f"`{name}.Rating` is {given!r:.40}; {_RATINGS[0]} to {_RATINGS[-1]} or N/A are allowed")
    return int(text)


def _overall_score(name: str, given: Any) -> float | None:
    if given is None:
        return None
    try:
        score = float(given) if isinstance(given, str | int | float) and not isinstance(given, bool) else None
    except (ValueError, OverflowError):
        score = None
    low, high = _SCORES
    if score is None or not low <= score <= high:
        raise RowError(f"`{name}` is {given!r:.40}; {low:g} to {high:g} is allowed")
    return score


def _score(completion: _Completion, rated: Sequence[str], place: int) -> float:
    if rated:
        return sum(completion.ratings[axis] for axis in rated)
    if completion.overall_score is None:
        raise RowError(f"`completions[{place}]` has no overall_score, and no axis rates all completions")
    return completion.overall_score


def _tie_groups(scores: Sequence[float]) -> list[list[int]]:
    return [[i for i, score in enumerate(scores) if score == level] for level in sorted(set(scores), reverse=True)]


def _notes(completions: Sequence[_Completion], rated: Sequence[str]) -> list[str]:
    notes = [] if rated else ["no axis rates all completions: ranked by overall_score"]
    for place, completion in enumerate(completions):
        values = completion.ratings.values()
        if completion.overall_score == _SCORES[1] and values and sum(values) <= 2 * len(values):
            notes.append(f"completions[{place}] has overall_score 10 and ratings of at most 2 on average")
    return notes


def _not_carried(row: Row, completions: Sequence[_Completion], reading: Reading) -> tuple[str, ...]:
    lost = {f"column {name}" for name in row.fields.keys() - {"instruction", "completions"}}
    for given in row.fields["completions"]:
        lost |= {f"{name} of completions" for name in given.keys() - {"response", "annotations"}}
        lost |= {f"axis {name}" for name in (given.get("annotations") or {}).keys() - set(AXES)}
        annotations = [item for item in (given.get("annotations") or {}).values() if isinstance(item, dict)]
        lost |= {f"{name} of annotations" for item in annotations for name in item.keys() - {"Rating"}}
    unknown = {axis for completion in completions for axis in completion.ratings if not reading.knows_axis(axis)}
    lost |= {f"axis {axis}, which the project does not have" for axis in unknown}
    return tuple(sorted(lost))
