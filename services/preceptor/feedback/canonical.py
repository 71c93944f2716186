"""One spelling for every value, so that equal content has equal bytes, and SHA-256 over those bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from preceptor.feedback.types import (
    Candidate,
    Comparison,
    Demonstration,
    Project,
    Prompt,
    Ranking,
    RankingBody,
    Retraction,
    Submission,
)


def dumps(value: Any) -> str:
    """JSON with sorted keys, no spaces, ASCII only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256, in hexadecimal, of the canonical JSON."""
    return hashlib.sha256(dumps(value).encode()).hexdigest()


def prompt_value(prompt: Prompt) -> Any:
    if prompt.text is not None:
        return {"text": prompt.text}
    return {"turns": [{"role": turn.role, "content": turn.content} for turn in prompt.turns]}


def candidate_value(candidate: Candidate) -> dict[str, Any]:
    value: dict[str, Any] = {
        "candidate_id": candidate.candidate_id,
        "text": candidate.text,
        "policy_version": candidate.policy_version,
    }
    if candidate.rollout_id:
        value["rollout_id"] = candidate.rollout_id
    if candidate.truncated:
        value["truncated"] = True
    if candidate.sampling is not None:
        sampling = candidate.sampling
        value["sampling"] = {
            name: list(set_value) if isinstance(set_value, tuple) else set_value
            for name in sampling.__slots__
            if (set_value := getattr(sampling, name)) not in (None, ())
        }
    return value


def body_value(body: RankingBody) -> dict[str, Any]:
    """The body with whatever order carries no meaning brought into one: within tie groups and among axis ratings."""
    value: dict[str, Any] = {"tie_groups": [sorted(group) for group in body.tie_groups]}
    if body.all_bad:
        value["all_bad"] = True
    if body.strength is not None:
        value["strength"] = body.strength.value
    if body.axis_ratings:
        value["axis_ratings"] = sorted([r.axis, r.candidate_id, r.value] for r in body.axis_ratings)
    if body.comment:
        value["comment"] = body.comment
    return value


def content_value(comparison: Comparison) -> dict[str, Any]:
    """What a comparison asks, without how it is served."""
    value: dict[str, Any] = {
        "project_id": comparison.project_id,
        "prompt": prompt_value(comparison.prompt),
        "prompt_id": comparison.prompt_id,
        "candidates": [candidate_value(candidate) for candidate in comparison.candidates],
        "run_id": comparison.run_id,
        "group_id": comparison.group_id,
        "control": comparison.control,
        "repeat_of": comparison.repeat_of,
        "gold": comparison.gold,
    }
    if comparison.gold_answer:
        value["gold_answer"] = [sorted(group) for group in comparison.gold_answer]
    if comparison.only_rater:
        value["only_rater"] = comparison.only_rater
    return value


def comparison_digest(comparison: Comparison) -> str:
    """Tells a repeated CreateComparisons from a conflicting one.

    How often and how early a comparison is served is no part of it: these may change later, and so may the project's
    default that a redelivered offer would take.
    """
    return digest(content_value(comparison))


def derived_comparison_id(comparison: Comparison) -> str:
    """The id of a comparison that came without one."""
    return f"cmp-{comparison_digest(comparison)[:32]}"


def project_digest(project: Project) -> str:
    """Everything a maker of a project says, but the version of its guidelines and how it measures raters."""
    return digest([project.title, project.guidelines, project.default_overlap, list(project.axes)])


def demonstration_digest(demonstration: Demonstration) -> str:
    """What makes two submissions of one event_id the same demonstration."""
    names = (demonstration.project_id, demonstration.rater_id, demonstration.text, demonstration.comparison_id)
    return digest(["demonstration", *names, prompt_value(demonstration.prompt)])


def submission_digest(submission: Submission) -> str:
    """What makes two submissions of one event_id the same vote. How it travelled (lease, client, clock) does not."""
    return digest([submission.comparison_id, submission.rater_id, body_value(submission.body), submission.supersedes])


def retraction_digest(retraction: Retraction) -> str:
    """What makes two retractions of one event_id the same."""
    return digest(["retraction", retraction.retracts, retraction.rater_id, retraction.reason])


def label_digest(ranking: Ranking, comparison: Comparison) -> str:
    """SHA-256 of the ranking's line in the canonical export: the vote, and by its digest what was ranked."""
    return digest(
        {
            "event_id": ranking.event_id,
            "comparison_id": ranking.comparison_id,
            "comparison_digest": comparison.digest,
            "rater_id": ranking.rater_id,
            "body": body_value(ranking.body),
            "shown_order": list(ranking.shown_order),
            "guideline_version": ranking.guideline_version,
            "supersedes": ranking.supersedes,
            "late": ranking.late,
        }
    )


class LabelHash:
    """The label hash of a snapshot: SHA-256 over its lines' digests, each followed by a newline, in sequence order."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def update(self, label_digests: Iterable[str]) -> None:
        for label in label_digests:
            self._hash.update(label.encode() + b"\n")

    def hexdigest(self) -> str:
        return self._hash.hexdigest()
