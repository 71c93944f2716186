"""sft and reward runs from config to export, with resume after SIGKILL."""

import json
import math
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from preceptor.common.errors import FailedPrecondition, InvalidInput
from preceptor.common.reward_text import encode_reward_input
from preceptor.learner.data.preferences import CandidateText, RankedCandidates
from preceptor.learner.models.loading import load_scalar_model
from preceptor.learner.run_configs import ModelSource, RewardConfig, SftConfig
from preceptor.learner.run_configs.reward import StrengthMargins
from preceptor.learner.training.metrics_log import read_metrics
from preceptor.learner.training.reward import run_reward, split_by_prompt
from preceptor.learner.training.reward_report import doubling_gain
from preceptor.learner.training.sft import run_sft
from preceptor.learner.types import Progress


@pytest.fixture
def sft_config(tmp_path: Path, model_dir: Path) -> SftConfig:
    rows = [{"prompt": f"{a}+{b}=", "completion": str(a + b)} for a in range(8) for b in range(8)]
    (tmp_path / "sft.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SftConfig.model_validate(
        {
            "kind": "sft",
            "run_id": "sums",
            "model": {"path": str(model_dir)},
            "data": [str(tmp_path / "sft.jsonl")],
            "eval_fraction": 0.1,
            "eval_every_steps": 10,
            "max_length": 16,
            "epochs": 5,
            "batch_size": 8,
            "log_every_steps": 1,
            "checkpoint": {"every_steps": 7},
            "optimizer": {"learning_rate": 3e-3, "schedule": "cosine", "warmup_steps": 3},
        }
    )


def write_rankings(path: Path, comparisons: int = 40, raters: int = 1) -> Path:
    """Three candidates each; more of the letter z is better; the last comparison in five has a tie."""
    draws = random.Random(0)
    with path.open("w") as stream:
        for n in range(comparisons):
            counts = draws.sample(range(5), 3)
            if n % 5 == 0:
                counts[1] = counts[0]
            by_count = sorted(set(counts), reverse=True)
            groups = [{"candidateIds": [f"c{i}" for i in range(3) if counts[i] == c]} for c in by_count]
            candidates = [
                {"candidateId": f"c{i}", "text": "z" * c + "y" * (5 - c), "policyVersion": i}
                for i, c in enumerate(counts)
            ]
            strength = f"PREFERENCE_STRENGTH_{'STRONG' if by_count[0] - by_count[-1] > 2 else 'SLIGHT'}"
            for rater in range(raters):
                comparison = {"comparisonId": f"x{n}", "prompt": {"text": f"p{n % 20}:"}, "candidates": candidates}
                body = {"tieGroups": groups, "strength": strength}
                row = {"ranking": {"body": body, "raterId": f"r{rater}"}, "comparison": comparison}
                stream.write(json.dumps(row) + "\n")
    return path


@pytest.fixture
def reward_config(tmp_path: Path, model_dir: Path) -> RewardConfig:
    return RewardConfig.model_validate(
        {
            "kind": "reward",
            "run_id": "zees",
            "reward_model_version": 3,
            "model": {"path": str(model_dir)},
            "data": [{"path": str(write_rankings(tmp_path / "rankings.jsonl", raters=2)), "format": "rankings"}],
            "labels": {"project_id": "demo", "label_high_water_mark": 80, "label_hash": "abc"},
            "eval_fraction": 0.25,
            "epochs": 6,
            "batch_size": 8,
            "log_every_steps": 1,
            "checkpoint": {"every_steps": 5},
            "optimizer": {"learning_rate": 3e-3},
        }
    )


def test_sft_learns_reports_and_exports(sft_config: SftConfig, tmp_path: Path):
    seen: list[Progress] = []
    result = run_sft(sft_config, tmp_path / "run", seen.append)
    assert result.steps == math.ceil(58 / 8) * 5
    losses = [row["metrics"]["loss"] for row in read_metrics(tmp_path / "run")]
    assert losses[-1] < losses[0] / 2
    assert [p.step for p in seen if p.phase == "train"] == list(range(1, result.steps + 1))
    assert result.metrics["eval/loss"] == pytest.approx(evaluate_by_hand(sft_config, tmp_path), abs=1e-4)
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def evaluate_by_hand(config: SftConfig, tmp_path: Path) -> float:
    """The mean negative log-likelihood of the rows that the run held out, by transformers alone."""
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    rows = [json.loads(line) for line in Path(config.data[0]).read_text().splitlines()]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(config.seed)).tolist()
    total, count = 0.0, 0
    for i in order[: int(len(rows) * config.eval_fraction)]:
        prompt = tokenizer.encode(rows[i]["prompt"])
        ids = [*prompt, *tokenizer.encode(rows[i]["completion"]), tokenizer.eos_token_id]
        with torch.no_grad():
            log_p = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].double(), dim=-1)
        total -= sum(float(log_p[t - 1, ids[t]]) for t in range(len(prompt), len(ids)))
        count += len(ids) - len(prompt)
    return total / count


@pytest.mark.parametrize("budget", [64, 100_000], ids=["accumulated", "whole"])
def test_the_step_does_not_depend_on_the_micro_batch(sft_config: SftConfig, tmp_path: Path, budget: int):
    config = sft_config.model_copy(update={"micro_batch_tokens": budget, "epochs": 1})
    run_sft(config, tmp_path / "run")
    final = read_metrics(tmp_path / "run")[-1]["metrics"]
    run_sft(config.model_copy(update={"micro_batch_tokens": 999}), tmp_path / "other")
    other = read_metrics(tmp_path / "other")[-1]["metrics"]
    assert final["loss"] == pytest.approx(other["loss"], rel=1e-3)


def test_a_callback_stops_the_run_and_the_next_start_goes_on(sft_config: SftConfig, tmp_path: Path):
    whole = run_sft(sft_config, tmp_path / "whole")
    stopped = run_sft(sft_config, tmp_path / "parts", lambda p: p.step < 9)
    assert (stopped.stopped, stopped.steps) == (True, 9)
    assert not (tmp_path / "parts" / "model").exists()
    resumed = run_sft(sft_config, tmp_path / "parts")
    assert comparable(tmp_path / "parts") == comparable(tmp_path / "whole")
    assert resumed.metrics["eval/loss"] == whole.metrics["eval/loss"]


def comparable(run_dir: Path) -> list[dict[str, Any]]:
    """The metric series without what the clock says."""
    clocked = ("time/", "tokens/per_second")
    return [
        {"step": row["step"]} | {k: v for k, v in row["metrics"].items() if not k.startswith(clocked)}
        for row in read_metrics(run_dir)
    ]


RUNNER = """
import sys, torch
from pathlib import Path
from preceptor.learner.run_configs import RewardConfig, SftConfig
from preceptor.learner.training.reward import run_reward
from preceptor.learner.training.sft import run_sft
torch.set_num_threads(1)
kind, config, run_dir = sys.argv[1:]
model, run = {"sft": (SftConfig, run_sft), "reward": (RewardConfig, run_reward)}[kind]
run(model.model_validate_json(Path(config).read_text()), Path(run_dir), lambda p: print(p.step, flush=True))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "reward"])
def test_a_run_killed_with_sigkill_reproduces_the_uninterrupted_metrics(
    kind: str, sft_config: SftConfig, reward_config: RewardConfig, tmp_path: Path
):
    config = {"sft": sft_config, "reward": reward_config}[kind]
    run: Callable[..., Any] = {"sft": run_sft, "reward": run_reward}[kind]
    run(config, tmp_path / "whole")
    (tmp_path / "config.json").write_text(config.model_dump_json())
    for kill_at in (6, 17):
        kill_when_at_step(kind, tmp_path, kill_at)
    subprocess.run(command(kind, tmp_path), check=True, capture_output=True, timeout=120)
    whole, killed = comparable(tmp_path / "whole"), comparable(tmp_path / "killed")
    assert [row["step"] for row in killed] == [row["step"] for row in whole]
    for one, other in zip(whole, killed, strict=True):
        assert one == pytest.approx(other, rel=1e-6, nan_ok=True)


def command(kind: str, tmp_path: Path) -> list[str]:
    return [sys.executable, "-c", RUNNER, kind, str(tmp_path / "config.json"), str(tmp_path / "killed")]


def kill_when_at_step(kind: str, tmp_path: Path, step: int) -> None:
    with subprocess.Popen(command(kind, tmp_path), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= step:
                os.kill(process.pid, signal.SIGKILL)
                break
        assert process.wait(60) == -signal.SIGKILL


def test_another_config_does_not_go_on_from_this_ones_checkpoint(sft_config: SftConfig, tmp_path: Path):
    run_sft(sft_config, tmp_path / "run", lambda p: p.step < 3)
    with pytest.raises(FailedPrecondition, match="another config"):
        run_sft(sft_config.model_copy(update={"seed": 5}), tmp_path / "run")


def test_a_max_length_beyond_the_context_is_refused(sft_config: SftConfig, tmp_path: Path):
    with pytest.raises(InvalidInput, match="beyond the model's context of 64"):
        run_sft(sft_config.model_copy(update={"max_length": 65}), tmp_path / "run")


def test_reward_learns_normalises_and_writes_its_card(reward_config: RewardConfig, tmp_path: Path):
    result = run_reward(reward_config, tmp_path / "run")
    card = json.loads((tmp_path / "run" / "model" / "card.json").read_text())
    assert card["heldout_accuracy"] == result.metrics["eval/accuracy"] > 0.85
    assert card["noise_ceiling"] == 1.0
    assert (card["reward_model_version"], card["rankings"], card["label_hash"]) == (3, 80, "abc")
    served = served_scores(reward_config, tmp_path / "run" / "model", card)
    assert float(served.mean()) == pytest.approx(0.0, abs=1e-4)
    assert float(served.std(correction=0)) == pytest.approx(1.0, abs=1e-4)
    assert card["reference_samples"] == len(served)


def test_the_report_says_for_whom_where_and_how_sure_the_model_is_right(reward_config: RewardConfig, tmp_path: Path):
    run_reward(reward_config, tmp_path / "first")
    config = reward_config.model_copy(
        update={
            "epochs": 2,
            "learning_curve": (0.25, 0.5),
            "previous": str(tmp_path / "first" / "model"),
            "strength_margins": StrengthMargins(strong=1.0),
        }
    )
    result = run_reward(config, tmp_path / "second")
    card = json.loads((tmp_path / "second" / "model" / "card.json").read_text())
    report = card["report"]
    assert report["accuracy"]["accuracy"] == pytest.approx(card["heldout_accuracy"])
    assert set(report["by_rater"]) == {"r0", "r1"}
    assert set(report["by_strength"]) == {"slight", "strong"}
    assert set(report["by_policy_version"]) == {"0", "1", "2"}
    assert sum(part["n"] for part in report["by_strength"].values()) == report["accuracy"]["n"]
    assert card["metrics"]["eval/ece"] == result.metrics["eval/ece"] == report["calibration"]["ece"]
    first = json.loads((tmp_path / "first" / "model" / "card.json").read_text())
    assert report["previous"]["accuracy"] == first["report"]["accuracy"]
    assert 0.5 < report["previous"]["agreement"] <= 1.0
    points = report["learning_curve"]["points"]
    whole = 2 * len(training_comparisons(config))
    assert [point["rankings"] for point in points] == [pytest.approx(whole * s, abs=2) for s in (0.25, 0.5, 1.0)]
    assert points[-1]["accuracy"] == card["heldout_accuracy"]
    assert report["learning_curve"]["doubling_gain"] == doubling_gain([(p["rankings"], p["accuracy"]) for p in points])


def served_scores(config: RewardConfig, model_dir: Path, card: dict[str, Any]) -> torch.Tensor:
    """Scores of the training comparisons' candidates, as the reward service computes them."""
    model, tokenizer = load_scalar_model(model_dir), AutoTokenizer.from_pretrained(model_dir)
    rows = [json.loads(line)["comparison"] for line in Path(config.data[0].path).read_text().splitlines()[::2]]
    ranked = [
        RankedCandidates(row["prompt"]["text"], tuple(CandidateText(c["text"]) for c in row["candidates"]), ())
        for row in rows
    ]
    scores = []
    for comparison in split_by_prompt(ranked, config.eval_fraction, config.seed)[0]:
        for one in comparison.candidates:
            ids = encode_reward_input(tokenizer, prompt=comparison.prompt, completion=one.text, finished=True)
            with torch.no_grad():
                hidden = model.base_model(input_ids=torch.tensor([ids])).last_hidden_state
                scores.append(float(model.score(hidden[0, -1])))
    return (torch.tensor(scores, dtype=torch.float64) - card["score_mean"]) / card["score_sd"]


def test_normalising_on_the_initial_policy_counts_its_candidates_only(reward_config: RewardConfig, tmp_path: Path):
    config = reward_config.model_copy(update={"normalise_on": "initial_policy", "epochs": 1})
    run_reward(config, tmp_path / "run")
    samples = json.loads((tmp_path / "run" / "model" / "card.json").read_text())["reference_samples"]
    assert samples == len(training_comparisons(config))  # one of three candidates has version 0


def training_comparisons(config: RewardConfig) -> list[RankedCandidates]:
    rows = [json.loads(line)["comparison"] for line in Path(config.data[0].path).read_text().splitlines()[::2]]
    ranked = [RankedCandidates(row["prompt"]["text"], (), ()) for row in rows]
    return split_by_prompt(ranked, config.eval_fraction, config.seed)[0]


def test_reference_samples_that_do_not_exist_are_an_error(reward_config: RewardConfig, tmp_path: Path):
    path = tmp_path / "rankings.jsonl"
    path.write_text(path.read_text().replace('"policyVersion": 0', '"policyVersion": 9'))
    config = reward_config.model_copy(update={"normalise_on": "initial_policy", "epochs": 1})
    with pytest.raises(InvalidInput, match="0 reference samples"):
        run_reward(config, tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()


def test_completions_beyond_the_context_are_left_out_and_reported(reward_config: RewardConfig, tmp_path: Path):
    path = Path(reward_config.data[0].path)
    lines = path.read_text().splitlines()
    row = json.loads(lines[0])
    row["comparison"]["comparisonId"] = "long"
    row["comparison"]["candidates"][0]["text"] = "z" * 100
    path.write_text("\n".join([*lines, json.dumps(row)]) + "\n")
    result = run_reward(reward_config.model_copy(update={"epochs": 1}), tmp_path / "run")
    report = json.loads((tmp_path / "run" / "data_report.json").read_text())
    assert [(odd["file"], odd["line"], odd["used"]) for odd in report] == [("rankings.jsonl", 81, False)]
    assert result.metrics["data/odd_rows"] == 1.0


def test_weights_that_are_not_finite_are_refused(sft_config: SftConfig, tmp_path: Path):
    model = AutoModelForCausalLM.from_pretrained(str(sft_config.model.path))
    torch.nn.init.constant_(model.get_input_embeddings().weight, torch.nan)
    model.save_pretrained(tmp_path / "nan")
    AutoTokenizer.from_pretrained(str(sft_config.model.path)).save_pretrained(tmp_path / "nan")
    config = sft_config.model_copy(update={"model": ModelSource(path=str(tmp_path / "nan"))})
    with pytest.raises(InvalidInput, match="logits that are not finite"):
        run_sft(config, tmp_path / "run")
