"""What raters are measured by, whether they are given work, and their demonstrations, in SQL."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, RowMapping, insert, literal_column, select, update

from preceptor.feedback.adapters import rows
from preceptor.feedback.adapters.schema import MICROSECOND, comparisons, demonstrations, raters, vote_events
from preceptor.feedback.adapters.vote_queries import in_force
from preceptor.feedback.canonical import body_value, prompt_value
from preceptor.feedback.quality.types import QualityVote
from preceptor.feedback.types import Comparison, Demonstration, Page, RaterState, TieGroups

AGREED_PAGE = 500


class RaterQueries:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def quality_votes(self, project_id: str, high_water_mark: int, limit: int) -> list[QualityVote]:
        votes, asked = vote_events.c, comparisons.c
        query = (
            select(
                votes.comparison_id,
                votes.rater_id,
                votes.body,
                votes.shown_order,
                votes.shown_at,
                votes.submitted_at,
                asked.gold_answer,
                asked.repeat_of,
            )
            .join(comparisons, asked.comparison_id == votes.comparison_id)
            .where(votes.project_id == project_id, votes.sequence <= high_water_mark, *in_force(high_water_mark))
            .order_by(votes.sequence.desc())
            .limit(limit)
        )
        found = [_quality_vote(row) for row in self._connection.execute(query).mappings()]
        return found[::-1]

    def agreed(self, project_id: str, min_raters: int, limit: int) -> list[tuple[Comparison, TieGroups]]:
        ranked_by_enough = (
            select(comparisons)
            .where(
                comparisons.c.project_id == project_id,
                comparisons.c.rankings >= min_raters,
                comparisons.c.gold.is_(False),
                comparisons.c.repeat_of == "",
            )
            .order_by(comparisons.c.position)
        )
        agreed: list[tuple[Comparison, TieGroups]] = []
        for row in self._connection.execute(ranked_by_enough).mappings().partitions(AGREED_PAGE):
            for one in row:
                comparison = rows.comparison(one)
                answers = self._answers(comparison.comparison_id)
                if len(answers) == 1 and len(next(iter(answers))) > 1:
                    agreed.append((comparison, answers.pop()))
                if len(agreed) == limit:
                    return agreed
        return agreed

    def _answers(self, comparison_id: str) -> set[TieGroups]:
        query = select(vote_events).where(vote_events.c.comparison_id == comparison_id, *in_force())
        votes = [rows.ranking(row) for row in self._connection.execute(query).mappings()]
        return {rows.tie_groups(body_value(vote.body)["tie_groups"]) for vote in votes}

    def to_repeat(self, project_id: str, rater_id: str, gap: int) -> tuple[Comparison, tuple[str, ...]] | None:
        repeat = comparisons.alias("repeat")
        repeated = (
            select(repeat.c.position)
            .where(
                repeat.c.repeat_of != literal_column("''"),  # a literal, for the partial index
                repeat.c.repeat_of == vote_events.c.comparison_id,
                repeat.c.only_rater == rater_id,
            )
            .correlate(vote_events)
            .exists()
        )
        query = (
            select(comparisons, vote_events.c.shown_order)
            .join(vote_events, vote_events.c.comparison_id == comparisons.c.comparison_id)
            .where(
                vote_events.c.project_id == project_id,
                vote_events.c.rater_id == rater_id,
                *in_force(),
                comparisons.c.gold.is_(False),
                comparisons.c.repeat_of == "",
                ~repeated,
            )
            .order_by(vote_events.c.sequence.desc())
            .offset(gap)
            .limit(1)
        )
        row = self._connection.execute(query).mappings().first()
        return None if row is None else (rows.comparison(row), tuple(row["shown_order"]))

    def rater_state(self, project_id: str, rater_id: str) -> RaterState | None:
        query = select(raters).where(raters.c.project_id == project_id, raters.c.rater_id == rater_id)
        row = self._connection.execute(query).mappings().first()
        return None if row is None else RaterState(**row)

    def rater_states(self, project_id: str) -> dict[str, RaterState]:
        query = select(raters).where(raters.c.project_id == project_id)
        return {row["rater_id"]: RaterState(**row) for row in self._connection.execute(query).mappings()}

    def set_rater_state(self, state: RaterState) -> None:
        values = {name: getattr(state, name) for name in ("paused", "reason", "changed_by", "changed_at")}
        known = (raters.c.project_id == state.project_id, raters.c.rater_id == state.rater_id)
        if self._connection.execute(update(raters).where(*known).values(**values)).rowcount == 0:
            given = {"project_id": state.project_id, "rater_id": state.rater_id, **values}
            self._connection.execute(insert(raters), given)

    def demonstration(self, event_id: str) -> Demonstration | None:
        query = select(demonstrations).where(demonstrations.c.event_id == event_id)
        row = self._connection.execute(query).mappings().first()
        return None if row is None else _demonstration(row)

    def add_demonstration(self, demonstration: Demonstration) -> int:
        names = ("event_id", "project_id", "rater_id", "comparison_id", "guideline_version", "submitted_at", "text")
        given: dict[str, Any] = {name: getattr(demonstration, name) for name in names}
        given["prompt"] = prompt_value(demonstration.prompt)
        key = self._connection.execute(insert(demonstrations), given).inserted_primary_key
        assert key is not None  # an insert of one row has one
        return int(key[0])

    def demonstrations(self, project_id: str, after: int, limit: int) -> Page[Demonstration]:
        query = (
            select(demonstrations)
            .where(demonstrations.c.project_id == project_id, demonstrations.c.sequence > after)
            .order_by(demonstrations.c.sequence)
            .limit(limit + 1)
        )
        found = [_demonstration(row) for row in self._connection.execute(query).mappings()]
        return Page(tuple(found[:limit]), found[limit - 1].sequence if len(found) > limit else None)


def _quality_vote(row: RowMapping) -> QualityVote:
    return QualityVote(
        comparison_id=row["comparison_id"],
        rater_id=row["rater_id"],
        tie_groups=rows.tie_groups(row["body"]["tie_groups"]),
        shown_order=tuple(row["shown_order"]),
        seconds=max(0.0, (row["submitted_at"] - row["shown_at"]) / MICROSECOND / 1e6),
        gold_answer=rows.tie_groups(row["gold_answer"]),
        repeat_of=row["repeat_of"],
    )


def _demonstration(row: RowMapping) -> Demonstration:
    return Demonstration(**{**row, "prompt": rows.prompt(row["prompt"])})
