"""The loop's YAML: its plan, and errors that name field, line and limit."""

import re
from typing import Any

import pytest
import yaml

from preceptor.common.errors import InvalidInput
from preceptor.common.yaml_config import parse_yaml
from preceptor.conductor.loop_config import LoopConfig, plan
from preceptor.conductor.stages.rl import rl_config


def text(**changes: Any) -> str:
    config: dict[str, Any] = {
        "project": {"project_id": "p"},
        "prompts": "prompts.jsonl",
        "sft": {"run": {}},
        "labels": {"targets": [10]},
        "reward": {"run": {}},
        "rl": {"run": {}, "steps": [5]},
    }
    merged = {**config, **changes}
    return yaml.safe_dump({k: v for k, v in merged.items() if v != "absent"}, sort_keys=False)


def names(**changes: Any) -> list[str]:
    return [stage.name for stage in plan(parse_yaml(text(**changes), LoopConfig))]


def test_one_iteration() -> None:
    assert names() == ["sft", "publish", "collect-1", "labels-1", "reward-1", "promote-1", "rl-1"]


def test_a_given_model_replaces_the_sft_run() -> None:
    assert names(sft="absent", initial_model="/models/m")[0] == "publish"


def test_later_iterations_take_their_comparisons_from_live_rollouts() -> None:
    found = names(iterations=2, labels={"targets": [10, 20]}, rl={"run": {}, "steps": [5, 9]})
    assert found[-5:] == ["rl-1", "labels-2", "reward-2", "promote-2", "rl-2"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"iterations": 2}, r"labels.targets has 1 entries; it needs one per iteration: 2"),
        ({"iterations": 2, "labels": {"targets": [5, 9]}}, r"rl.steps has 1 entries"),
        ({"labels": {"targets": [0]}}, r"labels: targets count all rankings"),
        (
            {"iterations": 2, "labels": {"targets": [9, 5]}, "rl": {"run": {}, "steps": [1, 2]}},
            r"none below the one bef",
        ),
        (
            {"iterations": 2, "labels": {"targets": [5, 9]}, "rl": {"run": {}, "steps": [2, 2]}},
            r"must exceed the one bef",
        ),
        ({"initial_model": "/m"}, r"exactly one of `sft`"),
        ({"sft": "absent"}, r"exactly one of `sft`"),
        ({"colect": {}}, r'loop:\d+: colect: unknown key, did you mean "collect"\?'),
        ({"collect": {"n": 1}}, r"collect\.n: .*greater than or equal to 2"),
        ({"project": {"project_id": "Not OK"}}, r"project\.project_id"),
        ({"reward": {"run": {}, "gate": {"min_heldout_accuracy": 2}}}, r"reward\.gate\.min_heldout_accuracy"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_yaml(text(**changes), LoopConfig, name="loop")
    assert re.search(message, caught.value.message), caught.value.message


def test_the_rl_template_is_completed_and_what_it_says_stays() -> None:
    made = {"model_dir": "m", "reward_dir": "r", "prompts": "p", "total_steps": 9, "project_id": "demo"}
    assert rl_config({}, **made) == {"model": "m", "critic_init": "r", "prompts": {"path": "p"}, "total_steps": 9}
    own = rl_config({"prompts": {"items": ["a"]}, "feedback": {"share": 0.2}, "critic_init": None}, **made)
    assert own["prompts"] == {"items": ["a"]}
    assert own["critic_init"] is None
    assert own["feedback"] == {"share": 0.2, "project": "demo"}
    assert "project" not in rl_config({"feedback": {"share": 0.0}}, **made)["feedback"]
