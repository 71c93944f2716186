"""What every request passes first, and what every answer carries.

Reading is open to whoever reaches the port. Changing something takes a JSON body and the header X-Preceptor-Client,
which a page of another site cannot send without a CORS permission that the console never gives; a browser's own
statement of where a request comes from (Sec-Fetch-Site, Origin) is checked besides. The Host header must be a known
name, so that another site's DNS cannot make a browser read from here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from preceptor.console.web.problems import HttpError, problem_response

CLIENT_HEADER = "x-preceptor-client"
CLIENT_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/ -]{0,63}")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")

SECURITY_HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self'",
            "connect-src 'self'",
            "manifest-src 'self'",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types preceptor-fragment",
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """ASGI middleware: refuses what may not come in, and sets the security headers on what goes out.

    Args:
        app: what is guarded.
        allowed_hosts: names without port; "*" allows any.
        max_body_bytes: a larger body is refused with 413, also when it comes without Content-Length.
    """

    def __init__(self, app: ASGIApp, *, allowed_hosts: Iterable[str], max_body_bytes: int) -> None:
        self._app = app
        self._allowed_hosts = frozenset(host.strip().lower() for host in allowed_hosts if host.strip())
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        guarded_send = _with_headers(scope, send)
        try:
            self._check(scope["method"], Headers(scope=scope))
        except HttpError as problem:
            await problem_response(problem)(scope, receive, guarded_send)
            return
        await self._app(scope, self._bounded(receive), guarded_send)

    def _check(self, method: str, headers: Headers) -> None:
        host = host_name(headers.get("host", ""))
        if "*" not in self._allowed_hosts and host not in self._allowed_hosts:
            raise HttpError(
                421,
                f"the console does not answer to the host name '{host[:100]}': see PRECEPTOR_CONSOLE_ALLOWED_HOSTS",
                reason="UNKNOWN_HOST",
                field="Host",
            )
        if method not in SAFE_METHODS:
            check_origin(headers)
            check_form(headers)
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self._max_body_bytes:
            raise self._too_large()

    def _bounded(self, receive: Receive) -> Receive:
        taken = 0

        async def bounded() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._max_body_bytes:
                raise self._too_large()
            return message

        return bounded

    def _too_large(self) -> HttpError:
        return HttpError(
            413, f"the request body is over the limit of {self._max_body_bytes} bytes", reason="BODY_TOO_LARGE"
        )


def host_name(host: str) -> str:
    """The Host header without its port, lower case: '[::1]:8080' -> '[::1]'."""
    return re.sub(r":\d+$", "", host.strip().lower())


def check_origin(headers: Headers) -> None:
    """Raises 403 when the browser says that the request comes from another site."""
    site = headers.get("sec-fetch-site", "same-origin")
    origin = headers.get("origin")
    foreign_origin = origin is not None and origin.split("://")[-1].lower() != headers.get("host", "").lower()
    if site not in ("same-origin", "none") or foreign_origin:
        raise HttpError(
            403, "requests that change something are taken from the console's own pages only", reason="CROSS_SITE"
        )


def check_form(headers: Headers) -> None:
    """Raises 403 or 415 when a state-changing request is not one that a script of ours or a tool would send."""
    if not CLIENT_PATTERN.fullmatch(headers.get(CLIENT_HEADER, "")):
        raise HttpError(
            403,
            "the header X-Preceptor-Client is missing or malformed: send the name of your program, such as 'my-tool/1'",
            reason="CLIENT_HEADER_MISSING",
            field="X-Preceptor-Client",
        )
    if headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise HttpError(
            415, "the body must be JSON: send Content-Type: application/json", reason="NOT_JSON", field="Content-Type"
        )


def _with_headers(scope: Scope, send: Send) -> Send:
    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return sender
