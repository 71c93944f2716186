"""The reward service as the learner needs it: load what the run is scored by, and score groups again."""

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from preceptor.api.reward.v1 import reward_service_pb2 as pb
from preceptor.clients.reward import RewardClient
from preceptor.common.artifacts import ArtifactStore
from preceptor.common.errors import DeadlineExceeded, FailedPrecondition, NotFound, PreceptorError, Unavailable
from preceptor.common.telemetry import get_logger
from preceptor.common.waiting import wait_until
from preceptor.learner.converters import score_items
from preceptor.learner.pump.prompts import PromptOrder
from preceptor.learner.pump.results import GroupResult
from preceptor.learner.run_configs.rl import RlConfig

log = get_logger(__name__)
_RETRY_S = 0.5
_MAX_SWITCHES = 5
T = TypeVar("T")


class RewardGateway:
    """Waits up to wait_s for a service that is away, or hangs; then Unavailable."""

    def __init__(self, client: RewardClient, config: RlConfig, prompts: PromptOrder, *, wait_s: float = 120.0) -> None:
        self._client = client
        self._config = config
        self._prompts = prompts
        self._wait_s = wait_s

    def load(self, store: ArtifactStore) -> None:
        """Loads the run's reward function or reward model; nothing where the config names a loaded one."""
        source = self._config.reward
        if source.function is not None:
            self._load(pb.REWARD_KIND_FUNCTION, source.function, 0)
        elif source.model is not None:
            self._load(pb.REWARD_KIND_MODEL, source.model, _card_version(store, source.model))

    def rescore(self, group: GroupResult) -> GroupResult:
        """The same rollouts, scored by the model that serves now.

        Raises:
            FailedPrecondition: a rollout that was scored before cannot be scored now.
        """
        prompt = self._prompts.prompt(group.issue_index)
        request = pb.ScoreRequest(
            request_id=str(uuid.uuid4()), model=self._config.reward_name, items=score_items(group, prompt)
        )
        response: pb.ScoreResponse = self._patiently(lambda: self._client.score(request))
        errors = [result.error for result in response.results if result.HasField("error")]
        if errors:
            raise FailedPrecondition(
                f"group {group.issue_index} cannot be scored again: {errors[0].reason}: {errors[0].message}",
                reason="RESCORING_FAILED",
            )
        return group.rescored([result.score for result in response.results], response.reward_model_version)

    def close(self) -> None:
        self._client.close()

    def _load(self, kind: "pb.RewardKind.ValueType", uri: str, version: int) -> None:
        name = self._config.reward_name
        request = pb.LoadModelRequest(name=name, kind=kind, uri=uri, reward_model_version=version)
        self._patiently(lambda: self._client.load_model(request))
        log.info("reward loaded", name=name, uri=uri, reward_model_version=version)

    def _patiently(self, call: Callable[[], T]) -> T:
        answers: list[T] = []
        last: list[PreceptorError] = []

        def answered() -> bool:
            try:
                answers.append(call())
            except (Unavailable, DeadlineExceeded) as error:
                last.append(error)
                return False
            return True

        try:
            wait_until(answered, self._wait_s, "the reward service", interval_s=_RETRY_S)
        except PreceptorError as error:
            if not last:
                raise
            raise Unavailable(f"{error.message}: {last[-1].message}", reason="REWARD_UNAVAILABLE") from error
        return answers[0]


def one_reward_model(groups: list[GroupResult], rescore: Callable[[GroupResult], GroupResult]) -> list[GroupResult]:
    """The groups, all scored by one version; where they differ, the others are scored again by the one that serves now.

    Raises:
        FailedPrecondition: the serving version kept changing.
    """
    for _ in range(_MAX_SWITCHES):
        if len({group.reward_model_version for group in groups}) == 1:
            return groups
        oldest = min(range(len(groups)), key=lambda place: groups[place].reward_model_version)
        groups = [*groups[:oldest], rescore(groups[oldest]), *groups[oldest + 1 :]]
        serving = groups[oldest].reward_model_version
        groups = [group if group.reward_model_version == serving else rescore(group) for group in groups]
    raise FailedPrecondition("the serving reward model changed over and over", reason="REWARD_VERSION_UNSTEADY")


def _card_version(store: ArtifactStore, uri: str) -> int:
    """reward_model_version of card.json beside the model; 1 where there is no card."""
    try:
        folder = Path(store.local(uri))
    except NotFound:
        raise NotFound(f"reward.model: no reward model at {uri}", field="reward.model") from None
    card = folder / "card.json"
    if not card.is_file():
        return 1
    return int(json.loads(card.read_text(encoding="utf-8")).get("reward_model_version", 1))
