"""PreceptorError to google.rpc.Status and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from preceptor.common.errors import BY_CODE, InternalError, PreceptorError

DOMAIN = "preceptor"
DETAILS_KEY = "grpc-status-details-bin"
TRACE_KEY = "trace_id"


def to_status(error: PreceptorError, trace_id: str) -> status_pb2.Status:
    """Returns what a caller receives: code, message, ErrorInfo, and BadRequest and RetryInfo where they apply."""
    metadata = {**error.metadata, **({TRACE_KEY: trace_id} if trace_id else {})}
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)]
    if error.field is not None:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(round(error.retry_after_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return status_pb2.Status(
        code=code_pb2.Code.Value(error.code), message=error.message, details=[_pack(detail) for detail in details]
    )


def from_rpc_error(error: grpc.RpcError) -> PreceptorError:
    """Returns the error that the server raised, as far as its status tells; a transport's own failure likewise."""
    code = error.code()
    cls = BY_CODE.get(code.name if code is not None else "", InternalError)
    message = error.details() or f"the call failed with {code.name if code is not None else 'no status'}"
    result = cls(message)
    for detail in _details(error.trailing_metadata()):
        _take(result, detail)
    return result


def raise_for_rpc_error(error: grpc.RpcError) -> NoReturn:
    """Raises `from_rpc_error(error)`, caused by it."""
    raise from_rpc_error(error) from error


def _pack(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def _details(trailing: Iterable[Any] | None) -> Iterable[any_pb2.Any]:
    for key, value in trailing or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                status: status_pb2.Status = status_pb2.Status.FromString(value)
            except DecodeError:
                return ()  # a proxy's own idea of details; code and message stand
            return list(status.details)
    return ()


def _take(error: PreceptorError, detail: any_pb2.Any) -> None:
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    if detail.Unpack(info):
        error.reason = info.reason or error.reason
        error.metadata.update(info.metadata)
    elif detail.Unpack(bad) and bad.field_violations:
        error.field = bad.field_violations[0].field
    elif detail.Unpack(retry):
        error.retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
