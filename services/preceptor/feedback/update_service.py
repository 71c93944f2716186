"""Changes to projects and comparisons that exist, and gold items made of what raters agree on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from preceptor.common.errors import NotFound
from preceptor.feedback import leasing, validation
from preceptor.feedback.limits import Limits
from preceptor.feedback.scheduling import gold_of
from preceptor.feedback.service import Created, FeedbackService, require_project
from preceptor.feedback.store import Store, Transaction
from preceptor.feedback.types import Comparison, ComparisonState, Project

GOLD_RATERS = 2
GOLD_ITEMS = 50

_CHANGES: dict[str, Callable[[Project, Project], dict[str, Any]]] = {
    "title": lambda old, new: {"title": new.title},
    "guidelines": lambda old, new: {"guidelines": new.guidelines},
    "default_overlap": lambda old, new: {"default_overlap": new.default_overlap},
    "axes": lambda old, new: {"axes": new.axes},
    "settings": lambda old, new: {"settings": new.settings},
}
_SETTINGS = ("gold_rate", "repeat_rate", "pause_below_reliability", "pause_below_gold_accuracy", "pause_after")


@dataclass(frozen=True, slots=True)
class ComparisonUpdate:
    """None: leave it as it is."""

    project_id: str
    comparison_ids: tuple[str, ...]
    overlap: int | None = None
    priority: int | None = None
    state: ComparisonState | None = None


class UpdateService:
    def __init__(self, store: Store, feedback: FeedbackService, limits: Limits) -> None:
        self._store = store
        self._feedback = feedback
        self._limits = limits

    def update_project(self, project: Project, paths: Sequence[str]) -> Project:
        """Changes what `paths` name and returns the project as stored; new guidelines become the next version.

        Raises:
            InvalidInput: a path that cannot be changed, a wrong value, or an axis taken away.
            NotFound: there is no such project.
        """
        if not paths:
            raise validation.wrong("update_mask", f"name what to change: {', '.join([*_CHANGES, 'settings.<field>'])}")

        def step(tx: Transaction) -> Project:
            tx.lock_project(project.project_id)
            stored = require_project(tx, project.project_id)
            changed = _changed(stored, project, paths)
            validation.check_project(changed, self._limits.text)
            if missing := [axis for axis in stored.axes if axis not in changed.axes]:
                raise validation.wrong("project.axes", f"{missing[0]!r} is there already and cannot be taken away")
            if changed.guidelines != stored.guidelines:
                changed = replace(changed, guideline_version=stored.guideline_version + 1)
                tx.add_guidelines(changed)
            tx.set_project(changed)
            return changed

        return self._store.write(step)

    def update_comparisons(self, update: ComparisonUpdate) -> list[Comparison]:
        """Changes all of them or none, and returns them as stored.

        Raises:
            InvalidInput: a wrong value, or nothing to change.
            NotFound: one of them is not there, or not in this project.
        """
        validation.check_batch(update.comparison_ids, "comparison_ids")
        validation.check_service(update.overlap, update.priority)
        if update.state is ComparisonState.COMPLETE:
            raise validation.wrong("state", "complete follows from the rankings; set open or closed")
        if update.overlap is None and update.priority is None and update.state is None:
            raise validation.wrong("overlap", "nothing to change: set overlap, priority or state")

        def step(tx: Transaction) -> list[Comparison]:
            require_project(tx, update.project_id)
            # In one order for everybody, so that two updates cannot deadlock.
            changed = {one: _updated(tx, one, update) for one in sorted(set(update.comparison_ids))}
            return [changed[one] for one in update.comparison_ids]

        return self._store.write(step)

    def mint_gold(self, project_id: str, min_raters: int = 0, max_items: int = 0) -> Created:
        """Makes gold items of comparisons that at least `min_raters` ranked, all alike and not all equal."""
        raters, items = min_raters or GOLD_RATERS, max_items or GOLD_ITEMS
        if not 1 <= raters <= validation.MAX_OVERLAP:
            raise validation.wrong("min_raters", f"{raters} is outside 1..{validation.MAX_OVERLAP}")
        if not 1 <= items <= validation.MAX_BATCH:
            raise validation.wrong("max_items", f"{items} is outside 1..{validation.MAX_BATCH}")

        def step(tx: Transaction) -> list[Comparison]:
            require_project(tx, project_id)
            return [gold_of(comparison, answer) for comparison, answer in tx.agreed(project_id, raters, items)]

        minted = self._store.read(step)
        return self._feedback.create_comparisons(minted) if minted else Created((), 0)


def _changed(stored: Project, given: Project, paths: Collection[str]) -> Project:
    changed = stored
    for path in paths:
        if path in _CHANGES:
            changed = replace(changed, **_CHANGES[path](stored, given))
        elif path.startswith("settings.") and (name := path.removeprefix("settings.")) in _SETTINGS:
            value = getattr(given.settings, name)
            changed = replace(changed, settings=replace(changed.settings, **{name: value}))
        else:
            allowed = ", ".join([*_CHANGES, *(f"settings.{name}" for name in _SETTINGS)])
            raise validation.wrong("update_mask", f"{path!r} cannot be changed; these can: {allowed}")
    return changed


def _updated(tx: Transaction, comparison_id: str, update: ComparisonUpdate) -> Comparison:
    stored = tx.lock_comparison(comparison_id)
    if stored is None or stored.project_id != update.project_id:
        raise NotFound(
            f"comparison_ids: there is no comparison {comparison_id!r} in {update.project_id!r}",
            field="comparison_ids",
        )
    changed = replace(
        stored,
        overlap=stored.overlap if update.overlap is None else update.overlap,
        priority=stored.priority if update.priority is None else update.priority,
        state=update.state or stored.state,
    )
    changed = replace(changed, state=leasing.state_after(changed, changed.rankings))
    tx.set_service(changed)
    return changed
