"""The environment that the embedded system hands out is what each service's settings class takes."""

import importlib
import os
from unittest import mock

import pytest

from preceptor.cli.stack.layout import Layout, StackOptions
from preceptor.cli.stack.programs import ProgramFactory

SETTINGS = {
    "generation-0": "preceptor.generation.config:GenerationSettings",
    "generation-1": "preceptor.generation.config:GenerationSettings",
    "rollout-0": "preceptor.rollout.config:RolloutSettings",
    "reward": "preceptor.reward.config:RewardSettings",
    "feedback": "preceptor.feedback.config:FeedbackSettings",
    "feedback-worker": "preceptor.feedback.config:FeedbackWorkerSettings",
    "conductor": "preceptor.conductor.config:ConductorSettings",
    "console": "preceptor.console.config:ConsoleSettings",
    "learner": "preceptor.learner.config:LearnerSettings",
}


def environments(tmp_path):
    layout = Layout(tmp_path, StackOptions(scale={"generation": 2, "rollout": 1}))
    factory = ProgramFactory(layout, cores=[0, 1, 2, 3])
    found = {program.name: dict(program.env) for program in factory.all() if program.name != "redis"}
    return found | {"learner": factory.learner_env(all_cores=False)}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_class_takes_every_variable(name, tmp_path):
    module, _, attribute = SETTINGS[name].partition(":")
    settings_class = getattr(importlib.import_module(module), attribute)
    env = environments(tmp_path)[name]
    prefix = settings_class.model_config["env_prefix"]
    given = {key for key in env if key.startswith("PRECEPTOR_")}
    known = {settings_class.variable(field) for field in settings_class.model_fields}
    assert given <= known, f"{name} is told what it does not know"
    assert all(key.startswith(prefix) for key in given)
    with mock.patch.dict(os.environ, env, clear=True):
        settings = settings_class()
    assert settings.instance == name


def test_every_program_is_checked(tmp_path):
    assert set(environments(tmp_path)) == set(SETTINGS)


def test_no_two_programs_share_a_port(tmp_path):
    ports = [
        value
        for name, env in environments(tmp_path).items()
        for key, value in env.items()
        if key.endswith("_PORT") and not key.startswith("PRECEPTOR_CONDUCTOR_LEARNER")
    ]
    assert len(ports) == len(set(ports))
