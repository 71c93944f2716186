"""Held-out evaluation: samples from the running generators, scored by gold."""

import math
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import pairwise

from preceptor.api.common.v1 import text_pb2
from preceptor.api.generation.v1 import generation_service_pb2 as pb
from preceptor.clients.generation import GenerationClient
from preceptor.common.discovery import KIND_GENERATION, Registry
from preceptor.common.errors import Overloaded, Unavailable
from preceptor.common.waiting import wait_until
from preceptor.demo.gold import gold_score

_CONCURRENCY = 12
_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion of a held-out prompt. policy_versions: lowest and highest among its tokens."""

    prompt: str
    completion: str
    gold: float
    policy_versions: tuple[int, int]


@dataclass(frozen=True, slots=True)
class GoldSummary:
    """Mean, population SD, standard error of the mean, and how many."""

    mean: float
    sd: float
    se: float
    n: int

    @classmethod
    def of(cls, scores: Sequence[float]) -> "GoldSummary":
        sd = statistics.pstdev(scores)
        return cls(statistics.fmean(scores), sd, sd / math.sqrt(len(scores)), len(scores))


@dataclass(frozen=True, slots=True)
class Diversity:
    """Over all completions of an evaluation.

    distinct: share of the completions that differ. distinct_bigrams: how many different pairs of neighbouring words;
    distinct_bigrams_share: of all pairs, which also falls by writing more.
    """

    distinct: float
    distinct_bigrams: int
    distinct_bigrams_share: float
    words: float

    @classmethod
    def of(cls, completions: Sequence[str]) -> "Diversity":
        words = [text.split() for text in completions]
        bigrams = [pair for row in words for pair in pairwise(row)]
        return cls(
            distinct=len(set(completions)) / len(completions),
            distinct_bigrams=len(set(bigrams)),
            distinct_bigrams_share=len(set(bigrams)) / max(len(bigrams), 1),
            words=statistics.fmean(len(row) for row in words),
        )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All samples of one policy."""

    samples: tuple[Sample, ...]

    @property
    def gold(self) -> GoldSummary:
        return GoldSummary.of([sample.gold for sample in self.samples])

    @property
    def diversity(self) -> Diversity:
        return Diversity.of([sample.completion for sample in self.samples])

    @property
    def policy_versions(self) -> tuple[int, int]:
        """Lowest and highest version of any token."""
        return (
            min(sample.policy_versions[0] for sample in self.samples),
            max(sample.policy_versions[1] for sample in self.samples),
        )

    def to_json(self) -> dict[str, object]:
        """Summaries and versions."""
        return {"gold": asdict(self.gold), "diversity": asdict(self.diversity), "policy_versions": self.policy_versions}


class Evaluator:
    """Samples a run's generators, which it finds in the registry."""

    def __init__(self, redis_url: str, run_id: str) -> None:
        self._registry = Registry(redis_url)
        self._run_id = run_id

    def addresses(self) -> list[str]:
        """Generators that serve the run now."""
        return [
            str(record["address"])
            for record in self._registry.list(KIND_GENERATION)
            if record.get("run_id") == self._run_id and int(record.get("policy_version", -1)) >= 0
        ]

    def wait_for_version(self, version: int, timeout_s: float) -> None:
        """Returns once every generator of the run serves `version` or a newer one."""

        def reached() -> bool:
            records = [r for r in self._registry.list(KIND_GENERATION) if r.get("run_id") == self._run_id]
            return bool(records) and all(int(r.get("policy_version", -1)) >= version for r in records)

        wait_until(reached, timeout_s, f"generators to serve policy version {version}", interval_s=0.2)

    def evaluate(self, prompts: Sequence[str], samples_per_prompt: int, max_tokens: int) -> Evaluation:
        """Samples at temperature 1 from whatever is served now.

        Raises:
            Unavailable: no generator serves the run.
        """
        addresses = self.addresses()
        if not addresses:
            raise Unavailable(f"no generator serves run {self._run_id}")
        clients = [GenerationClient(address) for address in addresses]

        def sample(index: int) -> list[Sample]:
            return _sample(clients[index % len(clients)], self._run_id, prompts[index], samples_per_prompt, max_tokens)

        with ThreadPoolExecutor(_CONCURRENCY, "evaluate") as pool:
            rows = list(pool.map(sample, range(len(prompts))))
        for client in clients:
            client.close()
        return Evaluation(tuple(one for row in rows for one in row))


def _sample(client: GenerationClient, run_id: str, prompt: str, n: int, max_tokens: int) -> list[Sample]:
    request = pb.GenerateRequest(
        run_id=run_id,
        prompt=text_pb2.Prompt(text=prompt),
        sampling=text_pb2.SamplingParameters(temperature=1.0, max_tokens=max_tokens),
        n=n,
        mode=pb.SAMPLING_MODE_RL,
    )
    answers: list[pb.GenerateResponse] = []

    def answered() -> bool:
        try:
            answers.append(client.generate(request, timeout_s=_TIMEOUT_S))
        except (Overloaded, Unavailable):
            return False
        return True

    wait_until(answered, _TIMEOUT_S, "a generator with room", interval_s=0.5)
    return [
        Sample(prompt, c.text, gold_score(prompt, c.text), _versions(c.version_spans)) for c in answers[0].completions
    ]


def _versions(spans: Sequence[text_pb2.VersionSpan]) -> tuple[int, int]:
    versions = [span.policy_version for span in spans]
    return (min(versions, default=-1), max(versions, default=-1))
