"""The one error hierarchy. It knows no transport: rpc_errors turns it into a gRPC status and back."""

from __future__ import annotations

from typing import ClassVar


class PreceptorError(Exception):
    """An error whose message may be shown to the caller.

    Args:
        message: one sentence naming what was wrong and what is allowed or to be done.
        reason: upper snake case, stable, for programs (`google.rpc.ErrorInfo.reason`); the class's own when absent.
        field: dotted name of the request field or setting at fault.
        retry_after_s: when trying again may succeed.
        metadata: further facts for programs.
    """

    code: ClassVar[str] = "UNKNOWN"
    default_reason: ClassVar[str] = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        field: str | None = None,
        retry_after_s: float | None = None,
        metadata: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.field = field
        self.retry_after_s = retry_after_s
        self.metadata = dict(metadata or {})


class InvalidInput(PreceptorError):
    """The request or file is wrong whatever the state of the system."""

    code = "INVALID_ARGUMENT"
    default_reason = "INVALID_INPUT"


class NotFound(PreceptorError):
    """What was named does not exist."""

    code = "NOT_FOUND"
    default_reason = "NOT_FOUND"


class AlreadyExists(PreceptorError):
    """The same id exists with another content."""

    code = "ALREADY_EXISTS"
    default_reason = "ALREADY_EXISTS"


class FailedPrecondition(PreceptorError):
    """The request is right but the system's state forbids it; repeating it unchanged will not help."""

    code = "FAILED_PRECONDITION"
    default_reason = "FAILED_PRECONDITION"


class Overloaded(PreceptorError):
    """A queue or limit is full. Carries a retry hint of one second unless told otherwise."""

    code = "RESOURCE_EXHAUSTED"
    default_reason = "OVERLOADED"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        field: str | None = None,
        retry_after_s: float | None = 1.0,
        metadata: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message, reason=reason, field=field, retry_after_s=retry_after_s, metadata=metadata)


class Unavailable(PreceptorError):
    """Cannot be reached, is loading or drains; repeating the call may succeed."""

    code = "UNAVAILABLE"
    default_reason = "UNAVAILABLE"


class DeadlineExceeded(PreceptorError):
    """Did not finish in the time given."""

    code = "DEADLINE_EXCEEDED"
    default_reason = "DEADLINE_EXCEEDED"


class DataLoss(PreceptorError):
    """Stored or transferred bytes are not what they should be."""

    code = "DATA_LOSS"
    default_reason = "DATA_LOSS"


class PermissionDenied(PreceptorError):
    """The caller is known and may not do this."""

    code = "PERMISSION_DENIED"
    default_reason = "PERMISSION_DENIED"


class Cancelled(PreceptorError):
    """The caller gave the call up."""

    code = "CANCELLED"
    default_reason = "CANCELLED"


class InternalError(PreceptorError):
    """A defect in this system. The message a caller sees holds a trace id and nothing else."""

    code = "INTERNAL"
    default_reason = "INTERNAL"


class PortInUse(FailedPrecondition):
    """A server could not bind.

    Args:
        port: the port that was asked for.
        variable: the setting that chooses it.
    """

    default_reason = "PORT_IN_USE"

    def __init__(self, port: int, variable: str) -> None:
        super().__init__(f"port {port} is in use: stop what uses it or set {variable}", field=variable)
        self.port = port


BY_CODE: dict[str, type[PreceptorError]] = {
    cls.code: cls
    for cls in (
        InvalidInput,
        NotFound,
        AlreadyExists,
        FailedPrecondition,
        Overloaded,
        Unavailable,
        DeadlineExceeded,
        DataLoss,
        PermissionDenied,
        Cancelled,
        InternalError,
    )
}
