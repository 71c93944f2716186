"""Between database rows and the service's values."""

from __future__ import annotations

from typing import Any

from sqlalchemy import RowMapping

from preceptor.common.completions import Sampling
from preceptor.feedback.canonical import body_value, candidate_value, prompt_value
from preceptor.feedback.types import (
    AxisRating,
    Candidate,
    Comparison,
    ComparisonState,
    Lease,
    LeaseState,
    Project,
    ProjectSettings,
    Prompt,
    Ranking,
    RankingBody,
    Strength,
    TieGroups,
    Turn,
    VoteEvent,
    VoteKind,
)

_COMPARISON_PLAIN = (
    "comparison_id",
    "project_id",
    "prompt_id",
    "overlap",
    "priority",
    "run_id",
    "group_id",
    "control",
    "repeat_of",
    "gold",
    "rankings",
    "created_at",
    "digest",
    "only_rater",
)
_LEASE_PLAIN = (
    "lease_id",
    "project_id",
    "comparison_id",
    "rater_id",
    "slot",
    "guideline_version",
    "leased_at",
    "expires_at",
    "reason",
)


def project(row: RowMapping) -> Project:
    return Project(
        project_id=row["project_id"],
        title=row["title"],
        guidelines=row["text"],
        guideline_version=row["version"],
        default_overlap=row["default_overlap"],
        axes=tuple(row["axes"]),
        settings=ProjectSettings(**row["settings"]),
        created_at=row["created_at"],
    )


def comparison(row: RowMapping) -> Comparison:
    return Comparison(
        prompt=prompt(row["prompt"]),
        candidates=tuple(_candidate(value) for value in row["candidates"]),
        state=ComparisonState(row["state"]),
        gold_answer=tie_groups(row["gold_answer"]),
        **{name: row[name] for name in _COMPARISON_PLAIN},
    )


def comparison_row(value: Comparison) -> dict[str, Any]:
    plain = {name: getattr(value, name) for name in _COMPARISON_PLAIN}
    return plain | {
        "state": value.state.value,
        "prompt": prompt_value(value.prompt),
        "candidates": [candidate_value(candidate) for candidate in value.candidates],
        "gold_answer": [list(group) for group in value.gold_answer],
    }


def tie_groups(value: list[list[str]]) -> TieGroups:
    return tuple(tuple(group) for group in value)


def prompt(value: dict[str, Any]) -> Prompt:
    if "text" in value:
        return Prompt(text=value["text"])
    return Prompt(turns=tuple(Turn(turn["role"], turn["content"]) for turn in value["turns"]))


def _candidate(value: dict[str, Any]) -> Candidate:
    return Candidate(**{**value, "sampling": _sampling(value.get("sampling"))})


def _sampling(value: dict[str, Any] | None) -> Sampling | None:
    if value is None:
        return None
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
    return Sampling(**fields)


def lease(row: RowMapping) -> Lease:
    return Lease(
        state=LeaseState(row["state"]),
        shown_order=tuple(row["shown_order"]),
        **{name: row[name] for name in _LEASE_PLAIN},
    )


def lease_row(value: Lease) -> dict[str, Any]:
    plain = {name: getattr(value, name) for name in _LEASE_PLAIN}
    return plain | {"state": value.state.value, "shown_order": list(value.shown_order)}


def ranking(row: RowMapping) -> Ranking:
    return Ranking(
        event_id=row["event_id"],
        project_id=row["project_id"],
        comparison_id=row["comparison_id"],
        rater_id=row["rater_id"],
        body=_body(row["body"]),
        shown_order=tuple(row["shown_order"]),
        lease_id=row["lease_id"],
        shown_at=row["shown_at"],
        submitted_at=row["submitted_at"],
        guideline_version=row["guideline_version"],
        supersedes=row["target"] or "",
        late=row["late"],
        client=row["client"],
        sequence=row["sequence"],
    )


def _body(value: dict[str, Any]) -> RankingBody:
    strength = value.get("strength")
    return RankingBody(
        tie_groups=tie_groups(value["tie_groups"]),
        all_bad=value.get("all_bad", False),
        strength=None if strength is None else Strength(strength),
        axis_ratings=tuple(AxisRating(*rating) for rating in value.get("axis_ratings", ())),
        comment=value.get("comment", ""),
    )


def event(row: RowMapping) -> VoteEvent:
    kind = VoteKind(row["kind"])
    return VoteEvent(
        kind=kind,
        event_id=row["event_id"],
        project_id=row["project_id"],
        comparison_id=row["comparison_id"],
        rater_id=row["rater_id"],
        submitted_at=row["submitted_at"],
        target=row["target"] or "",
        request_digest=row["request_digest"],
        label_digest=row["label_digest"],
        ranking=ranking(row) if kind is VoteKind.RANKING else None,
        reason=row["reason"],
        sequence=row["sequence"],
    )


def event_row(value: VoteEvent) -> dict[str, Any]:
    vote = value.ranking
    return {
        "event_id": value.event_id,
        "kind": value.kind.value,
        "project_id": value.project_id,
        "comparison_id": value.comparison_id,
        "rater_id": value.rater_id,
        "target": value.target or None,
        "submitted_at": value.submitted_at,
        "reason": value.reason,
        "request_digest": value.request_digest,
        "label_digest": value.label_digest,
        "shown_at": vote.shown_at if vote else None,
        "late": vote.late if vote else False,
        "guideline_version": vote.guideline_version if vote else 0,
        "lease_id": vote.lease_id if vote else "",
        "client": vote.client if vote else "",
        "shown_order": list(vote.shown_order) if vote else [],
        "body": body_value(vote.body) if vote else {},
    }
