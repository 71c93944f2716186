"""Between the reward service's protos and its own types."""

from collections.abc import Mapping

from preceptor.api.common.v1 import text_pb2
from preceptor.api.reward.v1 import reward_service_pb2 as pb
from preceptor.common.errors import InvalidInput
from preceptor.reward.types import ItemScore, ModelInfo, ModelSpec, RewardKind, ScoreItem, Scoring

_KINDS = {
    pb.REWARD_KIND_MODEL: RewardKind.MODEL,
    pb.REWARD_KIND_FUNCTION: RewardKind.FUNCTION,
    pb.REWARD_KIND_REMOTE: RewardKind.REMOTE,
    pb.REWARD_KIND_COMPOSITE: RewardKind.COMPOSITE,
}
_KIND_NUMBERS = {kind: number for number, kind in _KINDS.items()}


def items_from_request(request: pb.ScoreRequest) -> list[ScoreItem]:
    """The request's items. Raises InvalidInput naming the item whose prompt is missing or made of token ids."""
    return [_item(item, f"items[{index}].prompt") for index, item in enumerate(request.items)]


def score_response(scoring: Scoring) -> pb.ScoreResponse:
    return pb.ScoreResponse(
        results=[_result(result) for result in scoring.results],
        model=scoring.model,
        reward_model_version=scoring.reward_model_version,
    )


def spec_from_request(request: pb.LoadModelRequest) -> ModelSpec:
    """What to load. Raises InvalidInput naming the field at fault."""
    for field in ("name", "uri"):
        if not getattr(request, field):
            raise InvalidInput(f"{field} is missing", field=field)
    if request.kind not in _KINDS:
        allowed = ", ".join(pb.RewardKind.Name(number) for number in _KINDS)
        raise InvalidInput(f"kind must be one of {allowed}", field="kind")
    if request.reward_model_version < 0:
        raise InvalidInput("reward_model_version counts from 1 (0: as the card says)", field="reward_model_version")
    return ModelSpec(request.name, _KINDS[request.kind], request.uri, request.reward_model_version)


def info_to_proto(info: ModelInfo) -> pb.RewardModelInfo:
    return pb.RewardModelInfo(
        name=info.spec.name,
        kind=_KIND_NUMBERS[info.spec.kind],
        reward_model_version=info.spec.reward_model_version,
        uri=info.spec.uri,
        current=info.current,
        scored_total=info.scored_total,
        busy_seconds_total=info.busy_seconds_total,
    )


def _item(item: pb.ScoreItem, field: str) -> ScoreItem:
    return ScoreItem(_prompt(item.prompt, field), item.completion, item.prompt_id, item.truncated)


def _prompt(prompt: text_pb2.Prompt, field: str) -> str | tuple[Mapping[str, str], ...]:
    content = prompt.WhichOneof("content")
    if content == "text":
        return prompt.text
    if content == "conversation":
        return tuple({"role": turn.role, "content": turn.content} for turn in prompt.conversation.messages)
    given = "token ids" if content == "token_ids" else "nothing"
    raise InvalidInput(
        f"{field} holds {given}; a reward model has a tokenizer of its own and needs text or a conversation",
        field=field,
    )


def _result(result: ItemScore) -> pb.ScoreResult:
    if result.failure is not None:
        return pb.ScoreResult(error=pb.ScoreError(reason=result.failure.reason, message=result.failure.message))
    return pb.ScoreResult(score=result.score, components=dict(result.components))
