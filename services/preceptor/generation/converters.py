"""Between protos and types."""

from __future__ import annotations

import secrets
from dataclasses import replace

from preceptor.api.common.v1 import text_pb2
from preceptor.api.generation.v1 import generation_service_pb2 as pb
from preceptor.common.completion_protos import sampling_from, spans_from, spans_to
from preceptor.generation.types import (
    Command,
    Completion,
    Conversation,
    Delta,
    Finish,
    Outcome,
    Prompt,
    State,
    Status,
    TokenIds,
    Turn,
    WeightUpdateRecord,
)

_FINISH = {
    Finish.NOT_YET: text_pb2.FINISH_REASON_UNSPECIFIED,
    Finish.STOP: text_pb2.FINISH_REASON_STOP,
    Finish.LENGTH: text_pb2.FINISH_REASON_LENGTH,
    Finish.HANDED_BACK: text_pb2.FINISH_REASON_HANDED_BACK,
}
_STATE = {
    State.WAITING_FOR_WEIGHTS: pb.GENERATOR_STATE_WAITING_FOR_WEIGHTS,
    State.LOADING: pb.GENERATOR_STATE_LOADING,
    State.SERVING: pb.GENERATOR_STATE_SERVING,
    State.DRAINING: pb.GENERATOR_STATE_DRAINING,
    State.FAILED: pb.GENERATOR_STATE_FAILED,
}


def command_from(request: pb.GenerateRequest, deadline_s: float | None) -> Command:
    """Returns the call as the service takes it; nothing is checked yet."""
    return Command(
        request_id=request.request_id or secrets.token_hex(8),
        run_id=request.run_id,
        prompt=_prompt_from(request.prompt),
        sampling=sampling_from(request.sampling),
        n=request.n or 1,
        rl=request.mode == pb.SAMPLING_MODE_RL,
        min_policy_version=request.min_policy_version,
        continue_from=tuple(_completion_from(completion) for completion in request.continue_from),
        deadline_s=deadline_s,
    )


def stream_command_from(request: pb.GenerateStreamRequest, deadline_s: float | None) -> Command:
    """As `command_from`, of a stream."""
    command = command_from(request.request, deadline_s)
    return replace(command, delta_tokens=request.delta_tokens, text_at_end=request.text_at_end)


def outcome_to(outcome: Outcome, run_id: str, generator_id: str) -> pb.GenerateResponse:
    """Returns the answer of Generate."""
    return pb.GenerateResponse(
        request_id=outcome.request_id,
        run_id=run_id,
        generator_id=generator_id,
        admitted_policy_version=outcome.admitted_policy_version,
        prompt_token_ids=outcome.prompt_token_ids,
        completions=[_completion_to(completion) for completion in outcome.completions],
    )


def delta_to(delta: Delta, generator_id: str) -> pb.GenerateStreamResponse:
    """Returns one message of GenerateStream."""
    return pb.GenerateStreamResponse(
        delta=_completion_to(delta.completion),
        admitted_policy_version=delta.admitted_policy_version,
        prompt_token_ids=delta.prompt_token_ids,
        index=delta.index,
        generator_id=generator_id if delta.prompt_token_ids else "",
    )


def status_to(status: Status) -> pb.GetStatusResponse:
    """Returns the answer of GetStatus."""
    return pb.GetStatusResponse(
        generator_id=status.generator_id,
        run_id=status.run_id,
        state=_STATE[status.state],
        policy_version=status.policy_version,
        running_requests=status.running,
        waiting_requests=status.waiting,
        max_requests=status.max_requests,
        max_model_len_tokens=status.max_model_len,
        generated_tokens_total=status.generated_tokens,
        message=status.message,
        recent_updates=[_update_to(record) for record in status.recent_updates],
        busy_seconds_total=status.busy_s,
    )


def _prompt_from(prompt: text_pb2.Prompt) -> Prompt | None:
    kind = prompt.WhichOneof("content")
    if kind == "text":
        return prompt.text
    if kind == "conversation":
        return Conversation(tuple(Turn(turn.role, turn.content) for turn in prompt.conversation.messages))
    return TokenIds(list(prompt.token_ids.ids)) if kind == "token_ids" else None


def _completion_from(completion: text_pb2.Completion) -> Completion:
    return Completion(
        token_ids=list(completion.token_ids),
        text=completion.text,
        sampling_logprobs=list(completion.sampling_logprobs),
        spans=spans_from(completion),
    )


def _completion_to(completion: Completion) -> text_pb2.Completion:
    return text_pb2.Completion(
        token_ids=completion.token_ids,
        text=completion.text,
        sampling_logprobs=completion.sampling_logprobs,
        finish_reason=_FINISH[completion.finish],
        version_spans=spans_to(completion.spans),
    )


def _update_to(record: WeightUpdateRecord) -> pb.WeightUpdate:
    return pb.WeightUpdate(
        policy_version=record.policy_version,
        previous_version=record.previous_version,
        apply_seconds=record.apply_s,
        stall_seconds=record.stall_s,
        rolled_back=record.rolled_back,
        error=record.error,
    )
