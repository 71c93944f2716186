"""DPO: losses by hand, against autograd and against TRL; runs from config to export, with resume."""

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from preceptor.common.errors import FailedPrecondition, InvalidInput
from preceptor.learner.data.pairs import encode_pairs
from preceptor.learner.data.preferences import CandidateText, RankedCandidates
from preceptor.learner.models.engine import Engine
from preceptor.learner.models.forward import LogprobModel
from preceptor.learner.models.loading import load_causal_lm_dir
from preceptor.learner.rl.dpo import PairLogprobs, dpo_loss, ipo_loss, log_ratios, robust_dpo_loss
from preceptor.learner.run_configs import DpoConfig
from preceptor.learner.training.dpo import run_dpo
from preceptor.learner.training.dpo_task import DpoTask, PairScorer
from preceptor.learner.training.metrics_log import read_metrics

TRL = json.loads((Path(__file__).parent / "fixtures" / "trl_dpo.json").read_text())


def pair(chosen: float, rejected: float) -> PairLogprobs:
    return PairLogprobs(torch.tensor([chosen], dtype=torch.float64), torch.tensor([rejected], dtype=torch.float64))


def test_dpo_loss_by_hand():
    ratios = log_ratios(pair(-4.0, -7.0), pair(-5.0, -6.0))
    assert (float(ratios.chosen), float(ratios.rejected)) == (1.0, -1.0)
    assert float(dpo_loss(ratios, beta=0.5)) == pytest.approx(math.log(1 + math.exp(-1.0)), abs=1e-12)
    smoothed = 0.9 * math.log(1 + math.exp(-1.0)) + 0.1 * math.log(1 + math.exp(1.0))
    assert float(dpo_loss(ratios, beta=0.5, label_smoothing=0.1)) == pytest.approx(smoothed, abs=1e-12)


def test_robust_loss_is_unbiased_under_flips():
    """The mean over flips with probability e of the robust loss is the loss of the true label."""
    true, flipped, e = pair(1.0, -1.0), pair(-1.0, 1.0), 0.2
    mean = (1 - e) * robust_dpo_loss(true, beta=0.5, label_smoothing=e)
    mean = mean + e * robust_dpo_loss(flipped, beta=0.5, label_smoothing=e)
    assert float(mean) == pytest.approx(float(dpo_loss(true, beta=0.5)), abs=1e-12)


def test_ipo_loss_by_hand():
    ratios, four, two = pair(2.0, -1.0), torch.tensor([4.0]), torch.tensor([2.0])
    assert float(ipo_loss(ratios, four, two, beta=0.25)) == pytest.approx((0.5 + 0.5 - 2.0) ** 2, abs=1e-12)


def test_gradient_is_the_weighted_difference_of_the_papers():
    """Rafailov et al. 2023, section 4: -beta sigmoid(reward_l - reward_w) on the chosen side, plus on the rejected."""
    torch.manual_seed(0)
    chosen, rejected = (torch.randn(5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    reference = PairLogprobs(torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64))
    ratios = log_ratios(PairLogprobs(chosen, rejected), reference)
    dpo_loss(ratios, beta=0.3).sum().backward()
    weight = torch.sigmoid(0.3 * (ratios.rejected - ratios.chosen)).detach()
    torch.testing.assert_close(chosen.grad, -0.3 * weight, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(rejected.grad, 0.3 * weight, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("case", TRL["cases"], ids=lambda case: f"{case['loss']}-{case['beta']}")
def test_losses_equal_trl_on_the_same_tensors(case):
    policy, reference = (torch.tensor(TRL[name]).sum(1) for name in ("policy", "reference"))
    ratios = log_ratios(PairLogprobs(*policy.chunk(2)), PairLogprobs(*reference.chunk(2)))
    tokens = torch.tensor(TRL["tokens"], dtype=torch.float32).chunk(2)
    losses = {
        "sigmoid": lambda: dpo_loss(ratios, beta=case["beta"]),
        "robust": lambda: robust_dpo_loss(ratios, beta=case["beta"], label_smoothing=case["label_smoothing"]),
        "ipo": lambda: ipo_loss(ratios, *tokens, beta=case["beta"]),
    }
    assert float(losses[case["loss"]]().mean()) == pytest.approx(case["value"], abs=1e-6)


# -- data --


def comparison(prompt, texts, *rankings, finished=True) -> RankedCandidates:
    return RankedCandidates(prompt, tuple(CandidateText(text, finished) for text in texts), rankings, "f.jsonl", 3)


def test_every_untied_pair_of_a_ranking_is_an_example(tokenizer):
    pairs, odd = encode_pairs([comparison("q", "abc", ((0,), (1, 2)))], tokenizer, max_length=8)
    assert odd == []
    texts = [(tokenizer.decode(p.chosen.token_ids), tokenizer.decode(p.rejected.token_ids)) for p in pairs]
    assert texts == [("qa<eos>", "qb<eos>"), ("qa<eos>", "qc<eos>")]
    assert all(row.target_spans == ((1, 3),) for p in pairs for row in (p.chosen, p.rejected))


def test_long_prompts_lose_their_start_and_long_completions_are_left_out(tokenizer):
    pairs, odd = encode_pairs([comparison("abcdef", ("x", "yy"), ((0,), (1,)))], tokenizer, max_length=5)
    assert tokenizer.decode(pairs[0].chosen.token_ids) == "defx<eos>"
    assert tokenizer.decode(pairs[0].rejected.token_ids) == "efyy<eos>"
    pairs, odd = encode_pairs([comparison("a", ("x", "yyyyy"), ((0,), (1,)))], tokenizer, max_length=5)
    assert (pairs, [(row.file, row.line, row.used) for row in odd]) == ([], [("f.jsonl", 3, False)])


def test_cut_completions_have_no_eos_and_conversations_follow_the_template(tokenizer, chat_tokenizer):
    turns = ({"role": "user", "content": "hi"},)
    cut, _ = encode_pairs([comparison("q", "ab", ((0,), (1,)), finished=False)], tokenizer, max_length=32)
    assert tokenizer.decode(cut[0].chosen.token_ids) == "qa"
    chat, _ = encode_pairs([comparison(turns, "ab", ((1,), (0,)))], chat_tokenizer, max_length=64)
    assert chat_tokenizer.decode(chat[0].chosen.token_ids) == "<user>hi<eos><assistant>b<eos>"
    plain, _ = encode_pairs([comparison(turns, "ab", ((0,), (1,)))], tokenizer, max_length=64)
    assert tokenizer.decode(plain[0].chosen.token_ids).endswith("Human: hi\n\nAssistant: a<eos>")


# -- the task and runs --


def config_of(folder: Path, model_dir: Path, **changes) -> DpoConfig:
    rows = [{"prompt": f"{n}:", "chosen": "zz" + "z" * (n % 3), "rejected": "yy"} for n in range(24)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "kind": "dpo",
        "run_id": "zees",
        "model": {"path": str(model_dir)},
        "data": [{"path": str(folder / "pairs.jsonl"), "format": "preferences"}],
        "eval_fraction": 0.2,
        "eval_every_steps": 4,
        "epochs": 4,
        "batch_size": 8,
        "log_every_steps": 1,
        "checkpoint": {"every_steps": 3},
        "optimizer": {"learning_rate": 1e-3},
    }
    return DpoConfig.model_validate({**values, **changes})


@pytest.mark.parametrize(("loss", "smoothing"), [("sigmoid", 0.1), ("robust", 0.1), ("ipo", 0.0)])
def test_micro_batches_add_up_to_the_textbook_gradient(tmp_path, model_dir, tokenizer, loss, smoothing):
    config = config_of(tmp_path, model_dir, loss=loss, label_smoothing=smoothing, beta=0.3, micro_batch_tokens=64)
    texts = [("zz", "y"), ("z", "yyyyy"), ("zzz", "x"), ("a" * 20, "b")]
    rankings = [comparison(f"p{n}", pair, ((0,), (1,))) for n, pair in enumerate(texts)]
    pairs, _ = encode_pairs(rankings, tokenizer, max_length=40)
    model = load_causal_lm_dir(model_dir)
    references = torch.randn(4, 2)
    module, engine = LogprobModel(model), Engine()
    task = DpoTask(module, pairs, [], (references, torch.zeros(0, 2)), config, engine, pad_id=0)
    assert len(PairScorer(module, engine, micro_batch_tokens=64, pad_id=0).parts(pairs)) > 1
    metrics = task.accumulate([0, 1, 2, 3])
    ours = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    total = torch.zeros(())
    for place, one in enumerate(pairs):
        sums, counts = [], []
        for row in (one.chosen, one.rejected):
            ids = torch.tensor([row.token_ids])
            (begin, end) = row.target_spans[0]
            logp = torch.log_softmax(model(ids).logits[0].float(), -1)
            sums.append(sum(logp[i - 1, ids[0, i]] for i in range(begin, end)))
            counts.append(end - begin)
        chosen, rejected = sums[0] - references[place, 0], sums[1] - references[place, 1]
        h = 0.3 * (chosen - rejected)
        terms = {
            "sigmoid": -0.9 * torch.sigmoid(h).log() - 0.1 * torch.sigmoid(-h).log(),
            "robust": (-0.9 * torch.sigmoid(h).log() + 0.1 * torch.sigmoid(-h).log()) / 0.8,
            "ipo": (chosen / counts[0] - rejected / counts[1] - 1 / 0.6) ** 2,
        }
        total = total + terms[loss] / 4
    total.backward()
    assert metrics["loss"] == pytest.approx(total.item(), rel=1e-4)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, atol=2e-5, rtol=1e-3)


def test_run_learns_the_preferences_and_exports(tmp_path, model_dir):
    config = config_of(tmp_path, model_dir)
    result = run_dpo(config, tmp_path / "run")
    rows = [row["metrics"] for row in read_metrics(tmp_path / "run")]
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-5), "at the start policy and reference agree"
    assert rows[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-5)
    assert rows[-1]["loss"] < 0.6
    assert rows[-1]["eval/rewards/accuracies"] == 1.0
    assert result.metrics["data/pairs"] > 8
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "run" / result.model_dir).num_parameters() > 0


def test_reference_is_another_model_where_one_is_named(tmp_path, model_dir):
    other = load_causal_lm_dir(model_dir)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    other.save_pretrained(tmp_path / "other")
    result = run_dpo(config_of(tmp_path, model_dir, reference=str(tmp_path / "other"), epochs=1), tmp_path / "run")
    rows = [row["metrics"] for row in read_metrics(tmp_path / "run")]
    assert result.steps == len(rows)
    assert rows[0]["loss"] != pytest.approx(math.log(2), abs=1e-3)


def test_stopped_run_goes_on_with_the_same_metrics(tmp_path, model_dir):
    config = config_of(tmp_path, model_dir)
    run_dpo(config, tmp_path / "whole")
    assert run_dpo(config, tmp_path / "cut", lambda progress: progress.step != 5).stopped
    run_dpo(config, tmp_path / "cut")
    whole, cut = (
        [{name: value for name, value in row["metrics"].items() if "time" not in name and "per_second" not in name}
         for row in read_metrics(tmp_path / name)]
        for name in ("whole", "cut")
    )  # fmt: skip
    assert cut == whole
    with pytest.raises(FailedPrecondition, match="another config"):
        run_dpo(config.model_copy(update={"beta": 0.2}), tmp_path / "cut")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "ipo", "label_smoothing": 0.1}, "label_smoothing has no meaning for loss ipo"),
        ({"loss": "robust"}, "loss robust needs label_smoothing"),
        ({"max_length": 3}, "no pair is left to train on"),
        ({"reference": "/nowhere"}, "reference: /nowhere is not a directory"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path, model_dir, changes, message):
    with pytest.raises((InvalidInput, ValueError), match=message):
        run_dpo(config_of(tmp_path, model_dir, **changes), tmp_path / "run")
