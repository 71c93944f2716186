"""The life of a generator process: waiting, draining, dying; nothing outlives it."""

import asyncio
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from preceptor.api.common.v1 import text_pb2
from preceptor.api.generation.v1 import generation_service_pb2 as pb
from preceptor.clients.generation import AsyncGenerationClient
from preceptor.common.discovery import KIND_GENERATION, Registry
from preceptor.common.errors import FailedPrecondition, Unavailable
from preceptor.common.waiting import wait_until
from tests.integration.generation.support import Generator, request, telltale_policy
from tests.support.models import build_policy
from tests.support.redis import RedisProcess

CONTEXT = 4096


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    return build_policy(folder, hidden_size=128, max_position_embeddings=CONTEXT)


@pytest.fixture
def generator(tmp_path: Path, redis_process: RedisProcess) -> Iterator[Generator]:
    made = Generator(tmp_path, redis_process.url, drain_timeout_s=4, max_num_seqs=32)
    yield made
    made.client.close()


def endless(index: int, n: int = 4) -> pb.GenerateRequest:
    return request([20 + index], n=n, max_tokens=CONTEXT - 8)


@pytest.mark.slow
async def test_waits_for_weights_serves_and_hands_back_on_sigterm(
    generator: Generator, policy: Path, redis_process: RedisProcess
) -> None:
    with generator.process as process:
        wait_until(lambda: "no policy version of run" in message(generator), 60, "the generator to look for weights")
        assert generator.status().state == pb.GENERATOR_STATE_WAITING_FOR_WEIGHTS
        assert process.http("/healthz")[0] == 200
        assert process.http("/readyz")[0] == 503
        with pytest.raises(Unavailable, match="waiting for weights"):
            generator.client.generate(request([9]), timeout_s=5)
        generator.publish(3, telltale_policy(generator.staging.parent / "never-ends", policy, 3))
        process.wait_ready(60)
        assert generator.status().policy_version == 3
        registry = Registry(redis_process.url)
        wait_until(lambda: len(registry.list(KIND_GENERATION)) == 1, 5, "the record")

        async with AsyncGenerationClient(f"127.0.0.1:{generator.port}") as client:
            streaming = asyncio.ensure_future(collect_stream(client))
            await asyncio.to_thread(wait_until, lambda: generator.status().running_requests == 1, 30, "the stream")
            calls = [asyncio.ensure_future(client.generate(endless(index), timeout_s=60)) for index in range(12)]
            await asyncio.to_thread(wait_until, lambda: generator.status().running_requests == 32, 30, "full load")
            waiting = asyncio.ensure_future(client.generate(request([9], min_policy_version=9), timeout_s=60))
            await asyncio.to_thread(wait_until, lambda: generator.status().waiting_requests == 18, 30, "the waiting")
            process.signal(signal.SIGTERM)
            answers = await asyncio.gather(*calls)
            deltas = await streaming
            with pytest.raises(Unavailable):
                await waiting
        assert process.wait(15) == 0
        assert registry.list(KIND_GENERATION) == []
        process.assert_no_orphans(5)
    completions = [completion for answer in answers for completion in answer.completions]
    ends = {completion.finish_reason for completion in completions}
    assert ends == {text_pb2.FINISH_REASON_HANDED_BACK}
    assert sum(len(completion.token_ids) > 0 for completion in completions) >= 31, "of 32 places one was the stream's"
    for completion in completions:
        assert len(completion.token_ids) == len(completion.sampling_logprobs)
        assert sum(span.end - span.begin for span in completion.version_spans) == len(completion.token_ids)
    check_handed_back_stream(deltas)
    assert not list(generator.staging.iterdir())


async def collect_stream(client: AsyncGenerationClient) -> list[text_pb2.Completion]:
    asked = pb.GenerateStreamRequest(request=endless(99, n=1), delta_tokens=1024)
    return [response.delta async for response in client.generate_stream(asked, timeout_s=60)]


def check_handed_back_stream(deltas: list[text_pb2.Completion]) -> None:
    """What was held back for a full delta came with the hand-back: the deltas are the tokens that the spans cover."""
    written = [delta for delta in deltas if delta.token_ids or delta.finish_reason]
    last = written[-1]
    assert last.finish_reason == text_pb2.FINISH_REASON_HANDED_BACK
    assert len(written[0].token_ids) == 1
    assert 0 < len(last.token_ids) < 1024
    count = sum(len(delta.token_ids) for delta in written)
    assert count == sum(len(delta.sampling_logprobs) for delta in written)
    assert [(span.begin, span.end) for span in last.version_spans] == [(0, count)]


@pytest.mark.slow
async def test_a_model_folder_is_served_until_the_engine_dies_and_the_server_with_it(
    tmp_path: Path, redis_process: RedisProcess, policy: Path
) -> None:
    generator = Generator(tmp_path, redis_process.url, run_id="", model_dir=policy)
    with generator.process as process:
        process.wait_ready(90)
        assert (generator.status().run_id, generator.status().policy_version) == ("", 0)
        with pytest.raises(FailedPrecondition, match="model folder"):
            generator.client.update_weights(pb.UpdateWeightsRequest())
        with pytest.raises(FailedPrecondition, match="no run"):
            generator.client.generate(request([9], run_id="some-run"))
        async with AsyncGenerationClient(f"127.0.0.1:{generator.port}") as client:
            call = asyncio.ensure_future(client.generate(endless(0), timeout_s=60))
            await asyncio.to_thread(wait_until, lambda: generator.status().running_requests == 4, 30, "the call to run")
            [engine] = [one for one in process.family() if "EngineC" in one.name()]
            engine.kill()
            with pytest.raises(Unavailable):
                await call
        assert process.wait(15) == 1
        assert "generator ends: vLLM's engine process has ended; restart it" in process.log()
        process.assert_no_orphans(5)


@pytest.mark.slow
def test_sigterm_while_it_loads_ends_it_at_once(generator: Generator, policy: Path) -> None:
    generator.publish(0, policy)
    with generator.process as process:
        wait_until(lambda: "loading policy version 0" in message(generator), 60, "the generator to load")
        asked = time.monotonic()
        assert process.terminate() == 0
        assert time.monotonic() - asked < 5
        process.assert_no_orphans(5)


@pytest.mark.slow
def test_sigkill_of_the_server_leaves_no_process_after_five_seconds(generator: Generator, policy: Path) -> None:
    generator.publish(0, policy)
    process = generator.process.start()
    try:
        process.wait_ready(90)
        family = process.family()
        assert len(family) >= 3, "the server, EngineCore and Worker"
        process.kill()
        killed = time.monotonic()
        psutil.wait_procs(family, timeout=5)
        assert process.family() == [], f"alive {time.monotonic() - killed:.1f} s after the kill"
    finally:
        process.assert_no_orphans(20)


def test_settings_that_contradict_each_other_end_it_with_code_2(tmp_path: Path, redis_process: RedisProcess) -> None:
    both = Generator(tmp_path, redis_process.url, model_dir=tmp_path)
    assert both.process.start().wait(30) == 2
    [line] = both.process.log().splitlines()
    assert "set exactly one of PRECEPTOR_GENERATION_RUN_ID and PRECEPTOR_GENERATION_MODEL_DIR" in line


def test_a_missing_model_folder_ends_it_with_code_2(tmp_path: Path, redis_process: RedisProcess) -> None:
    missing = Generator(tmp_path, redis_process.url, run_id="", model_dir=tmp_path / "none")
    assert missing.process.start().wait(30) == 2
    [line] = missing.process.log().splitlines()
    assert line.startswith(f"PRECEPTOR_GENERATION_MODEL_DIR='{tmp_path / 'none'}' is wrong: there is no config.json")


def test_a_port_in_use_ends_it_with_code_1_and_one_line(tmp_path: Path, redis_process: RedisProcess) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        generator = Generator(tmp_path, redis_process.url, port=port)
        assert generator.process.start().wait(30) == 1
    assert f"port {port} is in use: stop what uses it or set PRECEPTOR_GENERATION_PORT" in generator.process.log()
    generator.process.assert_no_orphans(10)


def message(generator: Generator) -> str:
    try:
        return generator.status().message
    except Unavailable:
        return ""
