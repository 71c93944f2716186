"""The reward service, told which models to serve."""

from collections.abc import Sequence

from preceptor.api.common.v1 import text_pb2
from preceptor.api.reward.v1 import reward_service_pb2 as pb
from preceptor.clients.reward import RewardClient
from preceptor.common.errors import FailedPrecondition
from preceptor.conductor.types import RewardModelRecord

_PAGE = 100


class GrpcRewardServer:
    """A `RewardServer` over RewardService."""

    def __init__(self, client: RewardClient) -> None:
        self._client = client

    def load(self, model: RewardModelRecord, *, make_current: bool) -> None:
        """LoadModel; repeating it changes nothing."""
        self._client.load_model(
            pb.LoadModelRequest(
                name=served_name(model),
                kind=pb.REWARD_KIND_MODEL,
                uri=model.uri,
                reward_model_version=model.reward_model_version,
                make_current=make_current,
            )
        )

    def current_version(self) -> int:
        """From ListModels."""
        token = ""
        while True:
            page = self._client.list_models(pb.ListModelsRequest(page_size=_PAGE, page_token=token))
            for model in page.models:
                if model.current:
                    return model.reward_model_version
            token = page.next_page_token
            if not token:
                return 0

    def score(self, model: RewardModelRecord, items: Sequence[tuple[str, str]]) -> list[float]:
        """Score; an item that cannot be scored is an error."""
        answer = self._client.score(
            pb.ScoreRequest(
                model=served_name(model),
                items=[
                    pb.ScoreItem(prompt=text_pb2.Prompt(text=prompt), completion=completion)
                    for prompt, completion in items
                ],
            )
        )
        for index, result in enumerate(answer.results):
            if result.HasField("error"):
                raise FailedPrecondition(f"probe row {index + 1} was not scored: {result.error.message}")
        return [result.score for result in answer.results]


def served_name(model: RewardModelRecord) -> str:
    """The model's name in RewardService."""
    return f"reward-model-{model.reward_model_version}"
