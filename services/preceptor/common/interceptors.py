"""The gRPC edge: what happens around every servicer method."""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio

from preceptor.common.errors import InternalError, Overloaded, PreceptorError
from preceptor.common.rpc_errors import DETAILS_KEY, to_status
from preceptor.common.telemetry import counter, gauge, get_logger, histogram, log_context, start_trace, trace_id

log = get_logger(__name__)

_requests = counter("preceptor_grpc_server_requests_total", "Finished calls.", ("method", "code"))
_seconds = histogram("preceptor_grpc_server_request_seconds", "Time from call to status.", ("method",))
_in_flight = gauge("preceptor_grpc_server_requests_in_flight", "Calls being answered.", ("method",))
# Probes must get through an overloaded server: restarting it for being busy makes things worse.
_UNLIMITED = ("/grpc.health.v1.Health/", "/grpc.reflection.")


class EdgeInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Bounds concurrency, counts, gives log lines their trace, and turns errors into statuses.

    A PreceptorError becomes its code with google.rpc details. Anything else is logged with its traceback and reaches
    the caller as INTERNAL with a generic text and the trace id.

    Args:
        max_concurrent_rpcs: calls past this many are refused with RESOURCE_EXHAUSTED and a retry hint.
    """

    def __init__(self, max_concurrent_rpcs: int) -> None:
        self._limit = max_concurrent_rpcs
        self._running = 0

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        method = handler_call_details.method
        if handler.response_streaming:
            make = grpc.stream_stream_rpc_method_handler if handler.request_streaming else _unary_stream
            behaviour = self._streaming(handler.stream_stream or handler.unary_stream, method)
        else:
            make = grpc.stream_unary_rpc_method_handler if handler.request_streaming else _unary_unary
            behaviour = self._unary(handler.stream_unary or handler.unary_unary, method)
        return make(behaviour, handler.request_deserializer, handler.response_serializer)

    def _unary(self, behaviour: Any, method: str) -> Any:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            with self._around(method, context):
                try:
                    with self._admitted(method):
                        answer = behaviour(request, context)
                        return await answer if inspect.isawaitable(answer) else answer
                except grpc.aio.AbortError:
                    raise
                except Exception as error:  # noqa: BLE001  this is the edge
                    await _abort(context, method, error)

        return call

    def _streaming(self, behaviour: Any, method: str) -> Any:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            with self._around(method, context):
                try:
                    with self._admitted(method):
                        answer = behaviour(request, context)
                        if inspect.isawaitable(answer):
                            await answer  # it wrote through the context
                        else:
                            async for message in answer:
                                yield message
                except grpc.aio.AbortError:
                    raise
                except Exception as error:  # noqa: BLE001  this is the edge
                    await _abort(context, method, error)

        return call

    @contextmanager
    def _around(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> Iterator[None]:
        start_trace(_traceparent(context))
        started = time.monotonic()
        finished = "CANCELLED"  # what it is when neither of the two ways out below is taken
        _in_flight.labels(method).inc()
        try:
            with log_context(method=method):
                yield
            finished = "OK"
        except Exception:
            finished = _code_name(context)
            raise
        finally:
            _in_flight.labels(method).dec()
            _requests.labels(method, finished).inc()
            _seconds.labels(method).observe(time.monotonic() - started)

    @contextmanager
    def _admitted(self, method: str) -> Iterator[None]:
        if method.startswith(_UNLIMITED):
            yield
            return
        if self._running >= self._limit:
            raise Overloaded(
                f"{self._limit} calls are in progress, which is this server's limit", reason="TOO_MANY_CALLS"
            )
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1


_unary_stream = grpc.unary_stream_rpc_method_handler
_unary_unary = grpc.unary_unary_rpc_method_handler


async def _abort(context: grpc.aio.ServicerContext[Any, Any], method: str, error: Exception) -> None:
    trace = trace_id()
    if isinstance(error, PreceptorError) and not isinstance(error, InternalError):
        known = error
    else:
        log.exception("call failed", method=method)
        known = InternalError(f"internal error; the server's log has it under trace {trace}")
    status = to_status(known, trace)
    code = grpc.StatusCode[known.code]
    await context.abort(code, known.message, ((DETAILS_KEY, status.SerializeToString()),))


def _traceparent(context: grpc.aio.ServicerContext[Any, Any]) -> str | None:
    return next((str(value) for key, value in context.invocation_metadata() or () if key == "traceparent"), None)


def _code_name(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    code = context.code()
    by_number = {status.value[0]: status.name for status in grpc.StatusCode}
    return code.name if isinstance(code, grpc.StatusCode) else by_number.get(code, "UNKNOWN")
