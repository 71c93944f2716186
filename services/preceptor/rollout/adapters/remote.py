"""The services a worker calls: generators by discovery, the reward service by address."""

import threading
from collections.abc import Sequence

from preceptor.api.generation.v1 import generation_service_pb2 as generation_pb
from preceptor.clients.generation import GenerationClient
from preceptor.clients.reward import RewardClient
from preceptor.common.discovery import KIND_GENERATION, KIND_LEARNER, Registry
from preceptor.common.errors import PreceptorError
from preceptor.common.telemetry import counter
from preceptor.rollout.converters import (
    add_response,
    generate_request,
    generation_from_response,
    generator_from_record,
    score_request,
    scoring_from_response,
)
from preceptor.rollout.drafts import StreamedGroup
from preceptor.rollout.types import Completion, Generation, Generator, Job, Scoring

_PROBE_TIMEOUT_S = 2.0
_streamed = counter("preceptor_rollout_streamed_tokens_total", "Tokens that came before their group was complete.")


class Generators:
    """Discovers, probes and calls generators; one channel per address, shared by all threads.

    stream_tokens: completions that may become longer are streamed, so many tokens at a time; 0: none are.
    """

    def __init__(self, registry: Registry, stream_tokens: int = 0) -> None:
        self._registry = registry
        self._stream_tokens = stream_tokens
        self._lock = threading.Lock()
        self._clients: dict[str, GenerationClient] = {}

    def discover(self) -> Sequence[Generator]:
        """The generators that are alive. Raises Unavailable when Redis does not answer."""
        return [generator_from_record(record) for record in self._registry.list(KIND_GENERATION)]

    def live_runs(self) -> set[str]:
        """Runs whose learner is alive. Raises Unavailable when Redis does not answer."""
        return {str(record.get("run_id", record["id"])) for record in self._registry.list(KIND_LEARNER)}

    def probe(self, generator: Generator) -> bool:
        """Whether it answers and serves."""
        try:
            status = self._client(generator.address).status(
                generation_pb.GetStatusRequest(), timeout_s=_PROBE_TIMEOUT_S
            )
        except PreceptorError:
            return False
        return status.state == generation_pb.GENERATOR_STATE_SERVING

    def generate(
        self,
        generator: Generator,
        job: Job,
        *,
        n: int,
        continue_from: tuple[Completion, ...],
        timeout_s: float,
        streamed: StreamedGroup,
    ) -> Generation:
        """See `types.Generate`."""
        client, request = self._client(generator.address), generate_request(job, n, continue_from)
        if not 0 < self._stream_tokens < job.sampling.max_tokens:
            return generation_from_response(client.generate(request, timeout_s=timeout_s))
        asked = generation_pb.GenerateStreamRequest(request=request, delta_tokens=self._stream_tokens, text_at_end=True)
        for response in client.generate_stream(asked, timeout_s=timeout_s):
            add_response(streamed, response)
            _streamed.inc(len(response.delta.token_ids))
        return streamed.generation(n)

    def _client(self, address: str) -> GenerationClient:
        with self._lock:
            client = self._clients.get(address)
            if client is None:
                client = self._clients[address] = GenerationClient(address)
            return client


class RewardServer:
    """Calls the reward service over one channel, shared by all threads."""

    def __init__(self, address: str) -> None:
        self._client = RewardClient(address)

    def score(self, job: Job, completions: tuple[Completion, ...], *, timeout_s: float) -> Scoring:
        """See `types.Score`."""
        return scoring_from_response(self._client.score(score_request(job, completions), timeout_s=timeout_s))
