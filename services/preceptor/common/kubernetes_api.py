"""Calls to the Kubernetes API that survive its bad moments, as errors of ours."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any

import kubernetes
import urllib3
from kubernetes.client.exceptions import ApiException

from preceptor.common.errors import FailedPrecondition, PermissionDenied, PreceptorError, Unavailable

Object = dict[str, Any]
ATTEMPTS = 5
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
CALL_TIMEOUT_S = (5.0, 15.0)  # connect, read
_PASSING = (429, 500, 502, 503, 504)
NOT_REACHED = (urllib3.exceptions.HTTPError, OSError)


def connect() -> kubernetes.client.ApiClient:
    """A client with the pod's own account where there is one, else with the current context of the user's kubeconfig.

    Raises:
        FailedPrecondition: neither is there.
    """
    try:
        kubernetes.config.load_incluster_config()
    except kubernetes.config.ConfigException:
        try:
            kubernetes.config.load_kube_config()
        except kubernetes.config.ConfigException as error:
            raise FailedPrecondition(
                f"no way to a Kubernetes cluster: this is no pod with a service account, and {error}",
                reason="NO_CLUSTER",
            ) from error
    configuration = kubernetes.client.Configuration.get_default_copy()
    configuration.retries = False  # `call` retries, and knows which answers are worth it
    return kubernetes.client.ApiClient(configuration)


def call(doing: str, request: Callable[..., Any], *args: Any, **kwargs: Any) -> Object:
    """Returns the answer of a method of the kubernetes package, as the API's JSON.

    429, 5xx and lost connections are tried again, after as long as the server asks for. Only for requests that may be
    repeated: a create whose first answer was lost answers 409 the second time.

    Raises:
        Unavailable: the API does not answer, or keeps refusing.
        PermissionDenied: the account may not.
        ApiException: any other refusal (404, 409, 410, 422), for the caller to judge.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            answer: Object = json.loads(opened(request, CALL_TIMEOUT_S, *args, **kwargs).data)
            return answer
        except ApiException as error:
            if error.status in (401, 403):
                raise refused(doing, error) from error
            if error.status not in _PASSING:
                raise
            problem, pause_s = unavailable(doing, error), _asked_pause_s(error)
        except NOT_REACHED as error:
            problem, pause_s = unavailable(doing, error), 0.0
        if attempt == ATTEMPTS:
            raise problem
        time.sleep(max(pause_s, backoff_s(attempt)))
    raise AssertionError("unreachable")


def opened(
    request: Callable[..., Any], timeout_s: tuple[float, float], *args: Any, **kwargs: Any
) -> urllib3.BaseHTTPResponse:
    """Returns the response as it came: the package's models refuse fields of servers that are newer than it.

    Raises:
        ApiException: any status but 2xx.
    """
    response: urllib3.BaseHTTPResponse = request(*args, _request_timeout=timeout_s, _preload_content=False, **kwargs)
    response = getattr(response, "response", response)  # from version 36 on the package wraps it
    if not 200 <= response.status <= 299:
        raise ApiException(http_resp=response)
    return response


def backoff_s(failures: int) -> float:
    """Exponential, with jitter so that several clients do not come back at once."""
    return float(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (failures - 1)) * random.uniform(0.5, 1.0))


def unavailable(doing: str, error: Exception) -> PreceptorError:
    """The error of an API server that cannot be reached or has trouble."""
    return Unavailable(f"the Kubernetes API does not answer while {doing}: {_brief(error)}", reason="KUBERNETES_API")


def refused(doing: str, error: ApiException) -> PreceptorError:
    """The error of an account without the right."""
    return PermissionDenied(
        f"the Kubernetes API refuses {doing}: {_brief(error)}. Whoever calls needs a Role that grants it: for the "
        "conductor the chart makes one",
        reason="KUBERNETES_RBAC",
    )


def _asked_pause_s(error: ApiException) -> float:
    try:
        return min(60.0, float((error.headers or {}).get("Retry-After", 0)))
    except ValueError:
        return 0.0


def _brief(error: Exception) -> str:
    if isinstance(error, ApiException):
        return f"{error.status} {error.reason}"
    return str(error) or type(error).__name__
