"""Comparisons of what the policy writes now."""

from __future__ import annotations

import hashlib

from preceptor.api.common.v1 import text_pb2
from preceptor.api.feedback.v1 import feedback_pb2
from preceptor.api.generation.v1 import generation_service_pb2 as generation_pb
from preceptor.clients.generation import GenerationClient


def sample_comparison(
    policy: GenerationClient,
    project: str,
    prompt: text_pb2.Prompt,
    prompt_id: str,
    candidates: int,
    max_tokens: int,
) -> feedback_pb2.Comparison | None:
    """A comparison of distinct completions drawn now, or None when they all came out the same."""
    answer = policy.generate(
        generation_pb.GenerateRequest(
            prompt=prompt, n=candidates, sampling=text_pb2.SamplingParameters(max_tokens=max_tokens)
        )
    )
    distinct = {completion.text: completion for completion in answer.completions}
    if len(distinct) < 2:
        return None
    content = "\x00".join([project, prompt_id, str(answer.admitted_policy_version), *distinct])
    return feedback_pb2.Comparison(
        comparison_id=hashlib.sha256(content.encode()).hexdigest()[:32],
        project_id=project,
        prompt=prompt,
        prompt_id=prompt_id,
        run_id=answer.run_id,
        overlap=1,
        candidates=[
            feedback_pb2.Candidate(
                candidate_id=f"c{index}",
                text=completion.text,
                policy_version=max((span.policy_version for span in completion.version_spans), default=-1),
                sampling=text_pb2.SamplingParameters(max_tokens=max_tokens),
                truncated=completion.finish_reason == text_pb2.FINISH_REASON_LENGTH,
            )
            for index, completion in enumerate(distinct.values())
        ],
    )


def prompt_proto(prompt: str | tuple[dict[str, str], ...]) -> text_pb2.Prompt:
    """A prompt as prompt files hold them: text, or {role, content} turns."""
    if isinstance(prompt, str):
        return text_pb2.Prompt(text=prompt)
    messages = [text_pb2.Message(role=turn["role"], content=turn["content"]) for turn in prompt]
    return text_pb2.Prompt(conversation=text_pb2.Conversation(messages=messages))
