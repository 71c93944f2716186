"""A generator for the learner's tests: GenerationService over transformers, following the newest stored
version of each of its runs.

Test double of the vLLM generator (same protocol, exact sampling_logprobs): one call at a time, one version per call.
Run as `python -m tests.integration.learner.hf_generator`, settings by PRECEPTOR_HFGEN_*.
"""

import asyncio
import contextlib
import threading
import time
from typing import Any

import torch
from pydantic_settings import SettingsConfigDict
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from preceptor.api.common.v1 import text_pb2
from preceptor.api.generation.v1 import generation_service_pb2 as pb
from preceptor.api.generation.v1 import generation_service_pb2_grpc as pb_grpc
from preceptor.common.artifacts import ArtifactStore
from preceptor.common.config import ServiceSettings, load_settings
from preceptor.common.discovery import KIND_GENERATION, AsyncRegistry
from preceptor.common.errors import FailedPrecondition, NotFound, Unavailable
from preceptor.common.grpc_server import Server, run_service
from preceptor.common.health import Health
from preceptor.common.tasks import cancel_and_wait
from preceptor.common.telemetry import setup_logging

FULL_NAME = "preceptor.api.generation.v1.GenerationService"


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="PRECEPTOR_HFGEN_")
    run_ids: str  # comma list


class Follower:
    """The newest stored version's model. One thread at a time."""

    def __init__(self, store: ArtifactStore, run_id: str) -> None:
        self._store = store
        self._base = f"runs/{run_id}/policy"
        self.version = -1
        self.lock = threading.Lock()
        self.model: Any = None
        self.tokenizer: Any = None

    def follow(self) -> None:
        try:
            latest = self._store.get_json(f"{self._base}/LATEST.json")
        except NotFound:
            return
        if latest["policy_version"] == self.version:
            return
        folder = self._store.local(latest["path"])
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        self.model.eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.version = latest["policy_version"]

    def wait_for(self, version: int, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        pause = threading.Event()
        while True:
            self.follow()
            if self.version >= max(version, 0):
                return
            if time.monotonic() > deadline:
                raise FailedPrecondition(f"holds version {self.version}, wanted {version}", reason="VERSION_TOO_OLD")
            pause.wait(0.02)

    @torch.no_grad()
    def write(self, prompt: list[int], n: int, sampling: text_pb2.SamplingParameters) -> list[text_pb2.Completion]:
        ids = torch.tensor([prompt] * n)
        eos = self.tokenizer.eos_token_id
        temperature = sampling.temperature if sampling.HasField("temperature") else 1.0
        chosen: list[torch.Tensor] = []
        logprobs: list[torch.Tensor] = []
        ended = torch.zeros(n, dtype=torch.bool)
        for _ in range(sampling.max_tokens):
            logits = self.model(ids).logits[:, -1].float() / temperature
            distribution = torch.log_softmax(logits, dim=-1)
            token = torch.multinomial(distribution.exp(), 1)
            chosen.append(token[:, 0])
            logprobs.append(distribution.gather(1, token)[:, 0])
            ids = torch.cat([ids, token], dim=1)
            ended |= token[:, 0] == eos
            if bool(ended.all()):
                break
        tokens, values = torch.stack(chosen, 1).tolist(), torch.stack(logprobs, 1).tolist()
        return [self._completion(row, value, eos) for row, value in zip(tokens, values, strict=True)]

    def _completion(self, tokens: list[int], logprobs: list[float], eos: int) -> text_pb2.Completion:
        stopped = eos in tokens
        length = tokens.index(eos) + 1 if stopped else len(tokens)
        return text_pb2.Completion(
            token_ids=tokens[:length],
            text=self.tokenizer.decode(tokens[:length], skip_special_tokens=True),
            sampling_logprobs=logprobs[:length],
            finish_reason=text_pb2.FINISH_REASON_STOP if stopped else text_pb2.FINISH_REASON_LENGTH,
            version_spans=[text_pb2.VersionSpan(policy_version=self.version, begin=0, end=length)],
        )


class Servicer(pb_grpc.GenerationServiceServicer):
    def __init__(self, settings: Settings, followers: dict[str, Follower]) -> None:
        self._settings = settings
        self._followers = followers

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> pb.GenerateResponse:
        timeout_s = min(context.time_remaining() or 60.0, 60.0)
        return await asyncio.to_thread(self._generate, request, timeout_s)

    async def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.GetStatusResponse:
        return pb.GetStatusResponse(
            generator_id=self._settings.instance, state=pb.GENERATOR_STATE_SERVING, max_requests=64
        )

    def _generate(self, request: pb.GenerateRequest, timeout_s: float) -> pb.GenerateResponse:
        follower = self._followers[request.run_id]
        with follower.lock:
            follower.wait_for(request.min_policy_version, timeout_s)
            prompt = follower.tokenizer(request.prompt.text).input_ids
            return pb.GenerateResponse(
                request_id=request.request_id,
                run_id=request.run_id,
                generator_id=self._settings.instance,
                admitted_policy_version=follower.version,
                prompt_token_ids=prompt,
                completions=follower.write(prompt, max(1, request.n), request.sampling),
            )


async def announce(settings: Settings, followers: dict[str, Follower], port: int) -> None:
    registry = AsyncRegistry(settings.redis_url)
    while True:
        for run_id, follower in followers.items():
            record = {
                "address": f"127.0.0.1:{port}",
                "run_id": run_id,
                "policy_version": follower.version,
                "load": 0,
                "max_requests": 64,
            }
            with contextlib.suppress(Unavailable):
                await registry.announce(KIND_GENERATION, f"{settings.instance}-{run_id}", record, 5.0)
        await asyncio.sleep(0.5)


async def serve(settings: Settings) -> None:
    store = ArtifactStore(settings.artifacts_url)
    followers = {run_id: Follower(store, run_id) for run_id in settings.run_ids.split(",")}
    server = Server(settings, Health())
    server.add(pb_grpc.add_GenerationServiceServicer_to_server, Servicer(settings, followers), FULL_NAME)
    tasks = []

    async def on_start() -> None:
        tasks.append(asyncio.create_task(announce(settings, followers, server.port)))

    await server.run(on_start=on_start)
    await cancel_and_wait(*tasks)


def main() -> None:
    settings = load_settings(Settings)
    setup_logging(settings.instance, "text", settings.log_level)
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    run_service(lambda: serve(settings))


if __name__ == "__main__":
    main()
