"""Stand-ins for the services behind the console, for tests of the console alone."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

from preceptor.common.errors import NotFound, PreceptorError
from preceptor.console import rater_types, types
from preceptor.console.feeds import LoopFeeds
from preceptor.console.service import Console

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
EVENT_ID = "8f14e45f-ceea-467f-a831-5e3b6f8a0b11"


def project(project_id: str = "demo", **changes: Any) -> types.Project:
    values = {
        "project_id": project_id,
        "title": "Replies",
        "guidelines": "Be **kind**.",
        "guideline_version": 3,
        "default_overlap": 1,
        "axes": (),
    }
    return types.Project(**{**values, **changes})


def comparison(*texts: str, comparison_id: str = "run-a/1") -> types.ShownComparison:
    candidates = tuple(types.ShownCandidate(candidate_id=f"c{index}", text=text) for index, text in enumerate(texts))
    prompt = (types.Message(role="prompt", content="Hello?"),)
    return types.ShownComparison(comparison_id=comparison_id, project_id="demo", prompt=prompt, candidates=candidates)


def ranking(request: types.RankingRequest, client: str) -> types.Ranking:
    return types.Ranking(
        event_id=request.event_id,
        sequence=1,
        project_id="demo",
        comparison_id=request.comparison_id,
        rater_id=request.rater_id,
        tie_groups=request.tie_groups,
        all_bad=request.all_bad,
        strength=request.strength,
        axis_ratings=request.axis_ratings,
        comment=request.comment,
        shown_order=(),
        shown_at=request.shown_at,
        submitted_at=NOW,
        guideline_version=3,
        supersedes=request.supersedes or "",
        late=False,
        client=client,
    )


def rater_report(project_id: str) -> rater_types.RaterReport:
    some = rater_types.Estimate(value=0.62, low=0.5, high=0.7, n=40)
    state = rater_types.RaterState(
        rater_id="amber-1", paused=True, reason="below the threshold", changed_by="service", changed_at=NOW
    )
    rater = rater_types.RaterQuality(
        rater_id="amber-1",
        rankings=44,
        reliability=some,
        weight=0.24,
        gold_accuracy=some,
        left_wins=some,
        self_consistency=rater_types.Estimate(value=0, low=0, high=0, n=0),
        median_seconds=9.5,
        fast_share=0.0,
        slow_share=0.1,
        careless=True,
        findings=("orders 62 % of pairs rightly",),
        state=state,
    )
    return rater_types.RaterReport(
        project_id=project_id,
        label_high_water_mark=8,
        rankings=44,
        shared_comparisons=40,
        krippendorff_alpha=some,
        fleiss_kappa=some,
        fleiss_raters=3,
        cohen_kappa=(rater_types.RaterPair(rater_a="amber-1", rater_b="birch-2", kappa=some),),
        raters=(rater,),
        unknown_weight=0.5,
    )


class FeedbackDouble:
    """Answers what a test put in; `error`, when set, is raised by every method."""

    def __init__(self) -> None:
        self.error: PreceptorError | None = None
        self.known = {"demo": project()}
        self.offer = types.LeaseOffer(lease=None, retry_after_seconds=2.5)
        self.submitted: list[tuple[types.RankingRequest, str]] = []
        self.released: list[tuple[str, types.ReleaseRequest]] = []
        self.shown: tuple[types.Sample, ...] = ()

    def _check(self) -> None:
        if self.error is not None:
            raise self.error

    async def projects(self, page_size: int, page_token: str) -> types.ProjectPage:
        self._check()
        return types.ProjectPage(projects=tuple(self.known.values())[:page_size], next_page_token="")

    async def project(self, project_id: str) -> types.Project:
        self._check()
        if project_id not in self.known:
            raise NotFound(f"there is no project {project_id}", field="project_id")
        return self.known[project_id]

    async def lease(self, project_id: str, request: types.LeaseRequest) -> types.LeaseOffer:
        self._check()
        return self.offer

    async def extend(self, lease_id: str, request: types.ExtendRequest) -> types.LeaseExtension:
        self._check()
        return types.LeaseExtension(expires_at=NOW + timedelta(minutes=5), expires_in_seconds=300)

    async def release(self, lease_id: str, request: types.ReleaseRequest) -> None:
        self._check()
        self.released.append((lease_id, request))

    async def submit(self, request: types.RankingRequest, client: str) -> types.Ranking:
        self._check()
        self.submitted.append((request, client))
        return ranking(request, client)

    async def retract(self, event_id: str, request: types.RetractRequest) -> types.Retraction:
        self._check()
        return types.Retraction(sequence=7)

    async def rankings(self, project_id: str, rater_id: str, page_size: int, page_token: str) -> types.RankingPage:
        self._check()
        return types.RankingPage(rankings=(), next_page_token="")

    async def comparison(self, comparison_id: str) -> types.ShownComparison:
        self._check()
        return comparison("a", "b", comparison_id=comparison_id)

    async def samples(self, project_id: str, limit: int) -> tuple[types.Sample, ...]:
        self._check()
        return self.shown[:limit]

    async def update_project(self, project_id: str, update: types.ProjectUpdate) -> types.Project:
        changed = update.model_dump(exclude_unset=True)
        self.known[project_id] = (await self.project(project_id)).model_copy(update=changed)
        return self.known[project_id]

    async def rater_report(self, project_id: str) -> rater_types.RaterReport:
        self._check()
        return rater_report(project_id)

    async def set_rater_state(
        self, project_id: str, rater_id: str, request: rater_types.RaterStateRequest
    ) -> rater_types.RaterState:
        self._check()
        return rater_types.RaterState(
            rater_id=rater_id, paused=request.paused, reason=request.reason, changed_by="admin", changed_at=NOW
        )

    async def demonstrate(
        self, project_id: str, request: rater_types.DemonstrationRequest
    ) -> rater_types.Demonstration:
        self._check()
        return rater_types.Demonstration(
            event_id=request.event_id,
            sequence=1,
            project_id=project_id,
            rater_id=request.rater_id,
            comparison_id=request.comparison_id,
            prompt=(),
            text=request.text,
        )

    async def stats(self, project_id: str) -> types.Stats:
        self._check()
        rater = types.RaterStats(rater_id="amber-1", rankings=4, median_seconds=9.5)
        return types.Stats(
            comparisons_open=3,
            comparisons_complete=5,
            rankings=8,
            leases_active=1,
            raters=(rater,),
            label_high_water_mark=8,
        )


def loop(loop_id: str = "demo", **changes: Any) -> types.Loop:
    stages = (
        stage("sft", "done", run_id="demo-sft"),
        stage("reward-1", "running", run_id="demo-reward-1", progress=0.4, message="step 4 of 10"),
        stage("rl-1", "pending"),
    )
    values = {
        "loop_id": loop_id,
        "state": "running",
        "stages": stages,
        "iteration": 1,
        "iterations": 2,
        "error": "",
        "created_at": NOW,
    }
    return types.Loop(**{**values, **changes})


def stage(name: str, state: str, **changes: Any) -> types.Stage:
    values = {
        "name": name,
        "state": state,
        "started_at": NOW,
        "finished_at": None,
        "run_id": "",
        "progress": 0.0,
        "message": "",
    }
    return types.Stage(**{**values, **changes})


def reward_model(version: int, **changes: Any) -> types.RewardModel:
    values = {
        "reward_model_version": version,
        "run_id": f"demo-reward-{version}",
        "project_id": "demo",
        "label_high_water_mark": 100 * version,
        "label_hash": "ab" * 32,
        "rankings": 100 * version,
        "heldout_accuracy": 0.6 + version / 100,
        "noise_ceiling": 0.75,
        "promoted": False,
        "gate": "passed",
        "created_at": NOW,
    }
    return types.RewardModel(**{**values, **changes})


def event(sequence: int, **changes: Any) -> types.Event:
    values = {"sequence": sequence, "time": NOW, "kind": "metric", "stage": "rl-1", "message": "", "values": {}}
    return types.Event(**{**values, **changes})


class LoopDouble:
    """A conductor whose events are `events`; `broken` makes the next watches fail after that many events each."""

    def __init__(self) -> None:
        self.error: PreceptorError | None = None
        self.known = {"demo": loop()}
        self.models: tuple[types.RewardModel, ...] = ()
        self.events: list[types.Event] = []
        self.broken: list[tuple[int, PreceptorError]] = []
        self.watched_after: list[int] = []
        self.live = False
        self.open_watches = 0

    def _check(self) -> None:
        if self.error is not None:
            raise self.error

    async def loops(self, page_size: int, page_token: str) -> types.LoopPage:
        self._check()
        return types.LoopPage(loops=tuple(self.known.values()), next_page_token="")

    async def loop(self, loop_id: str) -> types.Loop:
        self._check()
        if loop_id not in self.known:
            raise NotFound(f"there is no loop {loop_id}", field="loop_id")
        return self.known[loop_id]

    async def runs(self, loop_id: str) -> tuple[types.Run, ...]:
        self._check()
        return ()

    async def reward_models(self, page_size: int, page_token: str) -> types.RewardModelPage:
        self._check()
        return types.RewardModelPage(reward_models=self.models, next_page_token="")

    async def watch(self, loop_id: str, after_sequence: int) -> AsyncIterator[types.Event]:
        self._check()
        self.watched_after.append(after_sequence)
        count, error = self.broken.pop(0) if self.broken else (len(self.events), None)
        self.open_watches += 1
        try:
            for item in [item for item in self.events if item.sequence > after_sequence][:count]:
                yield item
            if error is not None:
                raise error
            if self.live:
                await asyncio.Event().wait()
        finally:
            self.open_watches -= 1


class SystemDouble:
    """One generator."""

    async def services(self) -> tuple[types.ServiceHealth, ...]:
        return (
            types.ServiceHealth(
                service="generation",
                instance="generation-0",
                address="127.0.0.1:7100",
                state="up",
                detail="run demo-rl",
            ),
        )


def console(feedback: FeedbackDouble, loops: LoopDouble) -> Console:
    feeds = LoopFeeds(loops, max_loops=2, idle_s=60, points_per_curve=100)
    return Console(feedback, loops, SystemDouble(), feeds)
