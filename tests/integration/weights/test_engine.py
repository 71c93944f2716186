"""Real engines: one that took many deltas while it wrote, and one that starts with what came of them."""

import random
import shutil
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest

from preceptor.api.generation.v1 import generation_service_pb2 as pb
from preceptor.api.learner.v1 import weights_pb2
from preceptor.api.learner.v1.weights_pb2 import WeightManifest
from preceptor.learner.adapters.policy_store import PolicyStore
from preceptor.learner.adapters.publisher import Publisher
from preceptor.learner.adapters.transports import ShmTransport
from preceptor.learner.run_configs.rl import PublishConfig
from tests.integration.generation.support import RUN_ID, Generator, request
from tests.support.models import build_policy
from tests.support.redis import RedisProcess

DELTAS = 20
PROMPT_TOKENS = 300  # a CPU block of the prefix cache is 128


class Policy:
    """A bf16 policy that changes in a twentieth of its elements with each version."""

    def __init__(self, folder: Path) -> None:
        import torch
        from safetensors.torch import load_file

        self._base = build_policy(folder, seed=0, hidden_size=128)
        self._weights = {name: t.to(torch.bfloat16) for name, t in load_file(folder / "model.safetensors").items()}
        self._rng = torch.Generator().manual_seed(1)

    def step(self) -> None:
        import torch

        for name, tensor in self._weights.items():
            noise = torch.randn(tensor.shape, generator=self._rng) * 0.05
            chosen = torch.rand(tensor.shape, generator=self._rng) < 0.05
            self._weights[name] = torch.where(chosen, tensor + noise.to(tensor.dtype), tensor)

    def export(self, folder: Path) -> Path:
        from safetensors.torch import save_file

        shutil.copytree(self._base, folder)
        save_file(self._weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder


def greedy(generator: Generator, prompt: list[int], tokens: int = 48) -> tuple[list[int], bytes, set[int]]:
    """Token ids, the bits of their logprobs, and the versions that wrote them."""
    asked = request(prompt, max_tokens=tokens, rl=False)
    asked.sampling.temperature = 0.0
    completion = generator.client.generate(asked, timeout_s=120).completions[0]
    logprobs = np.array(completion.sampling_logprobs, np.float64).tobytes()
    return list(completion.token_ids), logprobs, {span.policy_version for span in completion.version_spans}


def mapped_by(generator: Generator, folder: Path) -> list[str]:
    """Files of a folder that a generator's processes have in their memory."""
    service = psutil.Process(generator.process.pid)
    maps = [Path(f"/proc/{each.pid}/maps").read_text() for each in [service, *service.children(recursive=True)]]
    return [line for text in maps for line in text.splitlines() if str(folder) in line]


@pytest.mark.slow
def test_twenty_deltas_in_flight_end_where_a_fresh_engine_starts(tmp_path: Path, redis_process: RedisProcess) -> None:
    rng = random.Random(0)
    prompts = [[rng.randrange(5, 380) for _ in range(PROMPT_TOKENS)] for _ in range(4)]
    (tmp_path / "taking").mkdir()
    (tmp_path / "fresh").mkdir()
    taking = Generator(tmp_path / "taking", redis_process.url, dtype="float32", staging_dir=tmp_path / "shm" / "taking")
    policies, announced = PolicyStore(taking.store, RUN_ID), list[WeightManifest]()
    publisher = Publisher(
        policies,
        PublishConfig(encoding="delta", full_every=1000),
        announce=announced.append,
        published=lambda version, seconds: None,
        transports=[ShmTransport(RUN_ID, tmp_path / "shm")],
    )
    policy = Policy(tmp_path / "policy")

    def publish() -> WeightManifest:
        version = policies.reserve()
        publisher.submit(version, policy.export(tmp_path / f"export-{version}"), version)
        publisher.flush()
        policy.step()
        return announced[-1]

    publish()
    with taking.process:
        taking.process.wait_ready(120)
        before = [greedy(taking, prompt) for prompt in prompts]
        during, stop = list[set[int]](), threading.Event()

        def write() -> None:
            while not stop.is_set():
                during.extend(greedy(taking, prompt, 100)[2] for prompt in prompts)

        writers = [threading.Thread(target=write) for _ in range(3)]
        for writer in writers:
            writer.start()
        for version in range(1, DELTAS + 1):
            manifest = publish()
            assert manifest.encoding == weights_pb2.WEIGHT_ENCODING_SPARSE_DELTA
            if version % 2:  # from shared memory; the others as they are found in the store, as deltas
                taking.client.update_weights(pb.UpdateWeightsRequest(manifest=manifest), timeout_s=60)
            taking.wait_version(version)
        stop.set()
        for writer in writers:
            writer.join(120)
        after = [greedy(taking, prompt) for prompt in prompts]
        assert not mapped_by(taking, tmp_path / "shm"), "the next version is written into files of overtaken ones"
        taking.client.close()
    assert set(range(1, DELTAS)) <= set().union(*during), "every version wrote something"
    assert any(len(versions) > 1 for versions in during), "completions ran through updates"

    fresh = Generator(tmp_path / "fresh", redis_process.url, dtype="float32", artifacts_url=taking.store.url)
    with fresh.process:
        fresh.process.wait_ready(120)
        assert fresh.status().policy_version == DELTAS
        started = [greedy(fresh, prompt) for prompt in prompts]
        fresh.client.close()
    publisher.close()
    assert after == started
    assert [tokens for tokens, _, _ in before] != [tokens for tokens, _, _ in after]
    assert [versions for _, _, versions in after] == [{DELTAS}] * len(prompts)
