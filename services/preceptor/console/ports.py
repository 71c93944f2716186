"""What the console needs from the other services. The adapters implement these over `preceptor.clients`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from preceptor.console import rater_types, types


class FeedbackPort(Protocol):
    """The feedback service. Every method raises PreceptorError."""

    async def projects(self, page_size: int, page_token: str) -> types.ProjectPage: ...

    async def project(self, project_id: str) -> types.Project: ...

    async def lease(self, project_id: str, request: types.LeaseRequest) -> types.LeaseOffer: ...

    async def extend(self, lease_id: str, request: types.ExtendRequest) -> types.LeaseExtension: ...

    async def release(self, lease_id: str, request: types.ReleaseRequest) -> None: ...

    async def submit(self, request: types.RankingRequest, client: str) -> types.Ranking: ...

    async def retract(self, event_id: str, request: types.RetractRequest) -> types.Retraction: ...

    async def rankings(self, project_id: str, rater_id: str, page_size: int, page_token: str) -> types.RankingPage: ...

    async def comparison(self, comparison_id: str) -> types.ShownComparison: ...

    async def samples(self, project_id: str, limit: int) -> tuple[types.Sample, ...]:
        """At most `limit` completions that were offered for ranking, with their provenance."""
        ...

    async def stats(self, project_id: str) -> types.Stats: ...

    async def update_project(self, project_id: str, update: types.ProjectUpdate) -> types.Project: ...

    async def rater_report(self, project_id: str) -> rater_types.RaterReport: ...

    async def set_rater_state(
        self, project_id: str, rater_id: str, request: rater_types.RaterStateRequest
    ) -> rater_types.RaterState: ...

    async def demonstrate(
        self, project_id: str, request: rater_types.DemonstrationRequest
    ) -> rater_types.Demonstration: ...


class LoopPort(Protocol):
    """The conductor. Every method raises PreceptorError."""

    async def loops(self, page_size: int, page_token: str) -> types.LoopPage: ...

    async def loop(self, loop_id: str) -> types.Loop: ...

    async def runs(self, loop_id: str) -> tuple[types.Run, ...]: ...

    async def reward_models(self, page_size: int, page_token: str) -> types.RewardModelPage: ...

    def watch(self, loop_id: str, after_sequence: int) -> AsyncIterator[types.Event]:
        """The loop's events from `after_sequence` on, then live; ends when the loop ends."""
        ...


class SystemPort(Protocol):
    """Who runs, and how they are."""

    async def services(self) -> tuple[types.ServiceHealth, ...]: ...
