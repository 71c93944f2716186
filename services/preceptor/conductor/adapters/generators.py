"""Sampling from whichever generators serve a run now."""

import itertools
import threading

from preceptor.api.common.v1 import text_pb2
from preceptor.api.generation.v1 import generation_service_pb2 as pb
from preceptor.clients.generation import GenerationClient
from preceptor.common.discovery import KIND_GENERATION, Registry
from preceptor.common.errors import Overloaded, Unavailable
from preceptor.conductor.adapters.labels import sampling
from preceptor.conductor.loop_config import CollectStage
from preceptor.conductor.types import SampledGroup

_TIMEOUT_S = 120.0
_TRIES = 20


class DiscoveredGenerators:
    """A `Generators`: finds addresses in the registry and takes them in turn; one that is full is asked again later."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._clients: dict[str, GenerationClient] = {}
        self._lock = threading.Lock()
        self._turn = itertools.count()
        self._pause = threading.Event()

    def sample(self, run_id: str, prompt: str, settings: CollectStage) -> SampledGroup:
        """One Generate call."""
        request = pb.GenerateRequest(
            run_id=run_id,
            prompt=text_pb2.Prompt(text=prompt),
            sampling=sampling(settings),
            n=settings.n,
            mode=pb.SAMPLING_MODE_GENERAL,
        )
        for attempt in range(_TRIES):
            try:
                answer = self._client(run_id).generate(request, timeout_s=_TIMEOUT_S)
                return _group(prompt, answer)
            except Overloaded as error:
                if attempt == _TRIES - 1:
                    raise
                self._pause.wait(error.retry_after_s or 1.0)
        raise Unavailable(f"no generator of run {run_id} takes requests")

    def _client(self, run_id: str) -> GenerationClient:
        addresses = [
            str(record["address"])
            for record in self._registry.list(KIND_GENERATION)
            if record.get("run_id") == run_id and int(record.get("policy_version", -1)) >= 0
        ]
        if not addresses:
            raise Unavailable(f"no generator serves run {run_id} yet", retry_after_s=1.0)
        address = addresses[next(self._turn) % len(addresses)]
        with self._lock:
            if address not in self._clients:
                self._clients[address] = GenerationClient(address)
            return self._clients[address]


def _group(prompt: str, answer: pb.GenerateResponse) -> SampledGroup:
    completions = answer.completions
    return SampledGroup(
        prompt=prompt,
        texts=tuple(c.text for c in completions),
        policy_versions=tuple(max((s.policy_version for s in c.version_spans), default=-1) for c in completions),
        truncated=tuple(c.finish_reason == text_pb2.FINISH_REASON_LENGTH for c in completions),
    )
