"""Between the protos and the learner's own records."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from google.protobuf.message import DecodeError

from preceptor.api.common.v1 import text_pb2
from preceptor.api.learner.v1 import learner_service_pb2 as learner_pb
from preceptor.api.reward.v1 import reward_service_pb2 as reward_pb
from preceptor.api.rollout.v1 import rollout_pb2
from preceptor.learner.monitor import RunSnapshot
from preceptor.learner.pump.attempts import SendOrder
from preceptor.learner.pump.prompts import PromptRecord
from preceptor.learner.pump.results import GroupResult, ResultFailure
from preceptor.learner.run_configs.rl import SamplingConfig
from preceptor.learner.types import Experience

_STAGES = {
    rollout_pb2.FAILURE_STAGE_GENERATION: "generation",
    rollout_pb2.FAILURE_STAGE_REWARD: "reward",
    rollout_pb2.FAILURE_STAGE_EXPIRED: "expired",
}


def group_id(run_id: str, issue_index: int) -> str:
    return f"{run_id}/{issue_index}"


def prompt_to_proto(record: PromptRecord) -> text_pb2.Prompt:
    if isinstance(record.content, str):
        return text_pb2.Prompt(text=record.content)
    messages = [text_pb2.Message(role=role, content=content) for role, content in record.content]
    return text_pb2.Prompt(conversation=text_pb2.Conversation(messages=messages))


def sampling_to_proto(sampling: SamplingConfig) -> text_pb2.SamplingParameters:
    return text_pb2.SamplingParameters(
        temperature=sampling.temperature, max_tokens=sampling.max_tokens, stop=list(sampling.stop)
    )


def collect_task(
    run_id: str,
    order: SendOrder,
    prompt: PromptRecord,
    sampling: text_pb2.SamplingParameters,
    *,
    n: int,
    min_policy_version: int,
    reward_model: str,
    feedback: tuple[str, bool],
) -> rollout_pb2.CollectTask:
    """The message for the rollout workers. feedback: (project or "", control)."""
    task = rollout_pb2.CollectTask(
        run_id=run_id,
        group_id=group_id(run_id, order.issue_index),
        attempt=order.attempt,
        issue_index=order.issue_index,
        prompt_id=prompt.prompt_id,
        prompt=prompt_to_proto(prompt),
        n=n,
        sampling=sampling,
        min_policy_version=min_policy_version,
        reward_model=reward_model,
        feedback_project=feedback[0],
        feedback_control=feedback[1],
    )
    task.deadline.FromDatetime(datetime.fromtimestamp(order.deadline_s, UTC))
    return task


def group_result(entry_id: str, data: bytes, *, group_size: int) -> GroupResult:
    """One entry of the stream. What cannot be used becomes a failure; what is no group at all has an empty run id."""
    try:
        group = rollout_pb2.RolloutGroup.FromString(data)
    except DecodeError:
        group = rollout_pb2.RolloutGroup()
    named = group.group_id == group_id(group.run_id, group.issue_index)
    failure = _failure(group, group_size)
    usable = failure is None
    return GroupResult(
        entry_id=entry_id,
        run_id=group.run_id if named else "",
        issue_index=group.issue_index,
        attempt=group.attempt,
        experiences=tuple(_experience(group, rollout) for rollout in group.rollouts) if usable else (),
        completions=tuple(rollout.completion.text for rollout in group.rollouts) if usable else (),
        reward_model_version=group.reward_model_version,
        failure=failure,
        generate_s=group.generate_seconds,
        score_s=group.score_seconds,
    )


def _experience(group: rollout_pb2.RolloutGroup, rollout: rollout_pb2.Rollout) -> Experience:
    completion = rollout.completion
    return Experience(
        rollout_id=rollout.rollout_id,
        group_id=group.group_id,
        issue_index=group.issue_index,
        prompt_token_ids=tuple(group.prompt_token_ids),
        token_ids=tuple(completion.token_ids),
        sampling_logprobs=tuple(completion.sampling_logprobs),
        version_spans=tuple((span.policy_version, span.begin, span.end) for span in completion.version_spans),
        score=rollout.score,
        finished=completion.finish_reason == text_pb2.FINISH_REASON_STOP,
        reward_model_version=group.reward_model_version,
        token_rewards=tuple(rollout.token_rewards),
    )


def _failure(group: rollout_pb2.RolloutGroup, group_size: int) -> ResultFailure | None:
    if group.HasField("failure"):
        reported = group.failure
        stage = _STAGES.get(reported.stage, "unknown")
        return ResultFailure(stage, reported.reason, reported.message, reported.retryable)
    if len(group.rollouts) != group_size:
        return _malformed(f"{len(group.rollouts)} rollouts instead of {group_size}")
    if not group.prompt_token_ids:
        return _malformed("no prompt_token_ids")
    wrong = [problem for rollout in group.rollouts if (problem := _problem(rollout))]
    return _malformed(wrong[0]) if wrong else None


def _malformed(message: str) -> ResultFailure:
    return ResultFailure("malformed", "MALFORMED_GROUP", message, retryable=True)


def _problem(rollout: rollout_pb2.Rollout) -> str:
    """What is wrong with a rollout, "" if nothing is."""
    completion, where = rollout.completion, f"rollout {rollout.rollout_id}"
    tokens = len(completion.token_ids)
    if tokens == 0:
        return f"{where} has no tokens"
    if len(completion.sampling_logprobs) != tokens:
        return f"{where} has {len(completion.sampling_logprobs)} sampling_logprobs for {tokens} tokens"
    if not all(math.isfinite(value) for value in completion.sampling_logprobs):
        return f"{where} has a sampling_logprob that is not finite"
    if not _covers(completion.version_spans, tokens):
        return f"{where}: version_spans do not cover its {tokens} tokens"
    if len(rollout.token_rewards) not in (0, tokens):
        return f"{where} has {len(rollout.token_rewards)} token_rewards for {tokens} tokens"
    if not all(math.isfinite(value) for value in rollout.token_rewards):
        return f"{where} has a token_reward that is not finite"
    return "" if math.isfinite(rollout.score) else f"{where}: score {rollout.score} is not finite"


def _covers(spans: Sequence[text_pb2.VersionSpan], tokens: int) -> bool:
    place = 0
    for span in spans:
        if span.begin != place or span.end <= span.begin:
            return False
        place = span.end
    return place == tokens


def score_items(result: GroupResult, prompt: PromptRecord) -> list[reward_pb.ScoreItem]:
    """The rollouts of a group as RewardService takes them."""
    proto = prompt_to_proto(prompt)
    return [
        reward_pb.ScoreItem(
            prompt=proto, completion=text, prompt_id=prompt.prompt_id, truncated=not experience.finished
        )
        for text, experience in zip(result.completions, result.experiences, strict=True)
    ]


def status_to_proto(snapshot: RunSnapshot) -> learner_pb.GetStatusResponse:
    response = learner_pb.GetStatusResponse(
        run_id=snapshot.run_id,
        kind=snapshot.kind,
        state=learner_pb.RunState.Value(f"RUN_STATE_{snapshot.state.value.upper()}"),
        step=snapshot.step,
        total_steps=snapshot.total_steps,
        policy_version=snapshot.policy_version,
        reward_model_version=snapshot.reward_model_version,
        metrics=snapshot.metrics,
        message=snapshot.message,
        busy_seconds_total=snapshot.busy_s,
        warnings=snapshot.warnings,
    )
    if snapshot.groups is not None and snapshot.attempts is not None:
        response.groups.CopyFrom(learner_pb.GroupAccounting(**snapshot.groups))
        response.attempts.CopyFrom(learner_pb.AttemptAccounting(**snapshot.attempts))
    response.started_at.FromDatetime(datetime.fromtimestamp(snapshot.started_at_s, UTC))
    return response


def metrics_to_proto(
    step: int, policy_version: int, metrics: dict[str, float], time_s: float
) -> learner_pb.WatchMetricsResponse:
    response = learner_pb.WatchMetricsResponse(step=step, policy_version=policy_version, metrics=metrics)
    response.time.FromDatetime(datetime.fromtimestamp(time_s, UTC))
    return response
