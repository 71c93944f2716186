"""Opens what a spec names: a model folder through torch, a Python function, or another server."""

import asyncio
import dataclasses
from concurrent.futures import ThreadPoolExecutor

from preceptor.common.artifacts import ArtifactStore
from preceptor.common.errors import InvalidInput
from preceptor.common.telemetry import get_logger
from preceptor.reward.adapters.function_loading import load_function
from preceptor.reward.adapters.function_scorer import FunctionScorer
from preceptor.reward.batching import BatchLimits
from preceptor.reward.config import RewardSettings
from preceptor.reward.model_scorer import ModelScorer, Normalisation, RewardBackend
from preceptor.reward.types import ModelSpec, RewardKind, Scorer

log = get_logger(__name__)


class Opener:
    """Implements `ScorerOpener`. All models share one compute thread, so that two of them do not fight for cores."""

    def __init__(self, settings: RewardSettings, artifacts: ArtifactStore) -> None:
        self._settings = settings
        self._artifacts = artifacts
        self._compute = ThreadPoolExecutor(1, "reward-compute")
        self._encoding = ThreadPoolExecutor(1, "reward-encode")

    async def __call__(self, spec: ModelSpec) -> tuple[ModelSpec, Scorer]:
        if spec.kind is RewardKind.FUNCTION:
            return spec, await self._open_function(spec)
        if spec.kind is RewardKind.REMOTE:
            return spec, self._open_remote(spec)
        return await self._open_model(spec)

    async def _open_function(self, spec: ModelSpec) -> Scorer:
        function, wanted = await asyncio.to_thread(load_function, spec.uri)
        return FunctionScorer(
            function,
            wanted,
            name=spec.uri.rpartition(":")[2],
            timeout_s=self._settings.function_timeout_s,
            threads=self._settings.function_threads,
            max_queue_items=self._settings.max_queue_items,
        )

    def _open_remote(self, spec: ModelSpec) -> Scorer:
        from preceptor.reward.adapters.remote_scorer import RemoteScorer  # aiohttp, for those who need it

        return RemoteScorer(
            spec.uri,
            timeout_s=self._settings.remote_timeout_s,
            concurrency=self._settings.remote_concurrency,
            max_queue_items=self._settings.max_queue_items,
        )

    async def _open_model(self, spec: ModelSpec) -> tuple[ModelSpec, Scorer]:
        backend, normalisation, version = await asyncio.to_thread(self._load_model, spec)
        limits = BatchLimits(
            max_items=self._settings.max_batch_items,
            max_tokens=self._settings.max_batch_tokens,
            max_wait_s=self._settings.max_wait_ms / 1000,
            max_padding=self._settings.max_padding,
            enough_tokens=self._settings.enough_tokens,
            max_queue_items=self._settings.max_queue_items,
        )
        scorer = ModelScorer(backend, normalisation, limits, encoding=self._encoding, compute=self._compute)
        return dataclasses.replace(spec, reward_model_version=version), scorer

    def _load_model(self, spec: ModelSpec) -> tuple[RewardBackend, Normalisation, int]:
        path = self._artifacts.local(spec.uri)
        # Torch takes seconds to import, which a server of reward functions alone is spared.
        from preceptor.reward.adapters.torch_model import load_torch_model, read_card

        backend = load_torch_model(
            path,
            device=self._settings.device,
            dtype=self._settings.dtype,
            max_input_tokens=self._settings.max_input_tokens,
            truncate_prompts=self._settings.truncate_prompts,
        )
        normalisation, card_version = read_card(path)
        if spec.reward_model_version and card_version and spec.reward_model_version != card_version:
            raise InvalidInput(
                f"{spec.uri} is reward_model_version {card_version} by its card, not {spec.reward_model_version}",
                field="reward_model_version",
            )
        if not card_version:
            log.warning("the reward model has no card: its raw scores are served", model=spec.name, uri=spec.uri)
        return backend, normalisation, spec.reward_model_version or card_version
