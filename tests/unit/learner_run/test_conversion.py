"""Stream entries to results, results to scores, orders to tasks."""

import pytest

from preceptor.api.common.v1 import text_pb2
from preceptor.api.rollout.v1 import rollout_pb2
from preceptor.common.errors import FailedPrecondition
from preceptor.learner.adapters.prompt_files import prompts_digest, read_prompts
from preceptor.learner.adapters.rescoring import one_reward_model
from preceptor.learner.converters import collect_task, group_result, sampling_to_proto, score_items
from preceptor.learner.pump.attempts import SendOrder
from preceptor.learner.pump.prompts import PromptRecord
from preceptor.learner.pump.results import GroupResult
from preceptor.learner.run_configs.rl import PromptSource, SamplingConfig


def rollout(index: int = 0, **changes) -> rollout_pb2.Rollout:
    completion = {
        "token_ids": [5, 6, 7],
        "text": "abc",
        "sampling_logprobs": [-0.5, -0.25, -1.0],
        "finish_reason": text_pb2.FINISH_REASON_STOP,
        "version_spans": [
            text_pb2.VersionSpan(policy_version=1, begin=0, end=2),
            text_pb2.VersionSpan(policy_version=2, begin=2, end=3),
        ],
    }
    own = {"score": changes.pop("score", 0.5), "token_rewards": changes.pop("token_rewards", [])}
    return rollout_pb2.Rollout(
        rollout_id=f"r/4/1/{index}", completion=text_pb2.Completion(**{**completion, **changes}), **own
    )


def group(*rollouts: rollout_pb2.Rollout, **changes) -> bytes:
    values = {
        "run_id": "r",
        "group_id": "r/4",
        "attempt": 1,
        "issue_index": 4,
        "prompt_token_ids": [1, 2],
        "rollouts": rollouts or [rollout(0), rollout(1)],
        "reward_model_version": 3,
    }
    return rollout_pb2.RolloutGroup(**{**values, **changes}).SerializeToString()


def test_rollouts_become_experiences_with_their_version_spans():
    result = group_result(
        "1-1", group(rollout(0), rollout(1, finish_reason=text_pb2.FINISH_REASON_LENGTH)), group_size=2
    )
    first, second = result.experiences
    assert (result.run_id, result.issue_index, result.attempt, result.failure) == ("r", 4, 1, None)
    assert first.version_spans == ((1, 0, 2), (2, 2, 3))
    assert (first.finished, second.finished) == (True, False)
    assert (first.score, first.reward_model_version, first.group_id) == (0.5, 3, "r/4")


def test_rewards_of_single_tokens_come_through():
    result = group_result("1-1", group(rollout(0, token_rewards=[0.5, 0.0, -2.0]), rollout(1)), group_size=2)
    assert [e.token_rewards for e in result.experiences] == [(0.5, 0.0, -2.0), ()]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"token_ids": [], "sampling_logprobs": [], "version_spans": []}, "has no tokens"),
        ({"sampling_logprobs": [-1.0]}, "1 sampling_logprobs for 3 tokens"),
        ({"sampling_logprobs": [-1.0, float("nan"), -1.0]}, "not finite"),
        ({"version_spans": [text_pb2.VersionSpan(policy_version=1, begin=0, end=2)]}, "do not cover its 3 tokens"),
        ({"version_spans": [text_pb2.VersionSpan(policy_version=1, begin=1, end=3)]}, "do not cover its 3 tokens"),
        ({"score": float("nan")}, "score nan is not finite"),
        ({"token_rewards": [0.5]}, "1 token_rewards for 3 tokens"),
        ({"token_rewards": [0.5, float("inf"), 0.0]}, "token_reward that is not finite"),
    ],
)
def test_malformed_rollouts_fail_their_attempt_and_never_become_experience(broken, message):
    result = group_result("1-1", group(rollout(0), rollout(1, **broken)), group_size=2)
    assert result.experiences == ()
    assert result.failure.reason == "MALFORMED_GROUP"
    assert message in result.failure.message
    assert "r/4/1/1" in result.failure.message


def test_wrong_number_of_rollouts_fails_the_attempt():
    assert "2 rollouts instead of 3" in group_result("1-1", group(), group_size=3).failure.message


def test_reported_failures_keep_their_stage_and_whether_to_try_again():
    failure = rollout_pb2.Failure(
        stage=rollout_pb2.FAILURE_STAGE_REWARD, reason="NAN_SCORE", message="nan", retryable=False
    )
    found = group_result("1-1", group(rollouts=[], failure=failure), group_size=2).failure
    assert (found.stage, found.reason, found.message, found.retryable) == ("reward", "NAN_SCORE", "nan", False)


def test_entry_whose_group_id_does_not_fit_is_nobodys():
    assert group_result("1-1", group(group_id="r/5"), group_size=2).run_id == ""
    assert group_result("1-1", b"\xff\xff", group_size=2).run_id == ""


def test_collect_task_carries_what_a_worker_needs():
    prompt = PromptRecord("p7", (("user", "hello"),))
    sampling = sampling_to_proto(SamplingConfig(temperature=0.5, max_tokens=9, stop=("\n",)))
    task = collect_task(
        "r",
        SendOrder(4, 2, 0.0, 1000.5),
        prompt,
        sampling,
        n=3,
        min_policy_version=8,
        reward_model="gold",
        feedback=("people", True),
    )
    assert (task.group_id, task.attempt, task.issue_index, task.n) == ("r/4", 2, 4, 3)
    assert task.prompt.conversation.messages[0].content == "hello"
    assert (task.sampling.temperature, task.sampling.max_tokens, list(task.sampling.stop)) == (0.5, 9, ["\n"])
    assert (task.min_policy_version, task.reward_model, task.prompt_id) == (8, "gold", "p7")
    assert (task.feedback_project, task.feedback_control) == ("people", True)
    assert task.deadline.ToMilliseconds() == 1_000_500


def test_groups_are_scored_again_with_the_same_words():
    result = group_result("1-1", group(rollout(0, text="x"), rollout(1, text="y")), group_size=2)
    items = score_items(result, PromptRecord("p", "ask"))
    assert [(item.prompt.text, item.completion, item.prompt_id, item.truncated) for item in items] == [
        ("ask", "x", "p", False),
        ("ask", "y", "p", False),
    ]


# -- one reward model per batch -------------------------------------------------------------------------------------


def results(*versions: int) -> list[GroupResult]:
    entries = [group(group_id=f"r/{i}", issue_index=i, reward_model_version=v) for i, v in enumerate(versions)]
    return [group_result(f"{i}-0", data, group_size=2) for i, data in enumerate(entries)]


class Scorer:
    """Scores by `serving` versions, one per call; the last one stays."""

    def __init__(self, *serving: int) -> None:
        self.serving = list(serving)
        self.asked: list[int] = []

    def __call__(self, result: GroupResult) -> GroupResult:
        self.asked.append(result.issue_index)
        version = self.serving.pop(0) if len(self.serving) > 1 else self.serving[0]
        return result.rescored([float(version)] * 2, version)


def test_batch_of_one_version_is_left_alone():
    scorer, groups = Scorer(9), results(2, 2)
    assert one_reward_model(groups, scorer) is groups
    assert scorer.asked == []


def test_older_groups_are_scored_again():
    scorer = Scorer(3)
    scored = one_reward_model(results(3, 2, 3, 2), scorer)
    assert [g.reward_model_version for g in scored] == [3, 3, 3, 3]
    assert scorer.asked == [1, 3]
    assert {e.score for e in scored[1].experiences} == {3.0}
    assert {e.reward_model_version for e in scored[1].experiences} == {3}


def test_all_are_scored_again_when_a_still_newer_version_serves():
    assert [g.reward_model_version for g in one_reward_model(results(3, 2), Scorer(4))] == [4, 4]


def test_version_that_went_back_is_followed():
    assert [g.reward_model_version for g in one_reward_model(results(3, 2), Scorer(2))] == [2, 2]


def test_switch_in_the_middle_is_noticed():
    assert [g.reward_model_version for g in one_reward_model(results(3, 2, 2), Scorer(3, 4))] == [4, 4, 4]


def test_version_that_never_settles_is_an_error():
    with pytest.raises(FailedPrecondition, match="changed over and over"):
        one_reward_model(results(1, 2), Scorer(*range(3, 300)))


# -- prompts --------------------------------------------------------------------------------------------------------


def test_prompts_of_the_config_are_numbered():
    source = PromptSource.model_validate({"items": ["a", [{"role": "user", "content": "b"}]]})
    assert read_prompts(source) == [PromptRecord("0", "a"), PromptRecord("1", (("user", "b"),))]


def test_prompt_files_become_records(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(
        '{"prompt": "a", "prompt_id": "x"}\n{"prompt": [{"role": "user", "content": "b"}], "prompt_id": "y"}\n'
    )
    records = read_prompts(PromptSource(path=str(path)))
    assert records == [PromptRecord("x", "a"), PromptRecord("y", (("user", "b"),))]
    assert prompts_digest(records) != prompts_digest(records[::-1])
