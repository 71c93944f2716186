"""The REST operations, in one table: the routes and the OpenAPI document are both made from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from preceptor.common.errors import InvalidInput
from preceptor.console import rater_types, types
from preceptor.console.service import Console
from preceptor.console.types import Model, RaterId
from preceptor.console.web.security import CLIENT_HEADER

PREFIX = "/api/v1"
M = TypeVar("M", bound=BaseModel)


class PageQuery(Model):
    """Which page of a list."""

    page_size: int = Field(default=50, ge=1, le=1000)
    page_token: str = Field(default="", max_length=1000)


class RankingsQuery(PageQuery):
    """Whose votes."""

    rater_id: RaterId


class NoQuery(Model):
    """No parameters."""


class Empty(Model):
    """Nothing to say."""


class EventList(Model):
    """The newest things that a loop reported, newest first."""

    events: tuple[types.Event, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """One request, checked."""

    console: Console
    path: dict[str, str]
    query: Any
    body: Any
    client: str


Handler = Callable[[Call], Awaitable[BaseModel]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: what a client needs to know, and who answers."""

    id: str
    method: str
    path: str
    summary: str
    handler: Handler
    answer: type[BaseModel]
    body: type[BaseModel] | None = None
    query: type[BaseModel] = NoQuery
    errors: tuple[int, ...] = field(default=())

    @property
    def path_names(self) -> list[str]:
        """The names in braces."""
        return [part.strip("{}").split(":")[0] for part in self.path.split("/") if part.startswith("{")]


async def list_projects(call: Call) -> types.ProjectPage:
    return await call.console.feedback.projects(call.query.page_size, call.query.page_token)


async def get_project(call: Call) -> types.Project:
    return await call.console.feedback.project(call.path["project_id"])


async def get_stats(call: Call) -> types.Stats:
    return await call.console.feedback.stats(call.path["project_id"])


async def lease(call: Call) -> types.LeaseOffer:
    return await call.console.feedback.lease(call.path["project_id"], call.body)


async def extend(call: Call) -> types.LeaseExtension:
    return await call.console.feedback.extend(call.path["lease_id"], call.body)


async def release(call: Call) -> Empty:
    await call.console.feedback.release(call.path["lease_id"], call.body)
    return Empty()


async def submit(call: Call) -> types.Ranking:
    return await call.console.feedback.submit(call.body, call.client)


async def retract(call: Call) -> types.Retraction:
    return await call.console.feedback.retract(call.path["event_id"], call.body)


async def list_rankings(call: Call) -> types.RankingPage:
    query: RankingsQuery = call.query
    return await call.console.feedback.rankings(
        call.path["project_id"], query.rater_id, query.page_size, query.page_token
    )


async def update_project(call: Call) -> types.Project:
    return await call.console.feedback.update_project(call.path["project_id"], call.body)


async def rater_report(call: Call) -> rater_types.RaterReport:
    return await call.console.feedback.rater_report(call.path["project_id"])


async def set_rater_state(call: Call) -> rater_types.RaterState:
    return await call.console.feedback.set_rater_state(call.path["project_id"], call.path["rater_id"], call.body)


async def demonstrate(call: Call) -> rater_types.Demonstration:
    return await call.console.feedback.demonstrate(call.path["project_id"], call.body)


async def get_comparison(call: Call) -> types.ShownComparison:
    return await call.console.feedback.comparison(call.path["comparison_id"])


async def list_loops(call: Call) -> types.LoopPage:
    return await call.console.loops.loops(call.query.page_size, call.query.page_token)


async def get_loop(call: Call) -> types.Loop:
    return await call.console.loops.loop(call.path["loop_id"])


async def list_events(call: Call) -> EventList:
    feed = await call.console.events(call.path["loop_id"])
    return EventList(events=tuple(reversed(feed.recent)))


async def list_reward_models(call: Call) -> types.RewardModelPage:
    return await call.console.loops.reward_models(call.query.page_size, call.query.page_token)


async def list_services(call: Call) -> types.ServiceList:
    return types.ServiceList(services=await call.console.system.services())


OPERATIONS = (
    Operation(
        "listProjects", "GET", "/projects", "Lists the projects.", list_projects, types.ProjectPage, query=PageQuery
    ),
    Operation("getProject", "GET", "/projects/{project_id}", "Returns one project.", get_project, types.Project),
    Operation(
        "getStats", "GET", "/projects/{project_id}/stats", "Says where a project stands.", get_stats, types.Stats
    ),
    Operation(
        "updateProject",
        "PATCH",
        "/projects/{project_id}",
        "Changes a project; what the body leaves out stays.",
        update_project,
        types.Project,
        body=types.ProjectUpdate,
    ),
    Operation(
        "getRaterReport",
        "GET",
        "/projects/{project_id}/raters",
        "Measures the raters: agreement, reliability and weight, gold accuracy, bias, consistency, time.",
        rater_report,
        rater_types.RaterReport,
    ),
    Operation(
        "setRaterState",
        "POST",
        "/projects/{project_id}/raters/{rater_id}/state",
        "Pauses a rater, or lets them go on. A paused rater gets no lease; votes they send are kept.",
        set_rater_state,
        rater_types.RaterState,
        body=rater_types.RaterStateRequest,
    ),
    Operation(
        "submitDemonstration",
        "POST",
        "/projects/{project_id}/demonstrations",
        "Stores what a rater would have answered to a comparison's prompt. Repeat it with the same event_id.",
        demonstrate,
        rater_types.Demonstration,
        body=rater_types.DemonstrationRequest,
        errors=(409,),
    ),
    Operation(
        "leaseComparison",
        "POST",
        "/projects/{project_id}/leases",
        "Leases the next comparison, or returns the lease held. `lease` is null when there is nothing to rank.",
        lease,
        types.LeaseOffer,
        body=types.LeaseRequest,
        errors=(429,),
    ),
    Operation(
        "extendLease",
        "POST",
        "/leases/{lease_id}/extend",
        "Prolongs a lease; 412 once it has gone to another rater.",
        extend,
        types.LeaseExtension,
        body=types.ExtendRequest,
        errors=(412,),
    ),
    Operation(
        "releaseLease",
        "POST",
        "/leases/{lease_id}/release",
        "Gives a lease back unanswered: skips the comparison, or flags it for review.",
        release,
        Empty,
        body=types.ReleaseRequest,
        errors=(412,),
    ),
    Operation(
        "submitRanking",
        "POST",
        "/rankings",
        "Stores a vote; the answer comes after the commit. Repeat it with the same event_id as often as you like.",
        submit,
        types.Ranking,
        body=types.RankingRequest,
        errors=(409, 412, 429),
    ),
    Operation(
        "retractRanking",
        "POST",
        "/rankings/{event_id}/retract",
        "Takes a vote out of force. The event_id in the path is the vote's, the one in the body the retraction's own.",
        retract,
        types.Retraction,
        body=types.RetractRequest,
        errors=(409, 412),
    ),
    Operation(
        "listRankings",
        "GET",
        "/projects/{project_id}/rankings",
        "Lists a rater's votes in force, newest first.",
        list_rankings,
        types.RankingPage,
        query=RankingsQuery,
    ),
    Operation(
        "getComparison",
        "GET",
        "/comparisons/{comparison_id:path}",
        "Returns a comparison as raters see it.",
        get_comparison,
        types.ShownComparison,
    ),
    Operation("listLoops", "GET", "/loops", "Lists the loops.", list_loops, types.LoopPage, query=PageQuery),
    Operation("getLoop", "GET", "/loops/{loop_id}", "Returns a loop and its stages.", get_loop, types.Loop),
    Operation(
        "listLoopEvents", "GET", "/loops/{loop_id}/events", "The newest events of a loop.", list_events, EventList
    ),
    Operation(
        "listRewardModels",
        "GET",
        "/reward-models",
        "Lists the registered reward models.",
        list_reward_models,
        types.RewardModelPage,
        query=PageQuery,
    ),
    Operation("listServices", "GET", "/services", "Lists the running processes.", list_services, types.ServiceList),
)


def routes(console: Console) -> list[Route]:
    """One route per operation."""
    return [
        Route(PREFIX + operation.path, _endpoint(console, operation), methods=[operation.method], name=operation.id)
        for operation in OPERATIONS
    ]


def _endpoint(console: Console, operation: Operation) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        call = Call(
            console=console,
            path={name: str(request.path_params[name]) for name in operation.path_names},
            query=parse_query(operation.query, request),
            body=parse_json(operation.body, await request.body()) if operation.body else None,
            client=request.headers.get(CLIENT_HEADER, "rest"),
        )
        answer = await operation.handler(call)
        return JSONResponse(answer.model_dump(mode="json"))

    return endpoint


def parse_query(model: type[M], request: Request) -> M:
    """The query parameters as `model`. Raises InvalidInput naming the parameter."""
    return _checked(lambda: model.model_validate(dict(request.query_params)), "query")


def parse_json(model: type[M], body: bytes) -> M:
    """The body as `model`. Raises InvalidInput naming the field and what is allowed."""
    return _checked(lambda: model.model_validate_json(body), "body")


def _checked(parse: Callable[[], M], whole: str) -> M:
    try:
        return parse()
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = ".".join(str(part) for part in first["loc"]) or whole
        text = first["msg"].removeprefix("Value error, ")
        raise InvalidInput(f"{name}: {text[0].lower()}{text[1:]}", field=name) from None
