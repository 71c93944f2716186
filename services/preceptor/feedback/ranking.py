"""The algebra of rankings: a ranking is a weak order of the candidates, written as tie groups, best first."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from preceptor.common.errors import InvalidInput
from preceptor.feedback.types import RankingBody, TieGroups

AXIS_MIN = 1
AXIS_MAX = 7


def check_body(body: RankingBody, candidate_ids: Collection[str], axes: Collection[str]) -> None:
    """Returns when the body is an answer to the comparison.

    Raises:
        InvalidInput: naming the field: a candidate that stands in no tie group or in two, an unknown candidate, an
            empty group, an axis the project does not have, a value outside 1..7, a rating given twice.
    """
    check_tie_groups(body.tie_groups, candidate_ids, "body.tie_groups")
    rated: set[tuple[str, str]] = set()
    for index, rating in enumerate(body.axis_ratings):
        where = f"body.axis_ratings[{index}]"
        if rating.axis not in axes:
            raise _wrong(f"{where}.axis", f"{rating.axis!r} is no axis of the project; it has {_listed(axes)}")
        if rating.candidate_id not in candidate_ids:
            raise _unknown(f"{where}.candidate_id", rating.candidate_id, candidate_ids)
        if not AXIS_MIN <= rating.value <= AXIS_MAX:
            raise _wrong(f"{where}.value", f"{rating.value} is outside {AXIS_MIN}..{AXIS_MAX}")
        if (rating.axis, rating.candidate_id) in rated:
            raise _wrong(where, f"{rating.candidate_id!r} is rated twice on {rating.axis!r}")
        rated.add((rating.axis, rating.candidate_id))


def check_tie_groups(groups: TieGroups, candidate_ids: Collection[str], field: str) -> None:
    """Returns when every candidate stands in exactly one group and no group is empty; InvalidInput otherwise."""
    seen: set[str] = set()
    for index, group in enumerate(groups):
        where = f"{field}[{index}]"
        if not group:
            raise _wrong(where, "the group is empty")
        for candidate_id in group:
            if candidate_id not in candidate_ids:
                raise _unknown(where, candidate_id, candidate_ids)
            if candidate_id in seen:
                raise _wrong(where, f"{candidate_id!r} stands in more than one place; each candidate has one")
            seen.add(candidate_id)
    missing = [candidate_id for candidate_id in candidate_ids if candidate_id not in seen]
    if missing:
        raise _wrong(field, f"{_listed(missing)} stands in no group; every candidate needs one")


def canonical(body: RankingBody) -> RankingBody:
    """The same answer with tie groups and axis ratings in one fixed order, where their order says nothing."""
    return replace(
        body,
        tie_groups=tuple(tuple(sorted(group)) for group in body.tie_groups),
        axis_ratings=tuple(sorted(body.axis_ratings, key=lambda r: (r.axis, r.candidate_id))),
    )


def _unknown(field: str, candidate_id: str, candidate_ids: Collection[str]) -> InvalidInput:
    return _wrong(field, f"{candidate_id!r} is no candidate of this comparison; it has {_listed(candidate_ids)}")


def _listed(names: Collection[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"


def _wrong(field: str, message: str) -> InvalidInput:
    return InvalidInput(f"{field}: {message}", field=field)
