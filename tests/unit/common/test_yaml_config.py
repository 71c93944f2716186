"""Run configs: what is wrong is named with file, line, field and what is allowed."""

import contextlib
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from preceptor.common.errors import InvalidInput, NotFound, PreceptorError
from preceptor.common.yaml_config import load_yaml, parse_yaml


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Optimizer(Strict):
    learning_rate: float = Field(1e-5, gt=0)
    warmup_steps: int = Field(0, ge=0)


class Estimator(Enum):
    K1 = "k1"
    K3 = "k3"


class FileData(Strict):
    kind: Literal["file"]
    path: str


class HubData(Strict):
    kind: Literal["hub"]
    name: str


class Config(Strict):
    run_id: str
    algorithm: Literal["ppo", "grpo", "rloo"] = "ppo"
    kl: Estimator = Estimator.K1
    optimizer: Optimizer = Optimizer()
    critic: Optimizer | None = None
    stages: list[Optimizer] = []
    rewards: dict[str, Optimizer] = {}
    data: Annotated[FileData | HubData, Field(discriminator="kind")] | None = None

    @field_validator("run_id")
    @classmethod
    def _short(cls, value: str) -> str:
        if len(value) > 8:
            raise ValueError("at most 8 characters are allowed")
        return value

    @model_validator(mode="after")
    def _no_critic(self) -> "Config":
        if self.critic is not None and self.algorithm != "ppo":
            raise ValueError("only ppo has a critic")
        return self


def complaint(text: str) -> str:
    with pytest.raises(InvalidInput) as caught:
        parse_yaml(text, Config, name="run.yaml")
    return caught.value.message


def test_a_right_config_becomes_the_model() -> None:
    config = parse_yaml("run_id: a\noptimizer:\n  learning_rate: 1e-4\n", Config)
    assert config.optimizer.learning_rate == 1e-4
    assert config.kl is Estimator.K1


def test_anchors_and_merges_work() -> None:
    text = "run_id: a\noptimizer: &o {warmup_steps: 3}\ncritic:\n  <<: *o\n  learning_rate: 0.1\n"
    assert parse_yaml(text, Config).critic == Optimizer(learning_rate=0.1, warmup_steps=3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "run_id: a\noptimizer:\n  warmup_steps: 1\n  learning_rte: 0.1\n",
            'run.yaml:4: optimizer.learning_rte: unknown key, did you mean "learning_rate"?; '
            "allowed: learning_rate, warmup_steps",
        ),
        (
            "run_id: a\nalgoritm: ppo\n",
            'run.yaml:2: algoritm: unknown key, did you mean "algorithm"?; '
            "allowed: algorithm, critic, data, kl, optimizer, rewards, run_id, stages",
        ),
        (
            "run_id: a\nalgorithm: gpro\n",
            "run.yaml:2: algorithm: 'gpro' is not allowed, did you mean \"grpo\"?; allowed: 'ppo', 'grpo' or 'rloo'",
        ),
        ("run_id: a\nkl: k2\n", "run.yaml:2: kl: 'k2' is not allowed; allowed: 'k1' or 'k3'"),
        ("algorithm: ppo\n", "run.yaml:1: run_id: is required"),
        (
            "run_id: a\nstages:\n  - warmup_steps: 1\n  - warmup_steps: -1\n",
            "run.yaml:4: stages[1].warmup_steps: input should be greater than or equal to 0, got -1",
        ),
        (
            "run_id: a\nstages:\n  - warmup: 1\n",
            'run.yaml:3: stages[0].warmup: unknown key, did you mean "warmup_steps"?; '
            "allowed: learning_rate, warmup_steps",
        ),
        (
            "run_id: a\nrewards:\n  gold:\n    warm: 1\n",
            "run.yaml:4: rewards.gold.warm: unknown key; allowed: learning_rate, warmup_steps",
        ),
        (
            "run_id: a\ncritic:\n  x: 1\n",
            "run.yaml:3: critic.x: unknown key; allowed: learning_rate, warmup_steps",
        ),
        (
            "run_id: a\ndata:\n  kind: file\n  pth: x\n",
            "run.yaml:2: data.path: is required\n"
            'run.yaml:4: data.pth: unknown key, did you mean "path"?; allowed: kind, path',
        ),
        (
            "run_id: a\noptimizer:\n  learning_rate: fast\n",
            "run.yaml:3: optimizer.learning_rate: input should be a valid number, unable to parse string as a number, "
            "got 'fast'",
        ),
        ("run_id: far-too-long\n", "run.yaml:1: run_id: at most 8 characters are allowed, got 'far-too-long'"),
        ("run_id: a\nalgorithm: grpo\ncritic: {}\n", "run.yaml:1: config: only ppo has a critic"),
        ("run_id: a\nrun_id: b\n", 'run.yaml:2: "run_id" stands here and on line 1'),
        ("- a\n- b\n", "run.yaml:1: a mapping of settings is expected"),
        ("", "run.yaml:1: run_id: is required"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    assert complaint(text) == message


def test_every_problem_is_listed_at_once() -> None:
    lines = complaint("algorithm: x\nkl: y\nzzz: 1\n").splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["run.yaml:1", "run.yaml:1", "run.yaml:2", "run.yaml:3"]


def test_the_field_of_the_error_is_the_first_problem() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_yaml("run_id: a\noptimizer: {learning_rate: 0}\n", Config)
    assert caught.value.field == "optimizer.learning_rate"


@pytest.mark.parametrize("text", ["a: [1, 2", "a: b: c", "\t- x", "run_id: *missing", "a: !!python/object:os.system x"])
def test_broken_yaml_is_named_with_its_line(text: str) -> None:
    assert complaint(text).startswith("run.yaml:1: not valid YAML")


def test_a_missing_file_and_a_folder_are_not_found(tmp_path: Path) -> None:
    for path in (tmp_path / "no.yaml", tmp_path):
        with pytest.raises(NotFound, match="no config file"):
            load_yaml(path, Config)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInput, match="not UTF-8"):
        load_yaml(tmp_path / "x.yaml", Config)


@given(st.text(alphabet=st.sampled_from(list("ab:- \n\t[]{}&*!|>#'\",1?")), max_size=40))
def test_no_text_raises_anything_but_our_errors(text: str) -> None:
    with contextlib.suppress(PreceptorError):
        parse_yaml(text, Config)
