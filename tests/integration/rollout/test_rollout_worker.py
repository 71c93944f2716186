"""A real worker process between a real Redis, a real reward server and a generator that keeps the protocol."""

import base64
import json
from collections import Counter

import pytest

from preceptor.api.rollout.v1 import rollout_pb2
from preceptor.clients.queues import QUEUE_FEEDBACK, TASK_OFFER_GROUP
from preceptor.common.errors import InvalidInput, Overloaded
from tests.integration.rollout.conftest import RUN, Stack
from tests.integration.rollout.generation_double import GenerationDouble
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


def check_complete(groups: list[rollout_pb2.RolloutGroup], count: int) -> None:
    """Every group is there, whole and rightly scored."""
    assert {group.group_id for group in groups} == {f"{RUN}/{index}" for index in range(count)}
    for group in groups:
        assert not group.HasField("failure"), group.failure
        assert [rollout.completion.text for rollout in group.rollouts] == [
            f"prompt {group.issue_index} words {i}" for i in range(4)
        ]
        assert [rollout.score for rollout in group.rollouts] == [
            float(len(rollout.completion.text)) for rollout in group.rollouts
        ]


def test_groups_flow_into_the_stream(stack: Stack) -> None:
    with GenerationDouble(stack.redis_process.url, RUN) as generator:
        for index in range(20):
            stack.send(index)
        groups = stack.wait_for(20)
    check_complete(groups, 20)
    group = next(group for group in groups if group.issue_index == 7)
    assert (group.attempt, group.prompt_id, group.worker_id) == (1, "prompt-7", "rollout-0")
    assert (group.generator_id, list(group.prompt_token_ids)) == ("generation-0", [1, 2, 3])
    assert (group.reward_model, group.reward_model_version) == ("length", 0)
    assert [rollout.rollout_id for rollout in group.rollouts] == [f"{RUN}/7/1/{i}" for i in range(4)]
    assert list(group.rollouts[0].completion.sampling_logprobs) == [-0.25] * 4
    assert (group.rollouts[0].completion.version_spans[0].policy_version, group.min_policy_version) == (3, 3)
    assert group.generate_seconds > 0
    request = generator.requests[0]
    assert (request.n, request.run_id, request.min_policy_version) == (4, RUN, 3)
    assert request.mode == 2, "RL mode"
    assert stack.client.keys("preceptor:discovery:reward:*") == [b"preceptor:discovery:reward:reward"]
    metrics = stack.worker.http("/metrics")[1]
    assert 'preceptor_rollout_groups_total{outcome="OK"} 20.0' in metrics
    assert "preceptor_rollout_busy_seconds_total" in metrics


@pytest.mark.parametrize(
    ("model", "reason", "text"),
    [
        ("not-a-number", "NAN_SCORE", "not_a_number returned nan, which is not a finite number"),
        ("raises", "FUNCTION_RAISED", "raises raised ValueError: the judge is asleep"),
        ("missing", "UNKNOWN_MODEL", 'no reward model "missing" is loaded'),
    ],
)
def test_what_cannot_be_scored_is_a_failure_with_its_text_and_never_a_zero(
    stack: Stack, model: str, reason: str, text: str
) -> None:
    with GenerationDouble(stack.redis_process.url, RUN):
        stack.send(0, reward_model=model)
        group = stack.one()
    assert len(group.rollouts) == 0
    assert group.failure.stage == rollout_pb2.FAILURE_STAGE_REWARD
    assert group.failure.reason == reason
    assert text in group.failure.message
    assert not group.failure.retryable


def test_a_refused_generation_is_a_failure_with_its_text(stack: Stack) -> None:
    with GenerationDouble(stack.redis_process.url, RUN) as generator:
        generator.errors = [InvalidInput("prompt is 600 tokens long, 512 are allowed", reason="PROMPT_TOO_LONG")]
        stack.send(0)
        group = stack.one()
    assert group.failure.stage == rollout_pb2.FAILURE_STAGE_GENERATION
    assert (group.failure.reason, group.failure.retryable) == ("PROMPT_TOO_LONG", False)
    assert len(generator.requests) == 1


def test_an_expired_task_is_reported_as_such(stack: Stack) -> None:
    with GenerationDouble(stack.redis_process.url, RUN) as generator:
        stack.send(0, deadline_s=-5)
        group = stack.one()
    assert group.failure.stage == rollout_pb2.FAILURE_STAGE_EXPIRED
    assert generator.requests == []


def test_without_a_generator_the_failure_arrives_before_the_deadline(stack: Stack) -> None:
    stack.send(0, deadline_s=3)
    group = stack.one(timeout_s=10)
    assert (group.failure.reason, group.failure.retryable) == ("NO_GENERATOR", True)
    assert "no generator serves run" in group.failure.message


def test_a_generator_that_joins_late_is_found(stack: Stack) -> None:
    stack.send(0)
    wait_until(lambda: "groups_in_flight 1" in stack.worker.http("/metrics")[1], 20, "the task to be taken")
    with GenerationDouble(stack.redis_process.url, RUN):
        assert not stack.one().HasField("failure")


def test_a_generator_that_dies_hands_its_groups_to_another(stack: Stack) -> None:
    with (
        GenerationDouble(stack.redis_process.url, RUN, "generation-0") as dying,
        GenerationDouble(stack.redis_process.url, RUN, "generation-1", load=1000) as other,
    ):
        dying.gate.clear()
        for index in range(4):
            stack.send(index)
        wait_until(lambda: len(dying.requests) == 4, 20, "the generator to hold all groups")
        dying.stop()
        groups = stack.wait_for(4)
    check_complete(groups, 4)
    assert {group.generator_id for group in groups} == {"generation-1"}
    assert len(other.requests) == 4


def test_overload_is_waited_out_as_long_as_the_server_asked(stack: Stack) -> None:
    with GenerationDouble(stack.redis_process.url, RUN) as generator:
        generator.errors = [Overloaded("full", retry_after_s=0.3) for _ in range(3)]
        stack.send(0)
        group = stack.one()
    assert not group.HasField("failure")
    assert group.generate_seconds >= 0.9
    assert len(generator.requests) == 4


def test_groups_survive_a_killed_reward_server(stack: Stack) -> None:
    with GenerationDouble(stack.redis_process.url, RUN):
        for index in range(10):
            stack.send(index, reward_model="slow")
        stack.wait_for(2)
        stack.reward.kill()
        stack.reward.start().wait_ready()
        groups = stack.wait_for(10)
    assert {group.group_id for group in groups} == {f"{RUN}/{index}" for index in range(10)}
    assert all([rollout.score for rollout in group.rollouts] == [2.0] * 4 for group in groups)


def test_groups_survive_a_killed_redis(stack: Stack) -> None:
    with GenerationDouble(stack.redis_process.url, RUN) as generator:
        generator.gate.clear()
        for index in range(8):
            stack.send(index)
        wait_until(lambda: len(generator.requests) == 8, 20, "all groups to be in work")
        stack.redis_process.kill()
        generator.gate.set()
        wait_until(lambda: "the stream takes no group" in stack.worker.log(), 10, "Redis to be missed")
        stack.redis_process.start()
        groups = stack.wait_for(8)
        check_complete(groups, 8)
        stack.send(8)
        check_complete(stack.wait_for(9), 9)
    assert stack.worker.running


def test_a_killed_worker_costs_at_most_an_attempt_and_nothing_counts_twice(stack: Stack) -> None:
    """What the pump relies on: an attempt may be lost or come twice, (group_id, attempt) tells, and a new attempt of a
    lost group completes."""
    with GenerationDouble(stack.redis_process.url, RUN) as generator:
        for index in range(6):
            stack.send(index)
        stack.wait_for(6)
        generator.gate.clear()
        for index in range(6, 12):
            stack.send(index)
        wait_until(lambda: len(generator.requests) == 12, 20, "the second half to be in work")
        stack.worker.kill()
        stack.worker.start().wait_ready()
        generator.gate.set()
        for index in range(6, 12):
            stack.send(index, attempt=2)
        groups = stack.wait_for(12)
    check_complete(groups, 12)
    by_attempt = Counter((group.group_id, group.attempt) for group in groups)
    assert all(by_attempt[f"{RUN}/{index}", 1] == 1 for index in range(6)), "what was delivered stays, once"
    assert all(by_attempt[f"{RUN}/{index}", 2] >= 1 for index in range(6, 12))
    contents = {}
    for group in groups:
        texts = [rollout.completion.text for rollout in group.rollouts]
        assert contents.setdefault((group.group_id, group.attempt), texts) == texts


def test_sigterm_finishes_what_runs(stack: Stack) -> None:
    with GenerationDouble(stack.redis_process.url, RUN) as generator:
        generator.gate.clear()
        for index in range(3):
            stack.send(index)
        wait_until(lambda: len(generator.requests) == 3, 20, "the groups to be in work")
        stack.worker.signal(15)
        wait_until(lambda: stack.worker.http("/readyz")[0] == 503, 10, "the worker to be unready")
        generator.gate.set()
        assert stack.worker.wait(20) == 0
        check_complete(stack.groups(), 3)


def test_sigterm_reports_what_only_waits(stack: Stack) -> None:
    stack.send(0, deadline_s=300)
    wait_until(lambda: "groups_in_flight 1" in stack.worker.http("/metrics")[1], 20, "the task to be taken")
    assert stack.worker.terminate(timeout_s=25) == 0
    group = stack.one(5)
    assert (group.failure.reason, group.failure.retryable) == ("WORKER_STOPPING", True)


def test_a_message_that_is_no_task_is_dropped_and_the_next_one_runs(stack: Stack) -> None:
    stack.app.send_task("rollout.collect", kwargs={"task": {"nonsense": 1}}, queue="rollout")
    with GenerationDouble(stack.redis_process.url, RUN):
        stack.send(0)
        check_complete([stack.one()], 1)
    assert "a rollout task was dropped" in stack.worker.log()


def test_a_share_of_groups_is_offered_for_feedback(stack: Stack) -> None:
    with GenerationDouble(stack.redis_process.url, RUN):
        stack.send(0, feedback_project="demo", feedback_control=True)
        group = stack.one()
    wait_until(lambda: stack.client.llen(QUEUE_FEEDBACK) == 1, 10, "the offer")
    message = json.loads(stack.client.lindex(QUEUE_FEEDBACK, 0))
    _, kwargs, _ = json.loads(base64.b64decode(message["body"]))
    assert message["headers"]["task"] == TASK_OFFER_GROUP
    assert (kwargs["project_id"], kwargs["control"]) == ("demo", True)
    offered = rollout_pb2.RolloutGroup.FromString(base64.b64decode(kwargs["group"]))
    assert (offered.group_id, len(offered.rollouts)) == (group.group_id, 4)
