"""What a request must satisfy before the database is asked. Every refusal names the field and the limit."""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Collection

from preceptor.common.errors import InvalidInput
from preceptor.feedback.limits import TextLimits
from preceptor.feedback.ranking import check_tie_groups
from preceptor.feedback.types import (
    Candidate,
    Comparison,
    Demonstration,
    Project,
    ProjectSettings,
    Prompt,
    RankingBody,
)

PROJECT_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
RATER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,62}")
ITEM_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,199}")
AXIS = re.compile(r"[a-z][a-z0-9_]{0,39}")

MIN_CANDIDATES = 2
MAX_CANDIDATES = 9
MAX_OVERLAP = 100
MAX_BATCH = 1000
MAX_PAGE = 1000
DEFAULT_PAGE = 100
MAX_AXES = 20
MAX_TURNS = 200
PRIORITY_LIMIT = 1_000_000
MAX_RATE = 0.5
MAX_PAUSE_AFTER = 10_000


def check_project(project: Project, limits: TextLimits) -> None:
    check_id(project.project_id, "project.project_id", PROJECT_ID, "lower case letters, digits and dashes, at most 63")
    check_text(project.title, "project.title", limits.label)
    check_text(project.guidelines, "project.guidelines", limits.guidelines)
    _check_overlap(project.default_overlap, "project.default_overlap")
    if len(project.axes) > MAX_AXES:
        raise wrong("project.axes", f"{len(project.axes)} axes; at most {MAX_AXES}")
    for index, axis in enumerate(project.axes):
        check_id(axis, f"project.axes[{index}]", AXIS, "lower case letters, digits and underscores, at most 40")
    if len(set(project.axes)) != len(project.axes):
        raise wrong("project.axes", "an axis is named twice")
    _check_settings(project.settings)


def _check_settings(settings: ProjectSettings) -> None:
    for name, highest in (
        ("gold_rate", MAX_RATE),
        ("repeat_rate", MAX_RATE),
        ("pause_below_reliability", 1.0),
        ("pause_below_gold_accuracy", 1.0),
    ):
        value = getattr(settings, name)
        if not 0 <= value <= highest:
            raise wrong(f"project.settings.{name}", f"{value} is outside 0..{highest:g}")
    if not 1 <= settings.pause_after <= MAX_PAUSE_AFTER:
        raise wrong("project.settings.pause_after", f"{settings.pause_after} is outside 1..{MAX_PAUSE_AFTER}")


def check_service(overlap: int | None, priority: int | None) -> None:
    """How often and how early a comparison is to be served; None: unchanged."""
    if overlap is not None:
        _check_overlap(overlap, "overlap")
    if priority is not None and abs(priority) > PRIORITY_LIMIT:
        raise wrong("priority", f"{priority} is outside -{PRIORITY_LIMIT}..{PRIORITY_LIMIT}")


def check_demonstration(demonstration: Demonstration, limits: TextLimits) -> None:
    check_event_id(demonstration.event_id, "event_id")
    check_rater_id(demonstration.rater_id)
    if demonstration.comparison_id:
        check_item_id(demonstration.comparison_id, "comparison_id")
    if not demonstration.text.strip():
        raise wrong("text", "is empty")
    if (size := len(demonstration.text.encode())) > limits.candidate:
        raise wrong("text", f"{size} bytes; at most {limits.candidate}")


def check_prompt(prompt: Prompt, where: str, limits: TextLimits) -> None:
    _check_prompt(prompt, where, limits)


def check_comparison(comparison: Comparison, where: str, limits: TextLimits) -> None:
    """Args:
    where: the comparison's place in the request, such as "comparisons[3]".
    """
    check_project_id(comparison.project_id, f"{where}.project_id")
    check_item_id(comparison.comparison_id, f"{where}.comparison_id")
    _check_prompt(comparison.prompt, f"{where}.prompt", limits)
    _check_candidates(comparison.candidates, f"{where}.candidates", limits)
    if comparison.overlap != 0:
        _check_overlap(comparison.overlap, f"{where}.overlap")
    if abs(comparison.priority) > PRIORITY_LIMIT:
        raise wrong(f"{where}.priority", f"{comparison.priority} is outside -{PRIORITY_LIMIT}..{PRIORITY_LIMIT}")
    for name in ("prompt_id", "run_id", "group_id", "repeat_of"):
        check_text(getattr(comparison, name), f"{where}.{name}", limits.label)
    _check_gold(comparison, where)
    if comparison.only_rater:
        check_id(comparison.only_rater, f"{where}.only_rater", RATER_ID, "a pseudonym, at most 63 characters")
    if comparison.repeat_of == comparison.comparison_id:
        raise wrong(f"{where}.repeat_of", "a comparison cannot repeat itself")


def _check_gold(comparison: Comparison, where: str) -> None:
    if not comparison.gold_answer:
        return
    if not comparison.gold:
        raise wrong(f"{where}.gold_answer", "only a gold item has one: set gold")
    check_tie_groups(comparison.gold_answer, comparison.candidate_ids, f"{where}.gold_answer")
    if len(comparison.gold_answer) < 2:
        raise wrong(f"{where}.gold_answer", "holds all candidates equal, which measures nobody")


def _check_prompt(prompt: Prompt, where: str, limits: TextLimits) -> None:
    if prompt.text is None and not prompt.turns:
        raise wrong(where, "set text or conversation: people cannot read token ids")
    if len(prompt.turns) > MAX_TURNS:
        raise wrong(f"{where}.conversation", f"{len(prompt.turns)} messages; at most {MAX_TURNS}")
    size = len((prompt.text or "").encode()) + sum(len((t.role + t.content).encode()) for t in prompt.turns)
    if size > limits.prompt:
        raise wrong(where, f"{size} bytes; at most {limits.prompt}")


def _check_candidates(candidates: tuple[Candidate, ...], where: str, limits: TextLimits) -> None:
    if not MIN_CANDIDATES <= len(candidates) <= MAX_CANDIDATES:
        raise wrong(where, f"{len(candidates)} candidates; {MIN_CANDIDATES} to {MAX_CANDIDATES} are allowed")
    seen: set[str] = set()
    for index, candidate in enumerate(candidates):
        check_item_id(candidate.candidate_id, f"{where}[{index}].candidate_id")
        if candidate.candidate_id in seen:
            raise wrong(f"{where}[{index}].candidate_id", f"{candidate.candidate_id!r} is there twice")
        seen.add(candidate.candidate_id)
        if (size := len(candidate.text.encode())) > limits.candidate:
            raise wrong(f"{where}[{index}].text", f"{size} bytes; at most {limits.candidate}")
        check_text(candidate.rollout_id, f"{where}[{index}].rollout_id", limits.label)


def check_comment(body: RankingBody, limits: TextLimits) -> None:
    if (size := len(body.comment.encode())) > limits.comment:
        raise wrong("body.comment", f"{size} bytes; at most {limits.comment}")


def check_event_id(event_id: str, field: str) -> None:
    """UUIDs only, in their canonical spelling: two spellings of one id would be two votes."""
    try:
        spelled: str | None = str(uuid.UUID(event_id))
    except ValueError:
        spelled = None
    if spelled != event_id:
        raise wrong(field, f"{event_id[:80]!r} is no UUID in lower case with dashes")


def check_project_id(project_id: str, field: str = "project_id") -> None:
    check_id(project_id, field, PROJECT_ID, "lower case letters, digits and dashes, at most 63")


def check_rater_id(rater_id: str) -> None:
    """No @ and no spaces: a rater is a pseudonym, never a mail address or a name."""
    check_id(rater_id, "rater_id", RATER_ID, "a pseudonym of letters, digits and . _ : -, at most 63")


def check_item_id(item_id: str, field: str) -> None:
    check_id(item_id, field, ITEM_ID, "letters, digits and . _ : / @ -, at most 200")


def check_id(value: str, field: str, pattern: re.Pattern[str], allowed: str) -> None:
    if not value:
        raise wrong(field, f"is missing; {allowed}")
    if not pattern.fullmatch(value):
        raise wrong(field, f"{value[:80]!r} is not allowed; {allowed}")


def check_text(value: str, field: str, limit_bytes: int) -> None:
    if (size := len(value.encode())) > limit_bytes:
        raise wrong(field, f"{size} bytes; at most {limit_bytes}")
    if "\x00" in value:
        raise wrong(field, "holds a NUL character")


def check_lease_seconds(seconds: float, default_s: float, max_s: float) -> float:
    """How long the lease shall last: the default where 0 was sent."""
    if not math.isfinite(seconds) or not 0 <= seconds <= max_s:
        raise wrong("lease_seconds", f"{seconds} is outside 0..{max_s:g} (0: {default_s:g})")
    return seconds or default_s


def check_page_size(page_size: int) -> int:
    if not 0 <= page_size <= MAX_PAGE:
        raise wrong("page_size", f"{page_size} is outside 0..{MAX_PAGE} (0: {DEFAULT_PAGE})")
    return page_size or DEFAULT_PAGE


def check_batch(items: Collection[object], field: str) -> None:
    if not 1 <= len(items) <= MAX_BATCH:
        raise wrong(field, f"{len(items)} items; 1 to {MAX_BATCH} are allowed")


def _check_overlap(overlap: int, field: str) -> None:
    if not 1 <= overlap <= MAX_OVERLAP:
        raise wrong(field, f"{overlap} is outside 1..{MAX_OVERLAP}")


def wrong(field: str, message: str) -> InvalidInput:
    return InvalidInput(f"{field}: {message}", field=field)
