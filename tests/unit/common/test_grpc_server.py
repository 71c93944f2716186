"""The server in this process: errors, limits, health, reflection, probes, drain."""

import asyncio
import json
import logging
import urllib.request
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from preceptor.api.learner.v1 import weight_service_pb2
from preceptor.api.reward.v1 import reward_service_pb2
from preceptor.clients.learner import AsyncWeightClient
from preceptor.clients.reward import AsyncRewardClient
from preceptor.common.channels import aio_channel
from preceptor.common.errors import (
    Cancelled,
    InternalError,
    InvalidInput,
    Overloaded,
    PermissionDenied,
    PortInUse,
    PreceptorError,
    Unavailable,
)
from preceptor.common.grpc_server import Server
from preceptor.common.telemetry import start_trace
from preceptor.common.waiting import wait_until_aio
from tests.unit.common.toy_service import REWARD, WEIGHTS, ToyReward, ToySettings, build

Score = reward_service_pb2.ScoreRequest
Watch = weight_service_pb2.WatchRequest
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def settings(**changes: Any) -> ToySettings:
    return ToySettings(**{"artifacts_url": "file:///nowhere", "drain_timeout_s": 5, **changes})


class Toy:
    """A running toy server with a channel to it."""

    def __init__(self, server: Server, servicer: ToyReward, channel: grpc.aio.Channel) -> None:
        self.server = server
        self.servicer = servicer
        self.channel = channel
        self.reward = AsyncRewardClient(channel)
        self.weights = AsyncWeightClient(channel)
        self.health = health_pb2_grpc.HealthStub(channel)

    async def status(self, service: str) -> int:
        answer = await self.health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        return int(answer.status)


@pytest.fixture
async def toy() -> AsyncIterator[Toy]:
    server, servicer = build(settings(max_concurrent_rpcs=4))
    await server.start()
    server.serve()
    channel = aio_channel(f"127.0.0.1:{server.port}")
    yield Toy(server, servicer, channel)
    servicer.release.set()
    await channel.close()
    await server.stop()


async def _drain_stream(toy: Toy, how: str) -> list[weight_service_pb2.WatchResponse]:
    return [message async for message in toy.weights.watch(Watch(run_id=how), timeout_s=5)]


async def _drain_fetch(toy: Toy, how: str) -> list[weight_service_pb2.FetchWeightsResponse]:
    request = weight_service_pb2.FetchWeightsRequest(run_id=how)
    return [message async for message in toy.weights.fetch_weights(request, timeout_s=5)]


async def _score(toy: Toy, how: str) -> reward_service_pb2.ScoreResponse:
    return await toy.reward.score(Score(model=how), timeout_s=5)


CALLS = pytest.mark.parametrize("call", [_score, _drain_stream, _drain_fetch], ids=["unary", "generator", "writer"])
Call = Callable[[Toy, str], Any]


@CALLS
async def test_known_error_reaches_the_caller_with_all_its_details(toy: Toy, call: Call) -> None:
    with pytest.raises(Overloaded) as caught:
        await call(toy, "overloaded")
    error = caught.value
    assert error.message == "the queue holds 8 of 8"
    assert error.reason == "QUEUE_FULL"
    assert error.retry_after_s == 2.5
    assert error.metadata["limit"] == "8"
    assert len(error.metadata["trace_id"]) == 32


@CALLS
async def test_field_violation_names_the_field(toy: Toy, call: Call) -> None:
    with pytest.raises(InvalidInput) as caught:
        await call(toy, "invalid")
    assert caught.value.field == "sampling.temperature"


@CALLS
async def test_unknown_error_is_generic_to_the_caller_and_whole_in_the_log(
    toy: Toy, call: Call, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR), pytest.raises(InternalError) as caught:
        await call(toy, "defect")
    assert "secret" not in caught.value.message
    assert caught.value.metadata["trace_id"] in caught.value.message
    assert any(record.exc_info and "secret" in str(record.exc_info[1]) for record in caplog.records)


async def test_servicers_own_abort_passes_untouched(toy: Toy) -> None:
    with pytest.raises(PermissionDenied, match="the servicer's own words"):
        await _score(toy, "abort")


async def test_stream_delivers_what_came_before_the_error(toy: Toy) -> None:
    stream = toy.weights.watch(Watch(run_id="invalid"), timeout_s=5)
    assert (await anext(stream)).manifest.run_id == "invalid"
    with pytest.raises(InvalidInput):
        await anext(stream)


async def test_callers_trace_continues_in_the_server(toy: Toy) -> None:
    trace = start_trace()
    assert (await _score(toy, "")).model == trace


async def test_calls_past_the_limit_are_refused_with_a_retry_hint_and_probes_still_answered(toy: Toy) -> None:
    running = [asyncio.create_task(_score(toy, "wait")) for _ in range(4)]
    await wait_until_aio(lambda: toy.servicer.waiting == 4, 5, "4 calls to run")
    with pytest.raises(Overloaded) as caught:
        await _score(toy, "")
    assert caught.value.retry_after_s
    assert await toy.status(REWARD) == SERVING
    toy.servicer.release.set()
    await asyncio.gather(*running)
    assert (await _score(toy, "")).model


async def test_a_cancelled_call_stops_in_the_server_and_frees_its_place(toy: Toy) -> None:
    for _ in range(3):
        running = [asyncio.create_task(_score(toy, "wait")) for _ in range(4)]
        await wait_until_aio(lambda: toy.servicer.waiting == 4, 5, "4 calls to run")
        for task in running:
            task.cancel()
        await wait_until_aio(lambda: toy.servicer.waiting == 0, 5, "the calls to stop")
    assert toy.servicer.cancelled == 12
    assert (await _score(toy, "")).model


async def test_oversized_message_is_refused_and_the_next_call_served(toy: Toy) -> None:
    with pytest.raises(Overloaded):
        await toy.reward.score(Score(model="x" * (17 * 1024 * 1024)), timeout_s=10)
    assert (await _score(toy, "")).model


async def test_health_is_per_service_and_not_serving_until_served() -> None:
    server, _ = build(settings())
    await server.start()
    channel = aio_channel(f"127.0.0.1:{server.port}")
    toy = Toy(server, ToyReward(), channel)
    assert [await toy.status(name) for name in (REWARD, WEIGHTS, "")] == [NOT_SERVING] * 3
    server.serve()
    await wait_until_aio(lambda: _is(toy, "", SERVING), 5, "SERVING")
    server.health.set_serving(WEIGHTS, False)
    await wait_until_aio(lambda: _is(toy, WEIGHTS, NOT_SERVING), 5, "NOT_SERVING")
    assert await toy.status(REWARD) == SERVING
    with pytest.raises(grpc.RpcError) as caught:
        await toy.status("no.such.Service")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    await channel.close()
    await server.stop()


async def _is(toy: Toy, service: str, status: int) -> bool:
    return await toy.status(service) == status


async def test_watch_streams_each_change_and_ends_with_the_server(toy: Toy) -> None:
    seen: list[int] = []

    async def watch() -> None:
        async for answer in toy.health.Watch(health_pb2.HealthCheckRequest(service=REWARD), timeout=20):
            seen.append(answer.status)  # noqa: PERF401  read while it grows

    watching = asyncio.create_task(watch())
    await wait_until_aio(lambda: seen == [SERVING], 5, "the first state")
    toy.server.health.set_serving(REWARD, False)
    await wait_until_aio(lambda: seen == [SERVING, NOT_SERVING], 5, "the second state")
    await asyncio.to_thread(toy.server.health.set_serving, REWARD, True)
    await wait_until_aio(lambda: seen == [SERVING, NOT_SERVING, SERVING], 5, "the third state")
    async with asyncio.timeout(2):  # far below the drain time: an open watch holds nothing up
        await toy.server.stop()
        await watching
    assert seen[-1] == NOT_SERVING


async def test_reflection_lists_the_services_when_switched_on(toy: Toy) -> None:
    assert {REWARD, WEIGHTS, "grpc.health.v1.Health"} <= await _reflected(toy.channel)


async def test_reflection_is_absent_when_switched_off() -> None:
    server, _ = build(settings(reflection=False))
    await server.start()
    async with aio_channel(f"127.0.0.1:{server.port}") as channel:
        with pytest.raises(grpc.RpcError) as caught:
            await _reflected(channel)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    await server.stop()


async def _reflected(channel: grpc.aio.Channel) -> set[str]:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    async for answer in stub.ServerReflectionInfo(iter([request]), timeout=5):
        return {service.name for service in answer.list_services_response.service}
    return set()


async def test_probe_port_reports_life_readiness_and_metrics(toy: Toy) -> None:
    await _score(toy, "")
    page = await asyncio.to_thread(_get, toy.server.metrics_port, "/metrics")
    assert (
        'preceptor_grpc_server_requests_total{code="OK",method="/preceptor.api.reward.v1.RewardService/Score"}' in page
    )
    ready = json.loads(await asyncio.to_thread(_get, toy.server.metrics_port, "/readyz"))
    assert ready == {"ok": True, "ready": True, "serving": {REWARD: True, WEIGHTS: True}}


def _get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return str(answer.read().decode())


async def test_stop_lets_running_calls_finish() -> None:
    server, servicer = build(settings())
    await server.start()
    server.serve()
    async with AsyncRewardClient(f"127.0.0.1:{server.port}") as client:
        running = asyncio.create_task(client.score(Score(model="wait"), timeout_s=10))
        await wait_until_aio(lambda: servicer.waiting == 1, 5, "the call to run")

        async def on_drain(timeout_s: float) -> None:
            assert timeout_s == 5
            assert server.draining.is_set()
            assert not server.health.ready
            servicer.release.set()

        await server.stop(on_drain)
        assert (await running).model


async def test_stop_cancels_what_outlasts_the_drain_time() -> None:
    server, servicer = build(settings(drain_timeout_s=0.3))
    await server.start()
    async with AsyncRewardClient(f"127.0.0.1:{server.port}") as client:
        running = asyncio.create_task(client.score(Score(model="wait"), timeout_s=10))
        await wait_until_aio(lambda: servicer.waiting == 1, 5, "the call to run")
        async with asyncio.timeout(3):
            await server.stop()
        with pytest.raises(PreceptorError) as caught:
            await running
        assert isinstance(caught.value, Cancelled | Unavailable)
    assert servicer.cancelled == 1


async def test_a_port_in_use_names_the_variable(toy: Toy) -> None:
    second, _ = build(settings(port=toy.server.port))
    with pytest.raises(PortInUse) as caught:
        await second.start()
    assert caught.value.message == (f"port {toy.server.port} is in use: stop what uses it or set PRECEPTOR_TOY_PORT")
    third, _ = build(settings(metrics_port=toy.server.metrics_port))
    with pytest.raises(PortInUse, match="PRECEPTOR_TOY_METRICS_PORT"):
        await third.start()
