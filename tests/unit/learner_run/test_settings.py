"""Settings that change while a run goes on: which, to what, and what a restart makes of them."""

import json

import pytest

from preceptor.common.errors import DeadlineExceeded, FailedPrecondition, InvalidInput
from preceptor.learner.monitor import RunControl
from preceptor.learner.run_configs import SftConfig
from preceptor.learner.run_configs.changes import changeable, changed
from preceptor.learner.run_configs.rl import RlConfig
from preceptor.learner.settings import LiveSettings

RL = {"kind": "rl", "run_id": "r", "model": "m", "prompts": {"items": ["x"]}, "total_steps": 5}
SFT = {"kind": "sft", "run_id": "s", "model": {"path": "m"}, "data": ["d.jsonl"]}


@pytest.fixture
def config() -> RlConfig:
    return RlConfig.model_validate({**RL, "ppo": {"optimizer": {"learning_rate": 1e-4}}})


def test_changeable_keys_are_those_of_the_config(config):
    found = changeable(config)
    assert found["ppo.optimizer.learning_rate"] == 1e-4
    assert {"max_staleness", "ppo.kl.coef", "ppo.kl.target", "ppo.clip", "ppo.value_clip"} <= set(found)
    assert not any(key.endswith(("batch_size", "model", "seed")) for key in found)
    assert set(changeable(SftConfig.model_validate(SFT))) == {"optimizer.learning_rate"}


def test_values_are_read_as_yaml_and_the_rest_stays(config):
    new = changed(config, {"ppo.optimizer.learning_rate": "1e-5", "max_staleness": "2", "ppo.target_kl": "null"})
    assert (new.ppo.optimizer.learning_rate, new.max_staleness, new.ppo.target_kl) == (1e-5, 2, None)
    assert new.ppo.critic_optimizer == config.ppo.critic_optimizer
    assert config.max_staleness == 1


def test_other_keys_are_refused_with_the_list(config):
    with pytest.raises(InvalidInput, match=r"batch_size cannot be changed .* these can: .*ppo\.clip"):
        changed(config, {"ppo.clip": "0.1", "batch_size": "4"})


@pytest.mark.parametrize(
    ("key", "value"), [("max_staleness", "-1"), ("ppo.clip", "big"), ("ppo.kl.coef", "[1]"), ("ppo.clip", "{")]
)
def test_values_out_of_bounds_name_their_key(config, key, value):
    with pytest.raises(InvalidInput, match=key):
        changed(config, {key: value})


def test_changes_survive_a_restart_unless_the_file_was_changed_since(config):
    live = LiveSettings(config)
    live.apply({"ppo.kl.coef": "0.2"})
    live.apply({"max_staleness": "3"})
    snapshot = json.loads(json.dumps(live.snapshot()))
    again = LiveSettings(config)
    assert again.restore(snapshot) == {"ppo.kl.coef": 0.2, "max_staleness": 3}
    assert again.texts()["ppo.kl.coef"] == "0.2"
    edited = LiveSettings(RlConfig.model_validate({**RL, "max_staleness": 5, "ppo": config.ppo.model_dump()}))
    assert edited.restore(snapshot) == {"ppo.kl.coef": 0.2}
    assert edited.config.max_staleness == 5


def test_a_refused_change_changes_nothing(config):
    live = LiveSettings(config)
    with pytest.raises(InvalidInput):
        live.apply({"ppo.kl.coef": "0.2", "seed": "3"})
    assert (live.config, live.snapshot()) == (config, {})


def test_a_request_ends_with_the_run_or_its_deadline():
    control = RunControl()
    with pytest.raises(DeadlineExceeded, match="not applied within"):
        control.change({"ppo.clip": "0.1"}, 0.01)
    (request,) = control.settings_requests()
    request.done(4, {"ppo.clip": "0.1"})
    assert request.wait(1) == (4, {"ppo.clip": "0.1"})
    control.ended()
    with pytest.raises(FailedPrecondition, match="the run has ended"):
        control.change({}, 5)
