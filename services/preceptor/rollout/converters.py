"""Between the rollout protos and the worker's own types."""

import time
from collections.abc import Iterable, Mapping

from google.protobuf.timestamp_pb2 import Timestamp

from preceptor.api.common.v1 import text_pb2
from preceptor.api.generation.v1 import generation_service_pb2 as generation_pb
from preceptor.api.reward.v1 import reward_service_pb2 as reward_pb
from preceptor.api.rollout.v1 import rollout_pb2
from preceptor.common.completion_protos import sampling_from, sampling_to, spans_from, spans_to
from preceptor.common.errors import InvalidInput
from preceptor.rollout.drafts import StreamedGroup
from preceptor.rollout.types import (
    Completion,
    Deadline,
    Failure,
    FinishReason,
    Generation,
    Generator,
    Group,
    ItemScore,
    Job,
    Prompt,
    Rollout,
    Scoring,
    Stage,
)

_FINISH = {
    text_pb2.FINISH_REASON_STOP: FinishReason.STOP,
    text_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    text_pb2.FINISH_REASON_HANDED_BACK: FinishReason.HANDED_BACK,
}
_FINISH_NUMBERS = {reason: number for number, reason in _FINISH.items()}
_STAGE_NUMBERS = {
    Stage.GENERATION: rollout_pb2.FAILURE_STAGE_GENERATION,
    Stage.REWARD: rollout_pb2.FAILURE_STAGE_REWARD,
    Stage.EXPIRED: rollout_pb2.FAILURE_STAGE_EXPIRED,
}
_NO_DEADLINE_S = 300.0


def job_from_task(task: rollout_pb2.CollectTask) -> Job:
    """The task as a job. Raises InvalidInput naming the field that is missing."""
    for field in ("run_id", "group_id", "attempt", "n"):
        if not getattr(task, field):
            raise InvalidInput(f"{field} is missing", field=f"task.{field}")
    if len(task.continue_from) > task.n:
        raise InvalidInput(
            f"{len(task.continue_from)} completions to continue, n is {task.n}", field="task.continue_from"
        )
    return Job(
        run_id=task.run_id,
        group_id=task.group_id,
        attempt=task.attempt,
        issue_index=task.issue_index,
        prompt_id=task.prompt_id,
        prompt=_prompt(task.prompt),
        n=task.n,
        sampling=sampling_from(task.sampling),
        min_policy_version=task.min_policy_version,
        reward_model=task.reward_model,
        deadline=_deadline(task),
        feedback_project=task.feedback_project,
        feedback_control=task.feedback_control,
        continue_from=tuple(map(_completion, task.continue_from)),
    )


def generator_from_record(record: Mapping[str, object]) -> Generator:
    """A discovery record of kind "generation"; what it leaves out takes Generator's defaults."""
    return Generator(
        id=str(record["id"]),
        address=str(record["address"]),
        run_id=str(record.get("run_id", "")),
        policy_version=int(str(record.get("policy_version", -1))),
        load=int(float(str(record.get("load", 0)))),
        max_requests=int(float(str(record.get("max_requests", 0)))),
    )


def generate_request(job: Job, n: int, continue_from: tuple[Completion, ...]) -> generation_pb.GenerateRequest:
    return generation_pb.GenerateRequest(
        request_id=f"{job.group_id}/{job.attempt}",
        run_id=job.run_id,
        prompt=_prompt_proto(job.prompt),
        sampling=sampling_to(job.sampling),
        n=n,
        mode=generation_pb.SAMPLING_MODE_RL,
        min_policy_version=job.min_policy_version,
        continue_from=[_completion_proto(completion) for completion in continue_from],
    )


def generation_from_response(response: generation_pb.GenerateResponse) -> Generation:
    return Generation(
        generator_id=response.generator_id,
        prompt_token_ids=tuple(response.prompt_token_ids),
        completions=tuple(map(_completion, response.completions)),
    )


def add_response(streamed: StreamedGroup, response: generation_pb.GenerateStreamResponse) -> None:
    """Adds one message of GenerateStream (with text_at_end) to what has arrived."""
    if response.prompt_token_ids:
        streamed.prompt_token_ids, streamed.generator_id = tuple(response.prompt_token_ids), response.generator_id
    ended = response.delta.finish_reason != text_pb2.FINISH_REASON_UNSPECIFIED
    streamed.add(response.index, _completion(response.delta), ended=ended)


def score_request(job: Job, completions: Iterable[Completion]) -> reward_pb.ScoreRequest:
    prompt = _prompt_proto(job.prompt)
    return reward_pb.ScoreRequest(
        request_id=f"{job.group_id}/{job.attempt}",
        model=job.reward_model,
        items=[
            reward_pb.ScoreItem(
                prompt=prompt,
                completion=completion.text,
                prompt_id=job.prompt_id,
                truncated=completion.finish_reason is FinishReason.LENGTH,
            )
            for completion in completions
        ],
    )


def scoring_from_response(response: reward_pb.ScoreResponse) -> Scoring:
    results = tuple(
        ItemScore(
            result.score,
            dict(result.components),
            reason=(result.error.reason or "UNKNOWN") if result.HasField("error") else "",
            message=result.error.message,
        )
        for result in response.results
    )
    return Scoring(results, response.model, response.reward_model_version)


def group_to_proto(group: Group) -> rollout_pb2.RolloutGroup:
    job = group.job
    collected_at = Timestamp()
    collected_at.GetCurrentTime()
    return rollout_pb2.RolloutGroup(
        run_id=job.run_id,
        group_id=job.group_id,
        attempt=job.attempt,
        issue_index=job.issue_index,
        prompt_id=job.prompt_id,
        prompt=_prompt_proto(job.prompt),
        prompt_token_ids=group.prompt_token_ids,
        min_policy_version=job.min_policy_version,
        rollouts=[_rollout_proto(rollout) for rollout in group.rollouts],
        reward_model_version=group.reward_model_version,
        reward_model=group.reward_model or job.reward_model,
        failure=_failure_proto(group.failure) if group.failure else None,
        generator_id=group.generator_id,
        worker_id=group.worker_id,
        collected_at=collected_at,
        generate_seconds=group.generate_seconds,
        score_seconds=group.score_seconds,
    )


def _deadline(task: rollout_pb2.CollectTask) -> Deadline:
    if not task.HasField("deadline"):
        return Deadline.after(_NO_DEADLINE_S)
    return Deadline.after(task.deadline.ToNanoseconds() / 1e9 - time.time())


def _prompt(prompt: text_pb2.Prompt) -> Prompt:
    content = prompt.WhichOneof("content")
    if content == "text":
        return Prompt(text=prompt.text)
    if content == "conversation":
        return Prompt(messages=tuple((turn.role, turn.content) for turn in prompt.conversation.messages))
    if content == "token_ids":
        return Prompt(token_ids=tuple(prompt.token_ids.ids))
    raise InvalidInput("prompt is missing: give text, a conversation or token ids", field="task.prompt")


def _prompt_proto(prompt: Prompt) -> text_pb2.Prompt:
    if prompt.text is not None:
        return text_pb2.Prompt(text=prompt.text)
    if prompt.messages is not None:
        turns = [text_pb2.Message(role=role, content=content) for role, content in prompt.messages]
        return text_pb2.Prompt(conversation=text_pb2.Conversation(messages=turns))
    return text_pb2.Prompt(token_ids=text_pb2.TokenIds(ids=prompt.token_ids or ()))


def _completion(completion: text_pb2.Completion) -> Completion:
    return Completion(
        token_ids=tuple(completion.token_ids),
        text=completion.text,
        sampling_logprobs=tuple(completion.sampling_logprobs),
        finish_reason=_FINISH.get(completion.finish_reason, FinishReason.HANDED_BACK),
        version_spans=spans_from(completion),
    )


def _completion_proto(completion: Completion) -> text_pb2.Completion:
    return text_pb2.Completion(
        token_ids=completion.token_ids,
        text=completion.text,
        sampling_logprobs=completion.sampling_logprobs,
        finish_reason=_FINISH_NUMBERS[completion.finish_reason],
        version_spans=spans_to(completion.version_spans),
    )


def _rollout_proto(rollout: Rollout) -> rollout_pb2.Rollout:
    return rollout_pb2.Rollout(
        rollout_id=rollout.rollout_id,
        completion=_completion_proto(rollout.completion),
        score=rollout.score,
        score_components=dict(rollout.score_components),
    )


def _failure_proto(failure: Failure) -> rollout_pb2.Failure:
    return rollout_pb2.Failure(
        stage=_STAGE_NUMBERS[failure.stage],
        reason=failure.reason,
        message=failure.message,
        retryable=failure.retryable,
    )
