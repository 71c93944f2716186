"""The HTML pages: choosing a name and a project, ranking, loops, and the page about the REST interface."""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from preceptor.console.service import Console
from preceptor.console.types import RATER_ID_PATTERN, Model, RaterId
from preceptor.console.web import openapi
from preceptor.console.web.rendering import Renderer
from preceptor.console.web.rest import OPERATIONS, PREFIX, parse_json

RATER_COOKIE = "preceptor_rater"
ONE_YEAR_S = 365 * 24 * 3600


class SessionRequest(Model):
    """Under which pseudonym this browser ranks."""

    rater_id: RaterId


class Pages:
    """The handlers of the HTML pages."""

    def __init__(self, console: Console, renderer: Renderer) -> None:
        self._console = console
        self._renderer = renderer
        self._document = openapi.document()

    def routes(self) -> list[Route]:
        """Every page."""
        return [
            Route("/", self.start, name="start"),
            Route("/session", self.set_session, methods=["POST"], name="session"),
            Route("/rank/{project_id}", self.rank, name="rank"),
            Route("/rank/{project_id}/guidelines", self.guidelines, name="guidelines"),
            Route("/loops", self.loops, name="loops"),
            Route("/loops-panel", self.loops_panel, name="loops_panel"),
            Route("/loops/{loop_id}", self.loop, name="loop"),
            Route("/loops/{loop_id}/panel", self.loop_panel, name="loop_panel"),
            Route("/admin", self.admin, name="admin"),
            Route("/admin/{project_id}", self.project, name="project"),
            Route("/system", self.system, name="system"),
            Route("/system/panel", self.system_panel, name="system_panel"),
            Route("/api", self.api, name="api"),
            Route("/api/openapi.json", self.openapi, name="openapi"),
        ]

    async def start(self, request: Request) -> Response:
        projects = await self._console.projects()
        return self._page(request, "start.html", projects=projects.value, outage=projects.outage)

    async def set_session(self, request: Request) -> Response:
        session = parse_json(SessionRequest, await request.body())
        response = Response(status_code=204)
        response.set_cookie(
            RATER_COOKIE,
            session.rater_id,
            max_age=ONE_YEAR_S,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return response

    async def rank(self, request: Request) -> Response:
        if not rater_of(request):
            return RedirectResponse("/", status_code=303)
        project = await self._console.feedback.project(request.path_params["project_id"])
        return self._page(request, "rank.html", project=project)

    async def guidelines(self, request: Request) -> Response:
        project = await self._console.feedback.project(request.path_params["project_id"])
        return self._page(request, "_guidelines.html", project=project)

    async def loops(self, request: Request) -> Response:
        return await self._loops_page(request, "loops.html")

    async def loops_panel(self, request: Request) -> Response:
        return await self._loops_page(request, "_loops.html")

    async def _loops_page(self, request: Request, template: str) -> Response:
        loops = await self._console.loop_list()
        return self._page(request, template, loops=loops.value, outage=loops.outage)

    async def loop(self, request: Request) -> Response:
        return await self._loop_page(request, "loop.html")

    async def loop_panel(self, request: Request) -> Response:
        return await self._loop_page(request, "_loop.html")

    async def _loop_page(self, request: Request, template: str) -> Response:
        view = await self._console.loop_view(request.path_params["loop_id"])
        return self._page(request, template, view=view)

    async def admin(self, request: Request) -> Response:
        overview = await self._console.overview()
        return self._page(request, "admin.html", overview=overview.value, outage=overview.outage)

    async def project(self, request: Request) -> Response:
        view = await self._console.project_view(request.path_params["project_id"])
        return self._page(request, "project.html", view=view)

    async def system(self, request: Request) -> Response:
        return await self._system_page(request, "system.html")

    async def system_panel(self, request: Request) -> Response:
        return await self._system_page(request, "_system.html")

    async def _system_page(self, request: Request, template: str) -> Response:
        services = await self._console.services()
        outages = [services.outage] if services.outage else []
        return self._page(request, template, services=services.value, outages=outages)

    async def api(self, request: Request) -> Response:
        return self._page(request, "api.html", operations=OPERATIONS, prefix=PREFIX)

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(self._document)

    def _page(self, request: Request, template: str, **values: Any) -> Response:
        return self._renderer.page(template, rater_id=rater_of(request), path=request.url.path, **values)


def rater_of(request: Request) -> str:
    """The pseudonym in the cookie, "" when there is none or it is malformed."""
    rater_id = request.cookies.get(RATER_COOKIE, "")
    return rater_id if re.fullmatch(RATER_ID_PATTERN, rater_id) else ""
