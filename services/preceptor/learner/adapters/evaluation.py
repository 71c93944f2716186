"""How an evaluation reaches generators, found by discovery, and the reward service."""

import itertools
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from preceptor.api.common.v1 import text_pb2
from preceptor.api.generation.v1 import generation_service_pb2 as generation_pb
from preceptor.api.reward.v1 import reward_service_pb2 as reward_pb
from preceptor.clients.generation import GenerationClient
from preceptor.clients.reward import RewardClient
from preceptor.common.discovery import KIND_GENERATION, Registry
from preceptor.common.errors import DeadlineExceeded, FailedPrecondition, Overloaded, Unavailable
from preceptor.learner.converters import prompt_to_proto
from preceptor.learner.evaluation.evaluator import Answer
from preceptor.learner.pump.prompts import PromptRecord
from preceptor.learner.run_configs.rl import RlConfig

_RETRY_S = 0.5


class EvaluationGateway:
    """Asks all prompts at the given concurrency; a generator that is away or full is passed over until the deadline."""

    def __init__(self, config: RlConfig, redis_url: str, reward_address: str) -> None:
        assert config.evaluation is not None
        self._config, self._evaluation = config, config.evaluation
        self._registry = Registry(redis_url)
        self._reward = RewardClient(reward_address)
        self._clients: dict[str, GenerationClient] = {}
        self._lock = threading.Lock()
        self._turn = itertools.count()
        self._closing = threading.Event()

    def ask(self, prompts: Sequence[PromptRecord], policy_version: int) -> list[list[Answer]]:
        """Raises DeadlineExceeded, Unavailable or what a generator refuses a prompt for."""
        deadline_s = time.monotonic() + self._evaluation.timeout_s
        with ThreadPoolExecutor(self._evaluation.concurrency, thread_name_prefix="evaluation") as pool:
            return list(pool.map(lambda prompt: self._answers(prompt, policy_version, deadline_s), prompts))

    def score(self, prompts: Sequence[PromptRecord], answers: Sequence[Sequence[Answer]]) -> list[list[float]]:
        """Raises FailedPrecondition if an answer cannot be scored."""
        with ThreadPoolExecutor(self._evaluation.concurrency, thread_name_prefix="evaluation") as pool:
            return list(pool.map(self._scores, prompts, answers))

    def close(self) -> None:
        self._closing.set()
        self._registry.close()
        self._reward.close()
        for client in self._clients.values():
            client.close()

    def _answers(self, prompt: PromptRecord, policy_version: int, deadline_s: float) -> list[Answer]:
        request = generation_pb.GenerateRequest(
            run_id=self._config.run_id,
            prompt=prompt_to_proto(prompt),
            sampling=self._sampling(),
            n=self._evaluation.samples,
            min_policy_version=policy_version,
        )
        for client in self._generators(deadline_s):
            left_s = max(0.001, deadline_s - time.monotonic())
            try:
                response = client.generate(request, timeout_s=left_s)
            except (Unavailable, Overloaded):
                self._closing.wait(_RETRY_S)
                continue
            return [
                Answer(c.text, len(c.token_ids), c.finish_reason == text_pb2.FINISH_REASON_STOP)
                for c in response.completions
            ]
        raise DeadlineExceeded(f"no generator answered within {self._evaluation.timeout_s:g} s (evaluation.timeout_s)")

    def _generators(self, deadline_s: float) -> Iterator[GenerationClient]:
        """The run's generators in turn, looked up anew each time, until the deadline."""
        while time.monotonic() < deadline_s and not self._closing.is_set():
            records = self._registry.list(KIND_GENERATION)
            addresses = [record["address"] for record in records if record.get("run_id") == self._config.run_id]
            if not addresses:
                self._closing.wait(_RETRY_S)
                continue
            yield self._client(addresses[next(self._turn) % len(addresses)])

    def _client(self, address: str) -> GenerationClient:
        with self._lock:
            if address not in self._clients:
                self._clients[address] = GenerationClient(address)
            return self._clients[address]

    def _sampling(self) -> text_pb2.SamplingParameters:
        wanted, training = self._evaluation, self._config.sampling
        return text_pb2.SamplingParameters(
            temperature=wanted.temperature,
            max_tokens=wanted.max_tokens or training.max_tokens,
            stop=list(training.stop),
        )

    def _scores(self, prompt: PromptRecord, answers: Sequence[Answer]) -> list[float]:
        proto = prompt_to_proto(prompt)
        items = [
            reward_pb.ScoreItem(
                prompt=proto, completion=answer.text, prompt_id=prompt.prompt_id, truncated=not answer.finished
            )
            for answer in answers
        ]
        request = reward_pb.ScoreRequest(request_id=str(uuid.uuid4()), model=self._config.reward_name, items=items)
        results = self._reward.score(request).results
        errors = [result.error for result in results if result.HasField("error")]
        if errors:
            raise FailedPrecondition(f"an answer to {prompt.prompt_id} cannot be scored: {errors[0].message}")
        return [result.score for result in results]
