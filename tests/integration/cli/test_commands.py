"""The `preceptor` command in processes of its own: what a user sees when something is wrong."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.models import build_policy, build_reward_model

REPOSITORY = Path(__file__).parents[3]
EXAMPLES = REPOSITORY / "deploy" / "examples" / "chat-0.5b"


def preceptor(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY / "services"), "COLUMNS": "200"}
    command = [sys.executable, "-m", "preceptor.cli", *args]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return build_policy(folder / "policy"), build_reward_model(folder / "reward")


@pytest.fixture
def example(tmp_path, models):
    """The shipped example in a folder as deep as the repository's, beside small files in place of the real ones."""
    policy, reward = models
    folder = tmp_path / "deploy" / "examples" / "chat-0.5b"
    shutil.copytree(EXAMPLES, folder)
    artifacts = tmp_path / "runs" / "local" / "artifacts"
    shutil.copytree(policy, folder / "models" / "base")
    shutil.copytree(policy, artifacts / "runs" / "chat-sft" / "model")
    shutil.copytree(reward, artifacts / "reward-models" / "000001")
    (folder / "data" / "hh-rlhf").mkdir(parents=True)
    chat = [{"role": "user", "content": "thank you"}, {"role": "assistant", "content": "a short and clear answer"}]
    (folder / "data" / "sft.jsonl").write_text((json.dumps({"messages": chat}) + "\n") * 4)
    pair = {"chosen": "\n\nHuman: hi\n\nAssistant: good", "rejected": "\n\nHuman: hi\n\nAssistant: bad"}
    (folder / "data" / "hh-rlhf" / "train.jsonl").write_text((json.dumps(pair) + "\n") * 4)
    for name in ("sft", "reward", "rl"):
        shorten(folder / f"{name}.yaml")
    return folder


def shorten(path: Path) -> None:
    """The stand-in models have a context of 512 tokens; nothing else of the shipped config changes."""
    config = yaml.safe_load(path.read_text())
    if "max_length" in config:
        config["max_length"] = 256
    path.write_text(yaml.safe_dump(config))


@pytest.mark.parametrize("kind", ["sft", "reward", "rl"])
def test_the_shipped_example_passes_a_dry_run(example, kind):
    done = preceptor("train", kind, f"{kind}.yaml", "--dry-run", "--json", cwd=example)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["kind"] == kind
    assert plan["steps"] >= 1
    assert plan["memory_bytes"] > 0


def test_an_unknown_key_is_named_with_its_line(example):
    path = example / "sft.yaml"
    path.write_text(path.read_text() + "learning_rat: 0.1\n")
    done = preceptor("train", "sft", "sft.yaml", "--dry-run", cwd=example)
    assert done.returncode == 2
    line = len(path.read_text().splitlines())
    assert f"sft.yaml:{line}" in done.stderr
    assert "learning_rat" in done.stderr


def test_a_broken_row_is_named_with_file_and_line(example):
    with (example / "data" / "sft.jsonl").open("a") as file:
        file.write("{broken\n")
    done = preceptor("train", "sft", "sft.yaml", "--dry-run", cwd=example)
    assert done.returncode == 2
    assert "sft.jsonl:5" in done.stderr


def test_a_missing_model_directory_is_named(example):
    shutil.rmtree(example / "models" / "base")
    done = preceptor("train", "sft", "sft.yaml", "--dry-run", cwd=example)
    assert done.returncode == 2
    assert str(example / "models" / "base") in done.stderr


def test_the_kind_must_match_the_command(example):
    done = preceptor("train", "rl", "sft.yaml", cwd=example)
    assert done.returncode == 2
    assert "needs kind: rl" in done.stderr


def test_a_missing_config_is_named(tmp_path):
    done = preceptor("train", "sft", "nowhere.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "nowhere.yaml" in done.stderr


def test_a_port_in_use_is_named_before_anything_starts(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = preceptor("up", "--home", "home", "--console-port", port, "--port-base", "21000", cwd=tmp_path)
    assert done.returncode == 1
    assert f"port in use on 127.0.0.1: {port} for console" in done.stderr
    assert not (tmp_path / "home" / "supervisor").exists()


def test_a_wrong_scale_is_a_usage_error(tmp_path):
    done = preceptor("up", "--home", "home", "--scale", "learner=2", cwd=tmp_path)
    assert done.returncode == 2
    assert "generation, rollout" in done.stderr


def test_a_call_without_a_system_says_what_to_do(tmp_path):
    done = preceptor("generate", "hello", "--address", "127.0.0.1:9", "--timeout", "3", cwd=tmp_path)
    assert done.returncode == 1
    assert "preceptor up" in done.stderr


def test_every_command_has_help(tmp_path):
    done = preceptor("--help", cwd=tmp_path)
    assert done.returncode == 0
    names = [line.split()[0] for line in done.stdout.partition("Commands:")[2].splitlines() if line.strip()]
    assert {"up", "down", "status", "demo", "train", "loop", "feedback", "generate", "score", "models"} <= set(names)
    for name in names:
        assert preceptor(name, "--help", cwd=tmp_path).returncode == 0


def test_the_system_comes_up_and_goes_down(tmp_path):
    args = ("--home", "home", "--port-base", "21000", "--console-port", "29080")
    started = preceptor("up", *args, "--json", cwd=tmp_path)
    assert started.returncode == 0, started.stderr
    try:
        addresses = json.loads(started.stdout)["addresses"]
        listed = preceptor("status", "--home", "home", "--json", cwd=tmp_path)
        rows = {row["name"]: row for row in json.loads(listed.stdout)["processes"]}
        assert rows["feedback"]["ready"]
        assert rows["console"]["ready"]
        stats = preceptor("models", "list", "--home", "home", "--json", cwd=tmp_path)
        assert json.loads(stats.stdout) == []
        assert addresses["console"] == "http://127.0.0.1:29080"
        again = preceptor("up", *args, cwd=tmp_path)
        assert again.returncode == 1
        assert "already running" in again.stderr
    finally:
        stopped = preceptor("down", "--home", "home", cwd=tmp_path)
    assert stopped.returncode == 0
    assert preceptor("status", "--home", "home", cwd=tmp_path).returncode == 1
