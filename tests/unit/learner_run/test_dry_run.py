"""`--dry-run` of each kind of run, and the exit codes of the command."""

import json
from pathlib import Path

import pytest

from preceptor.common.errors import DeadlineExceeded, FailedPrecondition, InvalidInput, NotFound, Unavailable
from preceptor.learner.__main__ import exit_code, main
from preceptor.learner.run_configs.rl import SECTIONS
from tests.support.models import build_policy


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dry")
    build_policy(folder / "policy", hidden_size=32, layers=1, max_position_embeddings=64)
    (folder / "rows.jsonl").write_text('{"prompt": "the quick", "completion": " fox"}\n' * 10)
    (folder / "hh.jsonl").write_text(
        json.dumps({"chosen": "\n\nHuman: hi\n\nAssistant: hello", "rejected": "\n\nHuman: hi\n\nAssistant: no"}) + "\n"
    )
    (folder / "prompts.txt").write_text("the quick\nthank you\n")
    return folder


def dry_run(folder: Path, capsys: pytest.CaptureFixture[str], text: str) -> tuple[int, dict, str]:
    path = folder / "run.yaml"
    path.write_text(text)
    code = main([str(path), "--dry-run"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if captured.out else {}, captured.err


def test_sft(folder, capsys):
    text = "kind: sft\nrun_id: a\nmodel: {path: policy}\ndata: [rows.jsonl]\nmax_length: 32\nbatch_size: 4\nepochs: 3\n"
    code, found, _ = dry_run(folder, capsys, text)
    assert (code, found["kind"], found["data"]["rows"], found["steps"]) == (0, "sft", 10, 9)
    parameters = found["models"]["model"]["parameters"]
    assert found["memory_bytes"] == 16 * parameters > 0


def test_reward(folder, capsys):
    text = "kind: reward\nrun_id: a\nmodel: {path: policy}\ndata: [{path: hh.jsonl, format: hh}]\neval_fraction: 0\n"
    code, found, _ = dry_run(folder, capsys, text)
    assert (code, found["data"]["comparisons"], found["steps"]) == (0, 1, 1)


def test_dpo(folder, capsys):
    text = "kind: dpo\nrun_id: a\nmodel: {path: policy}\ndata: [{path: hh.jsonl, format: hh}]\neval_fraction: 0\n"
    code, found, _ = dry_run(folder, capsys, text + "reference: policy\nepochs: 2\n")
    assert (code, found["kind"], found["data"]["pairs"], found["steps"]) == (0, "dpo", 1, 2)
    assert set(found["models"]) == {"model", "reference"}


def test_memory_counts_adapters_and_frozen_parts(folder, capsys):
    text = "kind: sft\nrun_id: a\nmodel: {path: policy}\ndata: [rows.jsonl]\nmax_length: 32\nmicro_batch_tokens: 64\n"
    _, whole, _ = dry_run(folder, capsys, text)
    _, adapted, _ = dry_run(folder, capsys, text + "lora: {rank: 4, targets: [q_proj, v_proj]}\n")
    _, frozen, _ = dry_run(folder, capsys, text + "frozen: [model.]\n")
    parameters = whole["models"]["model"]["parameters"]
    adapters = adapted["models"]["model"]["adapter_parameters"]
    assert adapters == 4 * (2 * 32) + 4 * (2 * 32)
    assert adapted["memory_bytes"] == 4 * parameters + 16 * adapters
    assert frozen["memory_bytes"] < whole["memory_bytes"]


RL = "kind: rl\nrun_id: a\nmodel: policy\nprompts: {path: prompts.txt}\nbatch_size: 8\ntotal_steps: 5\n"


def test_rl(folder, capsys):
    code, found, _ = dry_run(folder, capsys, RL + "sampling: {max_tokens: 16}\nreward: {function: 'mine.py:score'}\n")
    assert (code, found["steps"], found["rollouts"], found["issued_ahead"]) == (0, 5, 40, 16)
    assert found["data"]["prompts"] == 2
    assert set(found["models"]) == {"policy", "reference", "critic"}
    assert found["epochs_of_prompts"] == 5.0
    assert found["reward"]["function"] == f"{folder}/mine.py:score"


EXAMPLES = sorted((Path(__file__).parents[3] / "deploy/examples/algorithms").glob("*.yaml"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_shipped_example_of_each_algorithm(folder, tmp_path, capsys, example):
    (tmp_path / "model").symlink_to(folder / "policy")
    (tmp_path / "prompts.txt").write_text("the quick\nthank you\n")
    text = example.read_text().replace("max_tokens: 64", "max_tokens: 32")  # the test's model is that small
    code, found, errors = dry_run(tmp_path, capsys, text)
    assert (code, errors) == (0, "")
    name = found["algorithm"]["name"]
    assert name.split("_")[0] in example.read_text()
    assert found["algorithm"]["settings"]["batch_size"] == 64
    assert ("critic" in found["models"]) == (name == "ppo")
    assert all(model["path"] and model["parameters"] for model in found["models"].values())
    assert found["optimizer_steps"] >= found["steps"] == 200


def test_every_algorithm_has_an_example():
    assert {path.stem.replace("-", "_") for path in EXAMPLES} >= set(SECTIONS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("model: policy", "model: nowhere"), "model: no Hugging Face model directory at"),
        (("prompts.txt", "none.txt"), "none.txt is not a file"),
        (("total_steps: 5", "total_steps: 5\nsampling: {max_tokens: 63}"), "exceeds the model's context of 64"),
        (("total_steps: 5", "total_steps: 5\nepochs: 2"), "run.yaml:7: epochs: unknown key"),
    ],
)
def test_what_is_wrong_is_named_and_exits_with_2(folder, capsys, change, message):
    code, found, error = dry_run(folder, capsys, RL.replace(*change))
    assert (code, found) == (2, {})
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_missing_config_exits_with_2(tmp_path, capsys):
    assert main([str(tmp_path / "none.yaml")]) == 2
    assert "no config file" in capsys.readouterr().err


def test_usage_error_exits_with_2():
    with pytest.raises(SystemExit) as ended:
        main(["--nonsense"])
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [(InvalidInput, 2), (NotFound, 2), (FailedPrecondition, 1), (Unavailable, 75), (DeadlineExceeded, 75)],
)
def test_exit_codes_tell_a_supervisor_whether_to_try_again(error, code):
    assert exit_code(error("x")) == code
