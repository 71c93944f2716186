"""A real engine of two processes that share the model: each takes its part of an update, and KV is computed anew."""

import random
import threading
from pathlib import Path

import psutil
import pytest

from preceptor.api.common.v1 import text_pb2
from preceptor.common.waiting import wait_until
from tests.integration.generation.support import Generator, Reference, policies, request
from tests.support.redis import RedisProcess

PROMPT_TOKENS = 300
EXACT = 1e-5


def _through_an_update(generator: Generator, new: Path) -> tuple[list[int], list[text_pb2.Completion]]:
    """A prompt, and its completions, group after group until version 1 is in force: some run through the switch."""
    rng = random.Random(0)
    prompt = [rng.randrange(5, 380) for _ in range(PROMPT_TOKENS)]
    done: list[text_pb2.Completion] = []

    updated = threading.Event()

    def write() -> None:
        while not updated.is_set():
            answer = generator.client.generate(request(prompt, n=4, max_tokens=180), timeout_s=120)
            done.extend(answer.completions)

    writing = threading.Thread(target=write)
    writing.start()
    wait_until(lambda: generator.status().running_requests == 4, 30, "the group to be written")
    generator.publish(1, new)
    generator.wait_version(1)
    updated.set()
    writing.join(120)
    return prompt, done


@pytest.mark.slow
def test_later_tokens_are_those_of_a_fresh_engine(tmp_path: Path, redis_process: RedisProcess) -> None:
    old, new = policies(tmp_path, 2)
    settings = {"kv_policy": "recompute", "tensor_parallel_size": 2, "max_num_seqs": 8}
    generator = Generator(tmp_path, redis_process.url, **settings)
    generator.publish(0, old)
    with generator.process:
        generator.process.wait_ready(150)
        prompt, completions = _through_an_update(generator, new)
        after = generator.client.generate(request(prompt, max_tokens=8), timeout_s=60).completions
        generator.client.close()
        engines = psutil.Process(generator.process.pid).children(recursive=True)
    assert len(engines) > 2
    assert not [process for process in engines if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    before, fresh = Reference(old), Reference(new)
    spanning = [each for each in completions if len(each.version_spans) == 2]
    assert spanning, "completions ran through the update"
    for each in spanning:
        assert [span.policy_version for span in each.version_spans] == [0, 1]
        switch = each.version_spans[0].end
        tokens, got = list(each.token_ids), list(each.sampling_logprobs)
        want = before.logprobs(prompt, tokens)[:switch]
        assert got[:switch] == pytest.approx(want, abs=EXACT)
        # A fresh engine with the new weights, given prompt and what was written so far.
        want = fresh.logprobs(prompt, tokens)[switch:]
        assert got[switch:] == pytest.approx(want, abs=EXACT), "kept KV is off by 1e-2 and more"
    for each in after:
        assert list(each.sampling_logprobs) == pytest.approx(fresh.logprobs(prompt, list(each.token_ids)), abs=EXACT)
