"""Errors cross the wire and come back as themselves."""

import grpc
import pytest
from google.rpc import code_pb2
from hypothesis import given
from hypothesis import strategies as st

from preceptor.common.errors import BY_CODE, InternalError, PortInUse, PreceptorError
from preceptor.common.rpc_errors import DETAILS_KEY, from_rpc_error, raise_for_rpc_error, to_status


class Failed(grpc.RpcError):
    """What a call raises: a code, a text and trailing metadata."""

    def __init__(self, code: grpc.StatusCode | None, text: str, trailing: object) -> None:
        self._parts = code, text, trailing

    def code(self) -> grpc.StatusCode | None:
        return self._parts[0]

    def details(self) -> str:
        return self._parts[1]

    def trailing_metadata(self) -> object:
        return self._parts[2]


def across(error: PreceptorError) -> PreceptorError:
    status = to_status(error, "f" * 32)
    code = grpc.StatusCode[code_pb2.Code.Name(status.code)]
    return from_rpc_error(Failed(code, status.message, ((DETAILS_KEY, status.SerializeToString()),)))


@pytest.mark.parametrize("cls", BY_CODE.values())
def test_every_class_has_a_grpc_code_and_comes_back(cls: type[PreceptorError]) -> None:
    assert cls.code in grpc.StatusCode.__members__
    assert type(across(cls("x"))) is cls


@given(
    message=st.text(min_size=1, max_size=50),
    reason=st.from_regex(r"[A-Z][A-Z_]{1,20}", fullmatch=True),
    field=st.none() | st.text(min_size=1, max_size=20),
    retry_after_s=st.none() | st.floats(0, 1e6),
    metadata=st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=5), max_size=3),
)
def test_all_facts_come_back(
    message: str, reason: str, field: str | None, retry_after_s: float | None, metadata: dict[str, str]
) -> None:
    sent = BY_CODE["NOT_FOUND"](message, reason=reason, field=field, retry_after_s=retry_after_s, metadata=metadata)
    back = across(sent)
    assert (back.message, back.reason, back.field) == (message, reason, field)
    assert back.metadata == {**metadata, "trace_id": "f" * 32}
    assert back.retry_after_s == (None if retry_after_s is None else pytest.approx(retry_after_s, abs=1e-8))


def test_a_subclass_travels_as_its_code_with_its_reason() -> None:
    back = across(PortInUse(7100, "PRECEPTOR_GENERATION_PORT"))
    assert (back.code, back.reason) == ("FAILED_PRECONDITION", "PORT_IN_USE")


@pytest.mark.parametrize("trailing", [None, (), ((DETAILS_KEY, b"\xff\xff"),), ((DETAILS_KEY, "text"),)])
def test_without_readable_details_code_and_text_stand(trailing: object) -> None:
    back = from_rpc_error(Failed(grpc.StatusCode.UNAVAILABLE, "connection refused", trailing))
    assert (back.code, back.message, back.reason) == ("UNAVAILABLE", "connection refused", "UNAVAILABLE")


@pytest.mark.parametrize("code", [None, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNKNOWN])
def test_a_code_that_we_never_send_is_an_internal_error(code: grpc.StatusCode | None) -> None:
    assert isinstance(from_rpc_error(Failed(code, "", None)), InternalError)


def test_the_cause_is_kept() -> None:
    failed = Failed(grpc.StatusCode.NOT_FOUND, "no", None)
    with pytest.raises(PreceptorError) as caught:
        raise_for_rpc_error(failed)
    assert caught.value.__cause__ is failed
