"""The HTTP application: routes, errors, guards, metrics."""

from __future__ import annotations

import time
from importlib.resources import files

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from preceptor.common.errors import InternalError, NotFound, PreceptorError
from preceptor.common.telemetry import BusyClock, counter, get_logger, histogram, start_trace, trace_id
from preceptor.console.config import ConsoleSettings
from preceptor.console.service import Console, advice
from preceptor.console.web import rest
from preceptor.console.web.pages import Pages, rater_of
from preceptor.console.web.problems import HttpError, headers_of, problem_response, status_of
from preceptor.console.web.rendering import Renderer
from preceptor.console.web.security import Guard

log = get_logger(__name__)


def create_app(console: Console, settings: ConsoleSettings) -> ASGIApp:
    """Returns the application. The guard stands outside of Starlette, so that error pages carry its headers too.

    Args:
        console: the use cases.
        settings: limits and allowed hosts.
    """
    renderer = Renderer()
    errors = ErrorPages(renderer)
    static = StaticFiles(directory=str(files("preceptor.console").joinpath("static")))
    app = Starlette(
        routes=[
            *rest.routes(console),
            *Pages(console, renderer).routes(),
            Mount("/static", app=Revalidated(static), name="static"),
        ],
        exception_handlers={
            PreceptorError: errors.known,
            HTTPException: errors.http,
            Exception: errors.unknown,
        },
    )
    hosts = settings.allowed_hosts.split(",")
    return Measure(Guard(app, allowed_hosts=hosts, max_body_bytes=settings.max_body_bytes))


class ErrorPages:
    """Errors as problem JSON under /api and to scripts, as a page elsewhere."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer

    async def known(self, request: Request, error: Exception) -> Response:
        """An error of ours."""
        assert isinstance(error, PreceptorError)
        if wants_json(request):
            return problem_response(error)
        status = status_of(error)
        text = advice("feedback", error) if status in (503, 504) else error.message
        return self._renderer.page(
            "error.html",
            status=status,
            headers=headers_of(error),
            rater_id=rater_of(request),
            path=request.url.path,
            title=TITLES.get(status, "That did not work"),
            message=text,
        )

    async def http(self, request: Request, error: Exception) -> Response:
        """An error of the router: no such page, wrong method."""
        assert isinstance(error, HTTPException)
        if error.status_code == 404:
            return await self.known(request, NotFound(f"there is no page {request.url.path}", reason="NO_SUCH_PAGE"))
        message = f"{request.method} is not possible here" if error.status_code == 405 else error.detail
        headers = dict(error.headers or {})
        return await self.known(request, HttpError(error.status_code, message, reason="HTTP", headers=headers))

    async def unknown(self, request: Request, error: Exception) -> Response:
        """A defect: the log has the traceback, the caller a trace id."""
        log.exception("request failed", path=request.url.path, error=type(error).__name__)
        return await self.known(request, InternalError(f"something went wrong here; the log knows it as {trace_id()}"))


TITLES = {
    400: "That request was not understood",
    404: "Nothing here",
    405: "Not possible here",
    412: "That is no longer possible",
    500: "Something went wrong",
    503: "A service does not answer",
    504: "A service took too long",
}


def wants_json(request: Request) -> bool:
    """True for programs: the REST interface, and any request that changes something."""
    return request.url.path.startswith("/api/") or request.method not in ("GET", "HEAD")


class Revalidated:
    """Static files with an instruction to ask again each time: they are small, and a stale script breaks a page."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one file."""

        async def sender(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"cache-control", b"no-cache")]
            await send(message)

        await self._app(scope, receive, sender)


class Measure:
    """ASGI middleware: a trace id, request counts and durations by route and status, busy seconds."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._busy = BusyClock("console")
        self._requests = counter("preceptor_console_requests_total", "HTTP requests.", ("method", "route", "status"))
        self._seconds = histogram("preceptor_console_request_seconds", "Time to answer.", ("method", "route"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start_trace(dict(scope["headers"]).get(b"traceparent", b"").decode("latin-1"))
        status, began = 500, time.perf_counter()

        async def sender(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            with self._busy:
                await self._app(scope, receive, sender)
        finally:
            route, method = route_of(scope), method_of(scope)
            self._requests.labels(method, route, str(status)).inc()
            self._seconds.labels(method, route).observe(time.perf_counter() - began)


def route_of(scope: Scope) -> str:
    """The route's pattern, so that ids in a path do not each become a series of their own."""
    route = scope.get("route")
    return str(getattr(route, "path", "")) or "none"


def method_of(scope: Scope) -> str:
    """The method, or OTHER for what is none that we serve."""
    return scope["method"] if scope["method"] in ("GET", "HEAD", "PATCH", "POST") else "OTHER"
