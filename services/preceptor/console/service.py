"""What the console's pages show, gathered from the other services. One of them being down leaves a gap that says so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from preceptor.common.errors import PreceptorError, Unavailable
from preceptor.console.charts import Chart, draw
from preceptor.console.curves import Curve, CurveBook
from preceptor.console.feeds import LoopFeed, LoopFeeds
from preceptor.console.ports import FeedbackPort, LoopPort, SystemPort
from preceptor.console.rater_types import RaterReport
from preceptor.console.types import (
    Event,
    Loop,
    Project,
    RewardModel,
    RewardModelPage,
    Run,
    Sample,
    ServiceHealth,
    Stats,
)

T = TypeVar("T")
PAGE_SIZE = 100
SAMPLES_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Outage:
    """A service that gave no answer: its name, and one sentence on what to do."""

    service: str
    advice: str


@dataclass(frozen=True, slots=True)
class Part(Generic[T]):
    """One part of a page: a value, or why it is missing."""

    value: T
    outage: Outage | None = None


@dataclass(frozen=True, slots=True)
class LoopView:
    """Everything the loop page shows of one loop."""

    loop_id: str
    loop: Loop | None
    runs: tuple[Run, ...]
    reward_models: tuple[RewardModel, ...]
    charts: tuple[Chart, ...]
    more_charts: tuple[Chart, ...]
    recent: tuple[Event, ...]
    project: Project | None
    stats: Stats | None
    samples: tuple[tuple[int, tuple[Sample, ...]], ...]
    services: tuple[ServiceHealth, ...]
    outages: tuple[Outage, ...]


@dataclass(frozen=True, slots=True)
class ProjectView:
    """Everything the admin page shows of one project."""

    project: Project
    stats: Stats
    report: RaterReport


@dataclass(frozen=True, slots=True)
class ChartSpec:
    """Which curves make one chart: (curve name, what the legend calls it)."""

    title: str
    note: str
    curves: tuple[tuple[str, str], ...]


CHARTS = (
    ChartSpec(
        "Gold score",
        "What the hidden gold preference gives, where it is known.",
        (("gold", "gold"), ("gold/mean", "gold")),
    ),
    ChartSpec(
        "Proxy reward",
        "What the reward model gives to new completions.",
        (("objective/scores", "score"), ("objective/rlhf_reward", "score less KL penalty")),
    ),
    ChartSpec(
        "KL to the reference",
        "How far the policy has moved: k1, summed over a completion.",
        (("objective/kl", "KL"),),
    ),
    ChartSpec(
        "Rankings",
        "Rankings in force against those wanted, over the time since the loop began.",
        (("rankings", "rankings"), ("target", "wanted")),
    ),
    ChartSpec("Training loss", "Of supervised tuning and of reward models.", (("loss", "loss"),)),
    ChartSpec(
        "Engine against learner",
        "Mean absolute difference of log-probabilities on current-version rollouts.",
        (("mismatch/logprob_abs_mean", "difference"),),
    ),
)
X_LABELS = {"policy_version": "policy version", "step": "step", "minutes": "minutes"}
MOST_LINES = 4


class Console:
    """The use cases behind the pages and the REST interface."""

    def __init__(self, feedback: FeedbackPort, loops: LoopPort, system: SystemPort, feeds: LoopFeeds) -> None:
        self.feedback = feedback
        self.loops = loops
        self.system = system
        self._feeds = feeds

    async def projects(self) -> Part[tuple[Project, ...]]:
        """The projects, or none and the outage."""
        part = await attempt("feedback", self.feedback.projects(PAGE_SIZE, ""), None)
        return Part(part.value.projects if part.value else (), part.outage)

    async def loop_list(self) -> Part[tuple[Loop, ...]]:
        """The loops, newest first as the conductor has them, or none and the outage."""
        part = await attempt("conductor", self.loops.loops(PAGE_SIZE, ""), None)
        return Part(part.value.loops if part.value else (), part.outage)

    async def overview(self) -> Part[tuple[tuple[Project, Stats], ...]]:
        """Every project with where it stands, or none and the outage."""
        projects = await self.projects()
        if projects.outage:
            return Part((), projects.outage)
        stats = await asyncio.gather(*(self.feedback.stats(project.project_id) for project in projects.value))
        return Part(tuple(zip(projects.value, stats, strict=True)))

    async def project_view(self, project_id: str) -> ProjectView:
        """Gathers a project's admin page."""
        project, stats, report = await asyncio.gather(
            self.feedback.project(project_id), self.feedback.stats(project_id), self.feedback.rater_report(project_id)
        )
        return ProjectView(project, stats, report)

    async def services(self) -> Part[tuple[ServiceHealth, ...]]:
        """The system's processes."""
        return await attempt("Redis", self.system.services(), ())

    async def events(self, loop_id: str) -> LoopFeed:
        """The loop's feed of events. The loop must exist: raises NotFound otherwise."""
        await self.loops.loop(loop_id)
        return await self._feeds.look(loop_id)

    async def loop_view(self, loop_id: str) -> LoopView:
        """Gathers the loop page. Raises NotFound when the conductor says that there is no such loop."""
        loop, runs, models, projects, services = await asyncio.gather(
            attempt("conductor", self.loops.loop(loop_id), None),
            attempt("conductor", self.loops.runs(loop_id), ()),
            attempt("conductor", self.loops.reward_models(PAGE_SIZE, ""), _NO_MODELS),
            self.projects(),
            self.services(),
        )
        feed = await self._feeds.look(loop_id)
        own = models_of(loop.value, runs.value, models.value.reward_models)
        project = project_of(loop_id, own, projects.value)
        stats, samples = await self._labels(project)
        main, more = loop_charts(feed.curves, own)
        outages = [part.outage for part in (loop, runs, models, projects, stats, samples, services) if part.outage]
        return LoopView(
            loop_id=loop_id,
            loop=loop.value,
            runs=runs.value,
            reward_models=own,
            charts=main,
            more_charts=more,
            recent=tuple(reversed(feed.recent)),
            project=project,
            stats=stats.value,
            samples=by_version(samples.value),
            services=services.value,
            outages=tuple(dict.fromkeys(outages)),
        )

    async def _labels(self, project: Project | None) -> tuple[Part[Stats | None], Part[tuple[Sample, ...]]]:
        if project is None:
            return Part(None), Part(())
        return await asyncio.gather(
            attempt("feedback", self.feedback.stats(project.project_id), None),
            attempt("feedback", self.feedback.samples(project.project_id, SAMPLES_SHOWN), ()),
        )


_NO_MODELS = RewardModelPage(reward_models=(), next_page_token="")


async def attempt(service: str, call: Awaitable[T], otherwise: T) -> Part[T]:
    """The call's result, or `otherwise` together with the outage when the service does not answer.

    An error that is not about reaching the service (NOT_FOUND, say) goes on to the caller.
    """
    try:
        return Part(await call)
    except PreceptorError as error:
        if error.code not in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "INTERNAL"):
            raise
        return Part(otherwise, Outage(service, advice(service, error)))


def advice(service: str, error: PreceptorError) -> str:
    """What a person reads when `service` gave no answer."""
    if isinstance(error, Unavailable):
        return (
            f"The {service} service does not answer, so parts of this page are missing. "
            "See what runs with \N{LEFT DOUBLE QUOTATION MARK}preceptor status\N{RIGHT DOUBLE QUOTATION MARK}, "
            "start it with \N{LEFT DOUBLE QUOTATION MARK}preceptor up\N{RIGHT DOUBLE QUOTATION MARK}, then try again."
        )
    return f"The {service} service had trouble: {error.message}. Try again in a moment."


def models_of(loop: Loop | None, runs: Sequence[Run], models: Sequence[RewardModel]) -> tuple[RewardModel, ...]:
    """The loop's reward models in order of version: those made by its runs."""
    run_ids = {run.run_id for run in runs} | {stage.run_id for stage in (loop.stages if loop else ()) if stage.run_id}
    own = [model for model in models if model.run_id in run_ids]
    return tuple(sorted(own, key=lambda model: model.reward_model_version))


def project_of(loop_id: str, models: Sequence[RewardModel], projects: Sequence[Project]) -> Project | None:
    """The project that feeds the loop: that of its reward models, else the one named like it, else the only one."""
    by_id = {project.project_id: project for project in projects}
    for project_id in [*(model.project_id for model in reversed(models)), loop_id]:
        if project_id in by_id:
            return by_id[project_id]
    return projects[0] if len(projects) == 1 else None


def by_version(samples: Sequence[Sample]) -> tuple[tuple[int, tuple[Sample, ...]], ...]:
    """Samples grouped by policy version, newest version first."""
    versions = sorted({sample.policy_version for sample in samples}, reverse=True)
    return tuple((version, tuple(s for s in samples if s.policy_version == version)) for version in versions)


def loop_charts(book: CurveBook, models: Sequence[RewardModel]) -> tuple[tuple[Chart, ...], tuple[Chart, ...]]:
    """The charts everybody looks at first, and the rest of what was measured, by name."""
    main = [_spec_chart(spec, book) for spec in CHARTS] + [_accuracy_chart(models)]
    known = {name for spec in CHARTS for name, _ in spec.curves}
    rest = [_plain_chart(curve) for curve in book.all() if curve.name not in known]
    return tuple(chart for chart in main if chart), tuple(chart for chart in rest if chart)


def _spec_chart(spec: ChartSpec, book: CurveBook) -> Chart | None:
    curves = book.named(name for name, _ in spec.curves)
    if not curves:
        return None
    axis = curves[0].x_name
    kept = [curve for curve in curves if curve.x_name == axis][-MOST_LINES:]
    labels = dict(spec.curves)
    lines = [(curve.stage if _ambiguous(curve, kept) else labels[curve.name], curve.points) for curve in kept]
    return draw(spec.title, lines, x_label=X_LABELS[axis], note=spec.note)


def _ambiguous(curve: Curve, among: Sequence[Curve]) -> bool:
    return sum(other.name == curve.name for other in among) > 1


def _plain_chart(curve: Curve) -> Chart | None:
    title = f"{curve.name} ({curve.stage})" if curve.stage else curve.name
    return draw(title, [(curve.name, curve.points)], x_label=X_LABELS[curve.x_name])


def _accuracy_chart(models: Sequence[RewardModel]) -> Chart | None:
    accuracy = [(float(m.reward_model_version), m.heldout_accuracy) for m in models]
    ceiling = [(float(m.reward_model_version), m.noise_ceiling) for m in models if m.noise_ceiling > 0]
    return draw(
        "Reward-model accuracy",
        [("held-out accuracy", accuracy), ("noise ceiling", ceiling)],
        x_label="reward model version",
        note="Share of held-out preferences ordered as the rater did; the ceiling is what raters' noise allows.",
    )
