"""Errors as HTTP answers: problem JSON for programs, a page for people."""

from __future__ import annotations

import math

from starlette.responses import JSONResponse, Response

from preceptor.common.errors import PreceptorError
from preceptor.console.types import Problem

STATUS_BY_CODE = {
    "INVALID_ARGUMENT": 400,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "FAILED_PRECONDITION": 412,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "INTERNAL": 500,
    "DATA_LOSS": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
RETRIABLE = (429, 503, 504)
DEFAULT_RETRY_AFTER_S = 2.0


class HttpError(PreceptorError):
    """An error that only HTTP has: wrong method, body too large, a request from another site."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        reason: str,
        field: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message, reason=reason, field=field)
        self.status = status
        self.headers = headers or {}


def status_of(error: PreceptorError) -> int:
    """The HTTP status of an error; 500 for a code that is not in the table."""
    return error.status if isinstance(error, HttpError) else STATUS_BY_CODE.get(error.code, 500)


def code_of(error: PreceptorError) -> str:
    """The gRPC status name of an error, also of one that only HTTP has."""
    if not isinstance(error, HttpError):
        return error.code
    by_status = {status: code for code, status in STATUS_BY_CODE.items()}
    return by_status.get(error.status, "INVALID_ARGUMENT")


def headers_of(error: PreceptorError) -> dict[str, str]:
    """Retry-After (whole seconds, 1 or more) where trying again may help; Allow and the like."""
    headers = dict(error.headers) if isinstance(error, HttpError) else {}
    if status_of(error) in RETRIABLE or error.retry_after_s is not None:
        wait_s = DEFAULT_RETRY_AFTER_S if error.retry_after_s is None else error.retry_after_s
        headers["Retry-After"] = str(max(1, math.ceil(wait_s)))
    return headers


def problem_response(error: PreceptorError) -> Response:
    """The error as application/problem+json."""
    problem = Problem(
        code=code_of(error), reason=error.reason, field=error.field or "", message=error.message or "unknown error"
    )
    return JSONResponse(
        problem.model_dump(),
        status_code=status_of(error),
        headers=headers_of(error),
        media_type="application/problem+json",
    )
