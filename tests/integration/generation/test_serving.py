"""One generator process with a real engine: what it answers, before, during and after weight updates."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from preceptor.api.common.v1 import text_pb2
from preceptor.api.generation.v1 import generation_service_pb2 as pb
from preceptor.api.learner.v1.weights_pb2 import WeightManifest
from preceptor.clients.generation import AsyncGenerationClient
from preceptor.common import weights_manifest
from preceptor.common.errors import DataLoss, FailedPrecondition, InvalidInput, NotFound, Overloaded
from preceptor.common.waiting import wait_until
from tests.integration.generation.support import (
    FIRST_TELLTALE,
    MISSHAPEN,
    RUN_ID,
    Generator,
    Reference,
    mean_abs_difference,
    misshapen_policy,
    policies,
    publish,
    request,
    telltale_policy,
)
from tests.support.redis import RedisProcess

pytestmark = pytest.mark.slow
MAX_REQUESTS = 256
CONTEXT = 512


class Served(Generator):
    """The module's generator, and what has been put into force so far."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        super().__init__(folder, redis_url, max_requests=MAX_REQUESTS, max_num_seqs=32)
        self.random = policies(folder, 2)
        self.references = [Reference(policy) for policy in self.random]
        self.folder = folder
        self.version = 0
        self.by_version = {0: self.references[0]}

    def serve(self, which: int) -> int:
        """Brings a random policy into force as the next version. Returns the version."""
        version = self.start_serving(which)
        self.wait_version(version)
        return version

    def start_serving(self, which: int) -> int:
        self.version += 1
        self.by_version[self.version] = self.references[which]
        self.publish(self.version, self.random[which])
        return self.version


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, redis_process: RedisProcess) -> Iterator[Served]:
    generator = Served(tmp_path_factory.mktemp("served"), redis_process.url)
    generator.publish(0, generator.random[0])
    with generator.process:
        generator.process.wait_ready(90)
        yield generator
        generator.client.close()


def long_prompt(seed: int, length: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(5, 380) for _ in range(length)]


def generate(served: Served, asked: pb.GenerateRequest) -> pb.GenerateResponse:
    return served.client.generate(asked, timeout_s=60)


def check_shape(completion: text_pb2.Completion) -> None:
    """The token-wise lists agree and the spans cover the tokens without gap or overlap."""
    count = len(completion.token_ids)
    assert len(completion.sampling_logprobs) == count > 0
    edges = [0, *(span.end for span in completion.version_spans)]
    assert [span.begin for span in completion.version_spans] == edges[:-1]
    assert edges[-1] == count
    versions = [span.policy_version for span in completion.version_spans]
    assert versions == sorted(set(versions))


def check_against_version(served: Served, prompt: list[int], completion: text_pb2.Completion) -> None:
    [span] = completion.version_spans
    expected = served.by_version[span.policy_version].logprobs(prompt, list(completion.token_ids))
    assert mean_abs_difference(completion, expected) < 1e-3


@pytest.mark.parametrize("length", [3, 128, 300])
def test_logprobs_equal_those_of_transformers(served: Served, length: int) -> None:
    served.serve(0)
    prompt = long_prompt(length, length)
    answer = generate(served, request(prompt, n=3, max_tokens=32))
    assert list(answer.prompt_token_ids) == prompt
    assert len(answer.completions) == 3
    for completion in answer.completions:
        check_shape(completion)
        check_against_version(served, prompt, completion)


def test_logprobs_are_of_the_distribution_at_the_asked_temperature(served: Served) -> None:
    asked = request([7, 8, 9], max_tokens=32)
    asked.sampling.temperature = 0.5
    [completion] = generate(served, asked).completions
    reference = served.by_version[completion.version_spans[0].policy_version]
    assert mean_abs_difference(completion, reference.logprobs([7, 8, 9], list(completion.token_ids), 0.5)) < 1e-3


def test_a_cached_prefix_of_older_weights_is_never_used(served: Served) -> None:
    served.serve(0)
    prompt = long_prompt(1, 300)  # over two of the CPU's KV blocks
    generate(served, request(prompt, n=2))
    served.serve(1)
    for completion in generate(served, request(prompt, n=2)).completions:
        check_against_version(served, prompt, completion)


def cached_tokens(served: Served) -> float:
    page = served.process.http("/metrics")[1]
    return float(page.split("\npreceptor_generation_cached_prompt_tokens_total ")[1].split()[0])


def test_a_group_reads_its_prompt_once(served: Served) -> None:
    served.serve(0)
    prompt = long_prompt(77, 300)  # two whole blocks of 128 tokens, and some
    before = cached_tokens(served)
    generate(served, request(prompt, n=4))
    assert cached_tokens(served) - before == 3 * 256, "all but the first completion found both blocks"
    generate(served, request(prompt, n=1))
    assert cached_tokens(served) - before == 4 * 256, "the same prompt's next group, of the same version, does too"
    served.serve(1)
    before = cached_tokens(served)
    generate(served, request(prompt, n=2))
    assert cached_tokens(served) - before == 256, "nothing crosses versions: the first completion read it all again"


async def test_two_hundred_requests_at_once_over_an_update_are_answered_rightly_or_refused(served: Served) -> None:
    shared = long_prompt(2, 280)  # most share a prefix, and most wait when the weights change
    prompts = [[*shared, 5 + index % 3] if index % 2 else long_prompt(index, 60 + index) for index in range(200)]
    before = served.version
    async with AsyncGenerationClient(f"127.0.0.1:{served.port}") as client:
        seeds = [index if index % 4 == 1 else None for index in range(200)]
        calls = [
            asyncio.ensure_future(client.generate(request(prompt, max_tokens=24, seed=seed), timeout_s=120))
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.to_thread(served.start_serving, 0)
        answers = await asyncio.gather(*calls)
    crossing = set()
    unmixed: dict[int, list[tuple[list[int], text_pb2.Completion]]] = {}
    for prompt, answer in zip(prompts, answers, strict=True):
        [completion] = answer.completions
        check_shape(completion)
        versions = [span.policy_version for span in completion.version_spans]
        crossing |= set(versions)
        if len(versions) == 1:
            unmixed.setdefault(versions[0], []).append((prompt, completion))
    for version, group in unmixed.items():
        pairs = [(prompt, list(completion.token_ids)) for prompt, completion in group]
        for (_, completion), expected in zip(group, served.by_version[version].logprobs_of(pairs), strict=True):
            assert mean_abs_difference(completion, expected) < 1e-3
    assert crossing == {before, served.version}, "the update was to happen while requests ran"
    assert served.status().running_requests == 0


async def test_more_than_the_bound_is_refused_with_a_hint(served: Served) -> None:
    async with AsyncGenerationClient(f"127.0.0.1:{served.port}") as client:
        calls = [client.generate(request([9] * 20, n=8, max_tokens=100), timeout_s=120) for _ in range(48)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert len(answers) - len(refused) >= MAX_REQUESTS // 8
    assert refused
    for error in refused:
        assert isinstance(error, Overloaded)
        assert error.retry_after_s
        assert error.reason == "QUEUE_FULL"


async def test_no_token_is_labelled_with_a_version_that_did_not_compute_it(served: Served) -> None:
    base = served.random[0]
    first = served.version + 1
    async with AsyncGenerationClient(f"127.0.0.1:{served.port}") as client:
        asked = [request([20 + index], n=4, max_tokens=200 + index) for index in range(16)]
        publish(served.store, first, telltale_policy(served.folder / f"telltale-{first}", base, first))
        await asyncio.to_thread(served.wait_version, first)
        calls = [asyncio.ensure_future(client.generate(one, timeout_s=120)) for one in asked]
        version = first
        while not all(call.done() for call in calls) and version < first + 20:
            version += 1
            publish(served.store, version, telltale_policy(served.folder / f"telltale-{version}", base, version))
            await client.update_weights(pb.UpdateWeightsRequest(), timeout_s=60)
        answers = await asyncio.gather(*calls)
    served.version = version
    spans = 0
    for answer in answers:
        for completion in answer.completions:
            check_shape(completion)
            for span in completion.version_spans:
                spans += 1
                tokens = set(completion.token_ids[span.begin : span.end])
                assert tokens == {FIRST_TELLTALE + span.policy_version}
    assert spans > 64, "updates were to happen while sequences ran"


def test_a_seed_gives_the_same_group_again_and_distinct_members(served: Served) -> None:
    served.serve(1)
    first, again = (generate(served, request(long_prompt(3, 150), n=3, seed=7)).completions for _ in range(2))
    assert [list(one.token_ids) for one in first] == [list(one.token_ids) for one in again]
    assert len({tuple(one.token_ids) for one in first}) == 3


def test_corrupt_weights_leave_the_serving_version_untouched(served: Served) -> None:
    served.serve(0)
    bad = served.version + 1
    folder = served.publish(bad, served.random[1], announce=False)
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-5] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    manifest = weights_manifest.read_manifest(folder)
    manifest.sources.add(transport=1, uri=folder.as_uri())
    with pytest.raises(DataLoss, match=r"tensor model\..* other bytes"):
        served.client.update_weights(pb.UpdateWeightsRequest(manifest=manifest))
    status = served.status()
    assert status.policy_version == served.version
    assert status.recent_updates[-1].policy_version == bad
    assert "other bytes" in status.recent_updates[-1].error
    assert status.recent_updates[-1].stall_seconds == 0
    served.version = bad
    served.serve(1)  # the next good version comes into force


def test_weights_of_another_shape_are_refused_before_anything_is_paused(served: Served, tmp_path: Path) -> None:
    good = served.serve(0)
    served.publish(good + 1, misshapen_policy(tmp_path / "odd", served.random[1]))
    wait_until(lambda: served.status().recent_updates[-1].policy_version == good + 1, 20, "the attempt")
    record = served.status().recent_updates[-1]
    assert MISSHAPEN in record.error
    assert record.stall_seconds == 0
    assert served.status().policy_version == good
    prompt = long_prompt(4, 200)
    for completion in generate(served, request(prompt, n=2)).completions:
        check_against_version(served, prompt, completion)
    served.version = good + 1
    served.serve(1)


def test_a_manifest_of_another_run_is_refused(served: Served) -> None:
    manifest = WeightManifest(run_id="other", policy_version=10_000, encoding=1)
    with pytest.raises(FailedPrecondition, match="other"):
        served.client.update_weights(pb.UpdateWeightsRequest(manifest=manifest))


def test_min_policy_version_waits_for_the_version(served: Served) -> None:
    async def scenario() -> pb.GenerateResponse:
        async with AsyncGenerationClient(f"127.0.0.1:{served.port}") as client:
            wanted = served.version + 1
            call = asyncio.ensure_future(client.generate(request([9], min_policy_version=wanted), timeout_s=60))
            await asyncio.to_thread(wait_until, lambda: served.status().running_requests == 1, 10, "the call to wait")
            await asyncio.to_thread(served.start_serving, 0)
            return await call

    answer = asyncio.run(scenario())
    assert answer.admitted_policy_version >= served.version
    assert answer.completions[0].version_spans[0].policy_version >= served.version


def test_min_policy_version_that_does_not_come_fails_within_the_deadline(served: Served) -> None:
    with pytest.raises(FailedPrecondition) as error:
        served.client.generate(request([9], min_policy_version=10_000), timeout_s=1.5)
    assert error.value.field == "min_policy_version"
    assert error.value.metadata["policy_version"] == str(served.version)


def bent(**fields: float) -> pb.GenerateRequest:
    asked = request([9])
    for name, value in fields.items():
        setattr(asked.sampling, name, value)
    return asked


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (bent(top_p=0.9), "sampling.top_p"),
        (bent(top_k=5), "sampling.top_k"),
        (bent(min_tokens=2), "sampling.min_tokens"),
        (bent(presence_penalty=0.5), "sampling.presence_penalty"),
        (bent(frequency_penalty=0.5), "sampling.frequency_penalty"),
        (bent(repetition_penalty=1.2), "sampling.repetition_penalty"),
        (bent(temperature=0.0), "sampling.temperature"),
        (bent(temperature=-1.0), "sampling.temperature"),
        (bent(temperature=float("nan")), "sampling.temperature"),
        (request([9], max_tokens=0), "sampling.max_tokens"),
        (request([9], n=-1), "n"),
        (request([9], n=100_000), "n"),
        (request([9] * CONTEXT), "prompt.token_ids"),
        (request("word " * CONTEXT), "prompt.text"),
        (request([]), "prompt.token_ids"),
        (request(""), "prompt.text"),
        (request([9, -1]), "prompt.token_ids[1]"),
        (request([9, 10**6]), "prompt.token_ids[1]"),
        (pb.GenerateRequest(), "sampling.max_tokens"),
    ],
)
def test_bad_requests_name_the_field(served: Served, asked: pb.GenerateRequest, field: str) -> None:
    with pytest.raises(InvalidInput) as error:
        generate(served, asked)
    assert error.value.field == field


def test_a_prompt_too_long_names_the_limit(served: Served) -> None:
    with pytest.raises(InvalidInput, match=f"has {CONTEXT} tokens: at most {CONTEXT - 1}"):
        generate(served, request([9] * CONTEXT))
    assert generate(served, request([9] * (CONTEXT - 1), max_tokens=5)).completions[0].token_ids


def test_another_run_is_refused(served: Served) -> None:
    with pytest.raises(FailedPrecondition) as error:
        generate(served, request([9], run_id="another"))
    assert error.value.field == "run_id"
    assert generate(served, request([9], run_id=RUN_ID)).run_id == RUN_ID


def test_general_mode_samples_as_asked(served: Served) -> None:
    asked = request("the quick brown", rl=False, max_tokens=12)
    asked.sampling.temperature = 0.0
    first, again = (list(generate(served, asked).completions[0].token_ids) for _ in range(2))
    assert first == again


def test_a_conversation_is_rendered_with_the_chat_template(served: Served) -> None:
    asked = request([], max_tokens=4)
    asked.prompt.conversation.messages.add(role="user", content="hello")
    as_text = request("<|user|>hello<|assistant|>", max_tokens=4)
    assert list(generate(served, asked).prompt_token_ids) == list(generate(served, as_text).prompt_token_ids)


def test_stop_strings_end_the_text_before_them(served: Served) -> None:
    asked = request([9], n=4, max_tokens=300, rl=False)
    asked.sampling.stop.extend(["e", "a"])
    for completion in generate(served, asked).completions:
        assert completion.finish_reason == text_pb2.FINISH_REASON_STOP
        assert not {"e", "a"} & set(completion.text)


@pytest.mark.parametrize(("delta_tokens", "at_least"), [(0, 16), (1, 1), (7, 7)])
def test_a_stream_carries_the_whole_completion_in_order(served: Served, delta_tokens: int, at_least: int) -> None:
    asked = pb.GenerateStreamRequest(request=request("the small", max_tokens=40), delta_tokens=delta_tokens)
    responses = list(served.client.generate_stream(asked, timeout_s=60))
    counts = [count for response in responses if (count := len(response.delta.token_ids))]
    assert counts[0] == 1, counts
    assert all(count >= at_least for count in counts[1:-1]), counts
    tokens = [token for response in responses for token in response.delta.token_ids]
    logprobs = [value for response in responses for value in response.delta.sampling_logprobs]
    prompt = list(responses[0].prompt_token_ids)
    assert all(not response.delta.finish_reason for response in responses[:-1])
    whole = text_pb2.Completion(
        token_ids=tokens, sampling_logprobs=logprobs, version_spans=responses[-1].delta.version_spans
    )
    assert responses[-1].delta.finish_reason in (text_pb2.FINISH_REASON_STOP, text_pb2.FINISH_REASON_LENGTH)
    check_shape(whole)
    check_against_version(served, prompt, whole)


def test_a_stream_of_several_completions_says_on_the_way_which_version_wrote_what(served: Served) -> None:
    version = served.serve(0)
    asked = pb.GenerateStreamRequest(request=request("the small", n=3, max_tokens=60), delta_tokens=8, text_at_end=True)
    responses = list(served.client.generate_stream(asked, timeout_s=60))
    assert responses[0].generator_id
    for index in range(3):
        mine = [response.delta for response in responses if response.index == index and response.delta.token_ids]
        written = 0
        for delta in mine:
            written += len(delta.token_ids)
            spans = [(span.policy_version, span.begin, span.end) for span in delta.version_spans]
            assert spans in ([(version, 0, written)], []), "exact, or not known yet"
        assert [bool(delta.text) for delta in mine] == [False] * (len(mine) - 1) + [True]
        assert sum(bool(delta.version_spans) for delta in mine) >= len(mine) / 2
        tokens = [token for delta in mine for token in delta.token_ids]
        logprobs = [value for delta in mine for value in delta.sampling_logprobs]
        whole = text_pb2.Completion(token_ids=tokens, sampling_logprobs=logprobs, version_spans=mine[-1].version_spans)
        check_shape(whole)
        check_against_version(served, list(responses[0].prompt_token_ids), whole)


def test_deltas_of_no_sensible_size_are_refused(served: Served) -> None:
    with pytest.raises(InvalidInput) as error:
        list(served.client.generate_stream(pb.GenerateStreamRequest(request=request([9]), delta_tokens=-1)))
    assert error.value.field == "delta_tokens"


def test_what_was_handed_back_is_continued(served: Served) -> None:
    version = served.serve(0)
    prompt = long_prompt(5, 140)
    [earlier] = generate(served, request(prompt, max_tokens=10, rl=False)).completions
    if earlier.finish_reason == text_pb2.FINISH_REASON_STOP:
        del earlier.token_ids[-1:], earlier.sampling_logprobs[-1:]
        earlier.version_spans[0].end -= 1
    earlier.finish_reason = text_pb2.FINISH_REASON_HANDED_BACK
    later = served.serve(1)
    count = len(earlier.token_ids)
    continued, fresh = generate(served, request(prompt, n=2, max_tokens=30, continue_from=[earlier])).completions
    check_shape(continued)
    assert list(continued.token_ids[:count]) == list(earlier.token_ids)
    assert list(continued.sampling_logprobs[:count]) == list(earlier.sampling_logprobs)
    spans = [(span.policy_version, span.begin, span.end) for span in continued.version_spans]
    assert spans == [(version, 0, count), (later, count, len(continued.token_ids))]
    assert len(continued.token_ids) <= 30
    rest = served.references[1].logprobs([*prompt, *earlier.token_ids], list(continued.token_ids[count:]))
    assert list(continued.sampling_logprobs[count:]) == pytest.approx(rest, abs=1e-3)
    check_against_version(served, prompt, fresh)


def test_a_broken_completion_to_continue_is_refused(served: Served) -> None:
    broken = text_pb2.Completion(token_ids=[5, 6], sampling_logprobs=[-1.0])
    with pytest.raises(InvalidInput) as error:
        generate(served, request([9], continue_from=[broken]))
    assert error.value.field == "continue_from[0].sampling_logprobs"


def test_a_caller_that_goes_away_frees_the_engine(served: Served) -> None:
    async def scenario() -> None:
        async with AsyncGenerationClient(f"127.0.0.1:{served.port}") as client:
            call = asyncio.ensure_future(client.generate(request([9], n=8, max_tokens=500), timeout_s=60))
            await asyncio.to_thread(wait_until, lambda: served.status().running_requests == 8, 10, "it to run")
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)

    before = served.status().generated_tokens_total
    asyncio.run(scenario())
    wait_until(lambda: served.status().running_requests == 0, 5, "the request to be aborted")
    assert served.status().generated_tokens_total == before


def test_the_record_and_the_metrics_tell_the_version(served: Served, redis_process: RedisProcess) -> None:
    from preceptor.common.discovery import KIND_GENERATION, Registry

    version = served.serve(0)
    registry = Registry(redis_process.url)
    wait_until(lambda: [one["policy_version"] for one in registry.list(KIND_GENERATION)] == [version], 5, "the record")
    [record] = registry.list(KIND_GENERATION)
    assert record["address"] == f"127.0.0.1:{served.port}"
    assert (record["run_id"], record["max_requests"]) == (RUN_ID, MAX_REQUESTS)
    code, page = served.process.http("/metrics")
    assert code == 200
    assert f"preceptor_generation_policy_version {float(version)}" in page
    assert "preceptor_generation_tokens_total" in page
    assert "preceptor_generation_busy_seconds_total" in page


def test_update_without_a_version_above_succeeds(served: Served) -> None:
    answer = served.client.update_weights(pb.UpdateWeightsRequest())
    assert answer.policy_version == served.version


def test_reflection_lists_the_service(served: Served) -> None:
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    with grpc.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        [answer] = list(stub.ServerReflectionInfo(asked, timeout=10))
    assert "preceptor.api.generation.v1.GenerationService" in {
        service.name for service in answer.list_services_response.service
    }


def test_unknown_versions_of_the_store_are_not_found(served: Served) -> None:
    manifest = weights_manifest.read_manifest(served.store.local(f"runs/{RUN_ID}/policy/00000000"))
    manifest.policy_version = 20_000
    manifest.sources.add(transport=1, uri=served.store.path("runs/none"))
    with pytest.raises(NotFound):
        served.client.update_weights(pb.UpdateWeightsRequest(manifest=manifest))
