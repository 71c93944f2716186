"""What people would have answered themselves: rows of supervised fine-tuning."""

from __future__ import annotations

from dataclasses import replace

from preceptor.common.errors import AlreadyExists, NotFound
from preceptor.feedback import canonical, validation
from preceptor.feedback.limits import Limits
from preceptor.feedback.service import Clock, require_comparison, require_project
from preceptor.feedback.store import Store, Transaction
from preceptor.feedback.types import Demonstration, Page, Prompt


class DemonstrationService:
    def __init__(self, store: Store, clock: Clock, limits: Limits) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits

    def submit(self, given: Demonstration) -> Demonstration:
        """Stores the demonstration and returns it; for a repeated event_id with the same body, the one stored first.

        Its prompt is the comparison's where none is given.

        Raises:
            InvalidInput: no text, or neither a prompt nor a comparison.
            NotFound: an unknown project or comparison.
            AlreadyExists: the event_id has another body.
        """
        validation.check_demonstration(given, self._limits.text)
        return self._store.write(lambda tx: self._submit(tx, given))

    def _submit(self, tx: Transaction, given: Demonstration) -> Demonstration:
        complete = self._complete(tx, given)
        if (known := tx.demonstration(given.event_id)) is not None:
            if canonical.demonstration_digest(known) != canonical.demonstration_digest(complete):
                raise AlreadyExists(
                    f"event_id: {given.event_id!r} is stored with another body",
                    field="event_id",
                    reason="EVENT_ID_CONFLICT",
                )
            return known
        return replace(complete, sequence=tx.add_demonstration(complete))

    def _complete(self, tx: Transaction, given: Demonstration) -> Demonstration:
        if given.comparison_id:
            comparison = require_comparison(tx.comparison(given.comparison_id), given.comparison_id)
            if given.project_id not in ("", comparison.project_id):
                raise NotFound(
                    f"comparison_id: there is no comparison {given.comparison_id!r} in {given.project_id!r}",
                    field="comparison_id",
                )
            given = replace(given, project_id=comparison.project_id)
            if given.prompt == Prompt():
                given = replace(given, prompt=comparison.prompt)
        validation.check_prompt(given.prompt, "prompt", self._limits.text)
        project = require_project(tx, given.project_id)
        return replace(given, guideline_version=project.guideline_version, submitted_at=self._clock())

    def list(self, project_id: str, after: int, page_size: int) -> Page[Demonstration]:
        """Oldest first."""
        limit = validation.check_page_size(page_size)

        def step(tx: Transaction) -> Page[Demonstration]:
            require_project(tx, project_id)
            return tx.demonstrations(project_id, after, limit)

        return self._store.read(step)
