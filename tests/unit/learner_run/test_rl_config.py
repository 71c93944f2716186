"""The rl run's config: what follows from what, and what is refused with which words."""

import pytest
from pydantic import ValidationError

from preceptor.common.errors import InvalidInput, NotFound
from preceptor.learner.run_configs import RewardConfig, SftConfig
from preceptor.learner.run_configs.rl import RlConfig
from preceptor.learner.run_file import load_run

BASE = {"kind": "rl", "run_id": "r", "model": "m", "prompts": {"items": ["x"]}, "total_steps": 5}


def make(**changes) -> RlConfig:
    return RlConfig.model_validate({**BASE, **changes})


def test_update_follows_the_run():
    config = make(batch_size=64, sampling={"temperature": 0.7}, ppo={"epochs": 2})
    assert (config.ppo.batch_size, config.ppo.temperature, config.ppo.epochs) == (64, 0.7, 2)
    assert (config.ppo.total_updates, config.ppo.critic) == (5, "policy")
    assert config.groups_per_batch == 16


def test_critic_starts_from_the_reward_model_that_is_named():
    assert make(critic_init="rm").ppo.critic == "reward_model"


@pytest.mark.parametrize("name", ["ppo", "grpo", "rloo", "reinforce_pp", "reinforce", "rft", "online_dpo"])
def test_an_algorithm_is_chosen_by_name_and_follows_the_run(name):
    config = make(algorithm=name, sampling={"temperature": 0.5, "max_tokens": 7}, **{name: {"minibatches": 2}})
    update = config.update
    assert update is getattr(config, name)
    assert (update.batch_size, update.temperature, update.max_tokens) == (128, 0.5, 7)
    assert (update.total_updates, update.minibatches) == (5, 2)
    again = RlConfig.model_validate(config.model_dump(mode="json"))
    assert again == config


def test_kl_twice_is_fine_when_it_is_meant():
    assert make(ppo={"kl": {"coef": 0.1, "loss_coef": 0.1, "both": True}}).update.kl.both


def test_reward_name_is_the_run_where_the_run_brings_its_scorer():
    assert make().reward_name == ""
    assert make(reward={"name": "gold"}).reward_name == "gold"
    assert make(reward={"function": "a.b:c"}).reward_name == "r"
    assert make(reward={"model": "rm", "name": "main"}).reward_name == "main"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 10, "group_size": 4}, "batch_size 10 is not a multiple of group_size 4"),
        ({"ppo": {"batch_size": 3}}, "ppo.batch_size 3 differs from batch_size 128"),
        ({"ppo": {"temperature": 2.0}}, "ppo.temperature 2.0 differs from sampling.temperature 1.0"),
        ({"ppo": {"critic": "reward_model"}}, "critic_init must name a reward model directory"),
        ({"critic_init": "rm", "ppo": {"critic": "policy"}}, "critic_init is set, so ppo.critic must be reward_model"),
        ({"prompts": {}}, "exactly one of `path`"),
        ({"prompts": {"path": "p", "items": ["x"]}}, "exactly one of `path`"),
        ({"reward": {"function": "f:g", "model": "m"}}, "not both"),
        ({"reward": {"function": "no_colon"}}, "must read"),
        ({"feedback": {"share": 0.5}}, "need `project`"),
        ({"feedback": {"project": "p", "share": 0.9, "control_share": 0.2}}, "exceeds 1"),
        ({"reward": {"function": "f:g"}, "critic_warmup_steps_after_switch": 3}, "has no versions"),
        ({"max_stalenes": 1}, "Extra inputs"),
        ({"grpo": {}}, "`grpo` has settings, but algorithm is ppo: remove the section, or say algorithm: grpo"),
        ({"algorithm": "grpo", "ppo": {}}, "`ppo` has settings, but algorithm is grpo"),
        ({"algorithm": "grpo", "grpo": {"lam": 0.9}}, "lam: for a critic, and this algorithm has none"),
        ({"algorithm": "rloo", "rloo": {"critic": "policy", "value_clip": 1}}, "critic, value_clip: for a critic"),
        ({"algorithm": "grpo", "critic_init": "rm"}, "critic_init is set, but grpo has no critic"),
        ({"algorithm": "grpo", "critic_warmup_steps_after_switch": 2}, "trains the critic alone, but grpo has none"),
        ({"algorithm": "grpo", "group_size": 1}, "group_size 1: grpo compares the rollouts of a group"),
        ({"algorithm": "rloo", "group_size": 1}, "group_size 1: rloo compares"),
        ({"algorithm": "reinforce", "reinforce": {"baseline": "group"}, "group_size": 1}, "group_size 1: reinforce"),
        ({"algorithm": "rft", "rft": {"top_k": 5}}, "rft.top_k 5 exceeds group_size 4"),
        ({"algorithm": "rft", "rft": {"kl": {"coef": 0.1}}}, "rft ranks by score"),
        ({"algorithm": "rft", "rft": {"correction": {"kind": "icepop"}}}, "is no policy gradient"),
        ({"algorithm": "rft", "staleness": "down_weight"}, "down_weight"),
        ({"algorithm": "online_dpo", "online_dpo": {"kl": {"loss_coef": 0.1}}}, "online_dpo has its KL in beta"),
        (
            {"algorithm": "online_dpo", "online_dpo": {"loss": "ipo", "label_smoothing": 0.1}},
            "no meaning with loss ipo",
        ),
        ({"algorithm": "online_dpo", "online_dpo": {"score_clip": 1.0}}, "can only make ties"),
        ({"algorithm": "reinforce", "reinforce": {"epochs": 2}}, "no ratio that would correct a second pass"),
        ({"algorithm": "reinforce", "reinforce": {"whiten_advantages": True, "baseline": "batch"}}, "a second time"),
        ({"algorithm": "reinforce_pp", "reinforce_pp": {"score_scale": "running"}}, "would be undone"),
        ({"ppo": {"whiten_rewards": True, "score_scale": "running"}}, "both rescale the rewards"),
        ({"ppo": {"kl": {"coef": 0.1, "loss_coef": 0.1}}}, "counts twice"),
        ({"ppo": {"kl": {"coef": 0.0, "controller": "adaptive"}}}, "start above 0"),
        ({"ppo": {"kl": {"loss_coef": 0.1, "both": True, "controller": "adaptive"}}}, "moves one coefficient"),
        ({"ppo": {"kl": {"coef": 0, "loss_coef": 1, "loss_estimator": "k1", "weighted": False}}}, "gradient of 0"),
        ({"ppo": {"correction": {"kind": "none", "cap": 3.0}}}, "correction.cap has no effect"),
        ({"ppo": {"correction": {"kind": "icepop", "level": "sequence"}}}, "correction.level has no effect"),
        ({"ppo": {"overlong": {"cache_tokens": 100}}}, "cache_tokens 100 exceeds max_tokens 64"),
        ({"ppo": {"overlong": {"filter": True}, "missing_eos_penalty": 1.0}}, "leaves out what missing_eos_penalty"),
        ({"ppo": {"max_tokens": 3}}, "ppo.max_tokens 3 differs from sampling.max_tokens 64"),
    ],
)
def test_wrong_combinations_are_refused_with_the_reason(changes, message):
    with pytest.raises(ValidationError, match=message):
        make(**changes)


def test_every_field_is_described():
    def undescribed(model, path=""):
        for name, info in model.model_fields.items():
            annotation = info.annotation
            if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
                yield from undescribed(annotation, f"{path}{name}.")
            elif not info.description and name not in ("kl", "correction"):
                yield path + name

    missing = set(undescribed(RlConfig)) - {"checkpoint.every_steps"}
    assert not missing


# -- run files ------------------------------------------------------------------------------------------------------


def write(tmp_path, text: str):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


def test_kind_decides_the_config_and_paths_are_relative_to_the_file(tmp_path):
    sft = "kind: sft\nrun_id: a\nmodel: {path: base}\ndata: [d.jsonl]\n"
    config = load_run(write(tmp_path, sft))
    assert isinstance(config, SftConfig)
    assert config.data == (str(tmp_path / "d.jsonl"),)
    reward = "kind: reward\nrun_id: a\nmodel: {path: base}\ndata: [{path: d.jsonl, format: hh}]\n"
    assert isinstance(load_run(write(tmp_path, reward)), RewardConfig)
    rl = (
        "kind: rl\nrun_id: a\nmodel: ../sft/model\ntotal_steps: 1\nprompts: {path: p.txt}\n"
        "reward: {function: 'rewards/mine.py:score'}\n"
    )
    config = load_run(write(tmp_path, rl))
    assert config.model == str(tmp_path / "../sft/model")
    assert config.prompts.path == str(tmp_path / "p.txt")
    assert config.reward.function == f"{tmp_path}/rewards/mine.py:score"


def test_reward_function_of_a_package_stays_as_it_is(tmp_path):
    rl = "kind: rl\nrun_id: a\nmodel: m\ntotal_steps: 1\nprompts: {items: [x]}\nreward: {function: 'pack.mod:score'}\n"
    assert load_run(write(tmp_path, rl)).reward.function == "pack.mod:score"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run_id: a\n", "kind: is required"),
        ("kind: ppo\n", "'ppo' is not allowed"),
        (
            "kind: rl\nrun_id: a\nmodel: m\ntotal_steps: 1\nprompts: {items: [x]}\nbatchsize: 3\n",
            r"run.yaml:6: batchsize",
        ),
        ("kind: rl\nrun_id: A\nmodel: m\ntotal_steps: 1\nprompts: {items: [x]}\n", r"run.yaml:2: run_id"),
    ],
)
def test_wrong_files_name_line_and_field(tmp_path, text, message):
    with pytest.raises(InvalidInput, match=message):
        load_run(write(tmp_path, text))


def test_missing_file_is_not_found(tmp_path):
    with pytest.raises(NotFound, match="no config file"):
        load_run(tmp_path / "none.yaml")
