import time
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from preceptor.api.common.v1 import text_pb2
from preceptor.api.generation.v1 import generation_service_pb2 as generation_pb
from preceptor.api.reward.v1 import reward_service_pb2 as reward_pb
from preceptor.api.rollout.v1 import rollout_pb2
from preceptor.clients.queues import parse_collect
from preceptor.common.errors import InvalidInput
from preceptor.rollout.converters import (
    generate_request,
    generation_from_response,
    generator_from_record,
    group_to_proto,
    job_from_task,
    score_request,
    scoring_from_response,
)
from preceptor.rollout.types import Deadline, Failure, FinishReason, Generator, Group, Rollout, Stage

LOGPROBS = st.floats(-1000, 0, width=32)


@st.composite
def completions(draw: st.DrawFn) -> text_pb2.Completion:
    tokens = draw(st.lists(st.integers(0, 2**31 - 1), max_size=20))
    return text_pb2.Completion(
        token_ids=tokens,
        text=draw(st.text(max_size=20)),
        sampling_logprobs=draw(st.lists(LOGPROBS, min_size=len(tokens), max_size=len(tokens))),
        finish_reason=draw(st.sampled_from([1, 2, 3])),
        version_spans=[text_pb2.VersionSpan(policy_version=draw(st.integers(0, 2**62)), begin=0, end=len(tokens))],
    )


PROMPTS = st.one_of(
    st.text(max_size=20).map(lambda text: text_pb2.Prompt(text=text)),
    st.lists(st.integers(0, 1000), max_size=5).map(
        lambda ids: text_pb2.Prompt(token_ids=text_pb2.TokenIds(ids=ids)),
    ),
    st.lists(st.tuples(st.text(max_size=5), st.text(max_size=9)), max_size=3).map(
        lambda turns: text_pb2.Prompt(
            conversation=text_pb2.Conversation(
                messages=[text_pb2.Message(role=role, content=content) for role, content in turns]
            )
        )
    ),
)
OPTIONAL: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0, 1),
    "top_k": st.integers(0, 100),
    "min_tokens": st.integers(0, 100),
    "presence_penalty": st.floats(-2, 2),
    "frequency_penalty": st.floats(-2, 2),
    "repetition_penalty": st.floats(0, 2),
    "seed": st.integers(0, 2**62),
}


@st.composite
def tasks(draw: st.DrawFn) -> rollout_pb2.CollectTask:
    given_fields = {name: draw(values) for name, values in OPTIONAL.items() if draw(st.booleans())}
    continued = draw(st.lists(completions(), max_size=2))
    return rollout_pb2.CollectTask(
        run_id="run",
        group_id="run/7",
        attempt=draw(st.integers(1, 9)),
        issue_index=7,
        prompt_id=draw(st.text(max_size=5)),
        prompt=draw(PROMPTS),
        n=draw(st.integers(2, 64)),
        sampling=text_pb2.SamplingParameters(max_tokens=8, stop=draw(st.lists(st.text(), max_size=2)), **given_fields),
        min_policy_version=draw(st.integers(0, 2**62)),
        continue_from=continued,
    )


@given(tasks())
def test_a_task_reaches_the_generator_unchanged(task: rollout_pb2.CollectTask) -> None:
    """Through JSON, as it travels; what is absent stays absent, and zero stays zero."""
    job = job_from_task(parse_collect(json_format.MessageToDict(task)))
    request = generate_request(job, job.n, job.continue_from)
    assert request.prompt == task.prompt
    assert request.sampling == task.sampling
    assert list(request.continue_from) == list(task.continue_from)
    assert (request.n, request.min_policy_version, request.run_id) == (task.n, task.min_policy_version, "run")
    assert request.mode == generation_pb.SAMPLING_MODE_RL


@given(st.lists(completions(), max_size=3), PROMPTS)
def test_completions_reach_the_stream_unchanged(written: list[text_pb2.Completion], prompt: text_pb2.Prompt) -> None:
    task = rollout_pb2.CollectTask(run_id="run", group_id="run/7", attempt=1, n=4, prompt=prompt)
    response = generation_pb.GenerateResponse(generator_id="g", prompt_token_ids=[1, 2], completions=written)
    generation = generation_from_response(response)
    rollouts = tuple(
        Rollout(f"run/7/1/{i}", completion, 0.5, {"raw": 1.0}) for i, completion in enumerate(generation.completions)
    )
    group = group_to_proto(
        Group(job_from_task(task), "w", rollouts, generation.prompt_token_ids, "rm", 4, generator_id="g")
    )
    assert [rollout.completion for rollout in group.rollouts] == written
    assert [dict(rollout.score_components) for rollout in group.rollouts] == [{"raw": 1.0}] * len(written)
    assert group.prompt == prompt
    assert (list(group.prompt_token_ids), group.reward_model, group.reward_model_version) == ([1, 2], "rm", 4)
    assert abs(group.collected_at.ToSeconds() - time.time()) < 5
    assert not group.HasField("failure")


@pytest.mark.parametrize(
    ("missing", "task"),
    [
        ("run_id", rollout_pb2.CollectTask(group_id="g", attempt=1, n=1)),
        ("group_id", rollout_pb2.CollectTask(run_id="r", attempt=1, n=1)),
        ("attempt", rollout_pb2.CollectTask(run_id="r", group_id="g", n=1)),
        ("n", rollout_pb2.CollectTask(run_id="r", group_id="g", attempt=1)),
        ("prompt", rollout_pb2.CollectTask(run_id="r", group_id="g", attempt=1, n=1)),
        (
            "continue_from",
            rollout_pb2.CollectTask(
                run_id="r", group_id="g", attempt=1, n=1, continue_from=[text_pb2.Completion()] * 2
            ),
        ),
    ],
)
def test_a_task_that_lacks_something_names_it(missing: str, task: rollout_pb2.CollectTask) -> None:
    with pytest.raises(InvalidInput) as error:
        job_from_task(task)
    assert error.value.field == f"task.{missing}"


def test_the_deadline_is_the_tasks_own() -> None:
    task = rollout_pb2.CollectTask(run_id="r", group_id="g", attempt=1, n=1, prompt=text_pb2.Prompt(text=""))
    task.deadline.FromNanoseconds(round((time.time() + 30) * 1e9))
    assert job_from_task(task).deadline.remaining_s() == pytest.approx(30, abs=1)
    task.deadline.FromNanoseconds(round((time.time() - 30) * 1e9))
    assert job_from_task(task).deadline.passed


def test_a_score_request_says_what_was_cut_off() -> None:
    task = rollout_pb2.CollectTask(
        run_id="r",
        group_id="g",
        attempt=1,
        n=2,
        prompt_id="p",
        prompt=text_pb2.Prompt(text="x"),
        reward_model="rm",
        continue_from=[text_pb2.Completion(text="a", finish_reason=1), text_pb2.Completion(text="b", finish_reason=2)],
    )
    job = job_from_task(task)
    request = score_request(job, job.continue_from)
    assert (request.model, request.request_id) == ("rm", "g/1")
    assert [(i.completion, i.truncated, i.prompt_id, i.prompt.text) for i in request.items] == [
        ("a", False, "p", "x"),
        ("b", True, "p", "x"),
    ]


def test_a_score_and_an_items_error_are_told_apart() -> None:
    scoring = scoring_from_response(
        reward_pb.ScoreResponse(
            results=[
                reward_pb.ScoreResult(score=0.0, components={"raw": 1.5}),
                reward_pb.ScoreResult(error=reward_pb.ScoreError(reason="TIMEOUT", message="late")),
                reward_pb.ScoreResult(error=reward_pb.ScoreError()),
            ],
            model="rm",
            reward_model_version=4,
        )
    )
    assert [(result.score, result.reason, result.message) for result in scoring.results] == [
        (0.0, "", ""),
        (0.0, "TIMEOUT", "late"),
        (0.0, "UNKNOWN", ""),
    ]
    assert (dict(scoring.results[0].components), scoring.reward_model_version) == ({"raw": 1.5}, 4)


@pytest.mark.parametrize("stage", list(Stage))
def test_a_failure_is_reported_with_its_stage(stage: Stage) -> None:
    task = rollout_pb2.CollectTask(run_id="r", group_id="g", attempt=3, n=1, prompt=text_pb2.Prompt(text=""))
    group = group_to_proto(Group(job_from_task(task), "w", failure=Failure(stage, "WHY", "text", retryable=True)))
    assert rollout_pb2.FailureStage.Name(group.failure.stage) == f"FAILURE_STAGE_{stage.name}"
    assert (group.failure.reason, group.failure.message, group.failure.retryable) == ("WHY", "text", True)
    assert (group.attempt, len(group.rollouts), group.worker_id) == (3, 0, "w")


def test_a_record_may_leave_things_out() -> None:
    assert generator_from_record({"id": "a", "address": "h:1"}) == Generator("a", "h:1", "")
    full = {"id": "a", "address": "h:1", "run_id": "r", "policy_version": 7, "load": 3, "max_requests": 9}
    assert generator_from_record(full) == Generator("a", "h:1", "r", 7, 3, 9)


def test_an_unknown_finish_reason_is_never_taken_for_finished() -> None:
    response = generation_pb.GenerateResponse(completions=[text_pb2.Completion()])
    assert generation_from_response(response).completions[0].finish_reason is FinishReason.HANDED_BACK


def test_a_deadline_can_be_moved() -> None:
    deadline = Deadline(10.0, clock=lambda: 4.0)
    assert deadline.remaining_s() == 6.0
    assert deadline.less(2).remaining_s() == 4.0
    assert deadline.at_least(9).remaining_s() == 9.0
    assert not deadline.passed
