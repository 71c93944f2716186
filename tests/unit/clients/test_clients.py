"""Every RPC has a typed method that sends a deadline and a trace and fails with our errors, in threads and asyncio."""

import asyncio
import inspect
import re
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.message_factory import GetMessageClass

from preceptor.api.conductor.v1 import loop_service_pb2
from preceptor.api.feedback.v1 import access_service_pb2, feedback_service_pb2
from preceptor.api.generation.v1 import generation_service_pb2
from preceptor.api.learner.v1 import learner_service_pb2, weight_service_pb2
from preceptor.api.reward.v1 import reward_service_pb2
from preceptor.clients.access import AccessClient, AsyncAccessClient
from preceptor.clients.base import AsyncClient, SyncClient
from preceptor.clients.conductor import AsyncLoopClient, LoopClient
from preceptor.clients.feedback import AsyncFeedbackClient, FeedbackClient
from preceptor.clients.generation import AsyncGenerationClient, GenerationClient
from preceptor.clients.learner import AsyncLearnerClient, AsyncWeightClient, LearnerClient, WeightClient
from preceptor.clients.reward import AsyncRewardClient, RewardClient
from preceptor.common.channels import sync_channel
from preceptor.common.errors import DeadlineExceeded, NotFound, Unavailable
from preceptor.common.rpc_errors import DETAILS_KEY, to_status
from preceptor.common.telemetry import start_trace
from preceptor.common.waiting import wait_until
from tests.support.ports import free_port

Pair = tuple[type[SyncClient], type[AsyncClient], Any]
PAIRS: list[Pair] = [
    (GenerationClient, AsyncGenerationClient, generation_service_pb2.DESCRIPTOR.services_by_name["GenerationService"]),
    (RewardClient, AsyncRewardClient, reward_service_pb2.DESCRIPTOR.services_by_name["RewardService"]),
    (FeedbackClient, AsyncFeedbackClient, feedback_service_pb2.DESCRIPTOR.services_by_name["FeedbackService"]),
    (AccessClient, AsyncAccessClient, access_service_pb2.DESCRIPTOR.services_by_name["AccessService"]),
    (LearnerClient, AsyncLearnerClient, learner_service_pb2.DESCRIPTOR.services_by_name["LearnerService"]),
    (WeightClient, AsyncWeightClient, weight_service_pb2.DESCRIPTOR.services_by_name["WeightService"]),
    (LoopClient, AsyncLoopClient, loop_service_pb2.DESCRIPTOR.services_by_name["LoopService"]),
]
DESCRIPTORS = Path(__file__).parents[3] / "protos" / "descriptors.binpb"
SHORT_NAMES = {"GetStatus": "status", "GetStats": "stats"}
METHODS = [
    pytest.param(sync, aio, service, method, id=f"{service.name}.{method.name}")
    for sync, aio, service in PAIRS
    for method in service.methods
]


class AnyService(grpc.GenericRpcHandler):
    """Answers every method of ours with an empty message, or as told; keeps what each call brought."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, str], float]] = []
        self.mode = "answer"
        self.stream_ended = threading.Event()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        service, name = details.method.strip("/").rsplit("/", 1)
        method = next(m for _, _, s in PAIRS for m in s.methods if (s.full_name, m.name) == (service, name))
        request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        make = grpc.unary_stream_rpc_method_handler if method.server_streaming else grpc.unary_unary_rpc_method_handler
        behaviour = self._stream if method.server_streaming else self._unary
        return make(
            lambda _, context: behaviour(details.method, response, context),
            request.FromString,
            response.SerializeToString,
        )

    def _unary(self, method: str, response: type, context: grpc.ServicerContext) -> Any:
        self._record(method, context)
        return response()

    def _stream(self, method: str, response: type, context: grpc.ServicerContext) -> Iterator[Any]:
        self._record(method, context)
        context.add_callback(self.stream_ended.set)
        yield response()
        yield response()
        if self.mode == "endless":
            self.stream_ended.wait(20)

    def _record(self, method: str, context: grpc.ServicerContext) -> None:
        metadata = {key: str(value) for key, value in context.invocation_metadata()}
        self.calls.append((method, metadata, context.time_remaining()))
        if self.mode == "fail":
            status = to_status(NotFound("no such thing", reason="NO_SUCH_THING"), "t")
            context.set_trailing_metadata(((DETAILS_KEY, status.SerializeToString()),))
            context.abort(grpc.StatusCode.NOT_FOUND, status.message)
        if self.mode == "slow":
            threading.Event().wait(2)


@pytest.fixture
def service() -> AnyService:
    return AnyService()


@pytest.fixture
def address(service: AnyService) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(8), handlers=(service,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


def _name(method: Any) -> str:
    return SHORT_NAMES.get(method.name, re.sub(r"(?<!^)([A-Z])", r"_\1", method.name).lower())


@pytest.mark.parametrize(("sync", "aio", "service_descriptor", "method"), METHODS)
def test_every_rpc_answers_through_both_clients_with_deadline_and_trace(
    sync: type[SyncClient],
    aio: type[AsyncClient],
    service_descriptor: Any,
    method: Any,
    service: AnyService,
    address: str,
) -> None:
    trace = start_trace()
    request = GetMessageClass(method.input_type)()
    with sync(address) as client:
        answers = _synchronously(client, method, request)
    answers += asyncio.run(_asynchronously(aio, address, method, request))
    assert {type(item) for item in answers} == {GetMessageClass(method.output_type)}
    assert len(answers) == (4 if method.server_streaming else 2)
    for called, metadata, time_remaining in service.calls:
        assert called == f"/{service_descriptor.full_name}/{method.name}"
        assert 6 < time_remaining < 7.5  # it is rounded up
        assert metadata["traceparent"].split("-")[1] == trace
    assert len(service.calls) == 2


@pytest.mark.parametrize(("sync", "aio", "service_descriptor", "method"), METHODS)
def test_every_rpc_raises_our_errors_through_both_clients(
    sync: type[SyncClient],
    aio: type[AsyncClient],
    service_descriptor: Any,
    method: Any,
    service: AnyService,
    address: str,
) -> None:
    service.mode = "fail"
    request = GetMessageClass(method.input_type)()
    with sync(address) as client, pytest.raises(NotFound) as caught:
        _synchronously(client, method, request)
    assert caught.value.reason == "NO_SUCH_THING"
    with pytest.raises(NotFound):
        asyncio.run(_asynchronously(aio, address, method, request))


def _synchronously(client: SyncClient, method: Any, request: Any) -> list[Any]:
    answer = getattr(client, _name(method))(request, timeout_s=7)
    return list(answer) if method.server_streaming else [answer]


async def _asynchronously(aio: type[AsyncClient], address: str, method: Any, request: Any) -> list[Any]:
    async with aio(address) as client:
        answer = getattr(client, _name(method))(request, timeout_s=7)
        return [item async for item in answer] if method.server_streaming else [await answer]


@pytest.mark.parametrize(("sync", "aio", "service_descriptor", "method"), METHODS)
def test_both_clients_have_the_same_signature(
    sync: type[SyncClient], aio: type[AsyncClient], service_descriptor: Any, method: Any
) -> None:
    one, two = (inspect.signature(getattr(client, _name(method))) for client in (sync, aio))
    assert one.parameters == two.parameters
    assert one.parameters["timeout_s"].default > 0


def test_a_late_answer_is_deadline_exceeded(service: AnyService, address: str) -> None:
    service.mode = "slow"
    with RewardClient(address) as client, pytest.raises(DeadlineExceeded):
        client.score(reward_service_pb2.ScoreRequest(), timeout_s=0.2)


def test_no_server_is_unavailable_within_seconds() -> None:
    with RewardClient(f"127.0.0.1:{free_port()}") as client, pytest.raises(Unavailable):
        client.score(reward_service_pb2.ScoreRequest(), timeout_s=10)


def test_leaving_a_stream_early_ends_it_in_the_server(service: AnyService, address: str) -> None:
    service.mode = "endless"
    with WeightClient(address) as client:
        for _ in client.watch(weight_service_pb2.WatchRequest()):
            break
        assert service.stream_ended.wait(5)


async def test_leaving_a_stream_early_ends_it_in_the_server_for_asyncio(service: AnyService, address: str) -> None:
    service.mode = "endless"
    async with AsyncWeightClient(address) as client:
        stream = client.watch(weight_service_pb2.WatchRequest())
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        assert await asyncio.to_thread(service.stream_ended.wait, 5)


def test_threads_share_one_channel_and_the_client_leaves_it_open(service: AnyService, address: str) -> None:
    with sync_channel(address) as channel, RewardClient(channel) as reward, GenerationClient(channel) as generation:
        threads = [
            threading.Thread(target=client, args=(request,))
            for client, request in [
                (reward.score, reward_service_pb2.ScoreRequest()),
                (generation.status, generation_service_pb2.GetStatusRequest()),
            ]
            * 16
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(service.calls) == 32
        reward.close()
        assert generation.status(generation_service_pb2.GetStatusRequest()) is not None


def test_calls_spread_over_all_servers_of_an_address(service: AnyService, address: str) -> None:
    second = AnyService()
    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=(second,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with RewardClient(f"ipv4:{address},127.0.0.1:{port}") as client:

        def both_called() -> bool:
            client.score(reward_service_pb2.ScoreRequest())
            return bool(service.calls) and bool(second.calls)

        wait_until(both_called, 10, "both servers to be called")
        server.stop(0).wait()
        for _ in range(10):  # the one that left is skipped: its UNAVAILABLE is tried again elsewhere
            client.score(reward_service_pb2.ScoreRequest())


def test_an_environment_with_a_proxy_changes_nothing(
    service: AnyService, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    with RewardClient(address) as client:
        assert client.score(reward_service_pb2.ScoreRequest()) is not None


def test_every_service_of_the_protos_has_its_clients_here() -> None:
    files = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file
    in_protos = {f"{file.package}.{service.name}" for file in files for service in file.service}
    assert in_protos == {service.full_name for _, _, service in PAIRS}
