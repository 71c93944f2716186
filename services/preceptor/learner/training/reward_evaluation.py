"""The report of a reward model from its held-out comparisons."""

from collections.abc import Sequence
from typing import Any

from preceptor.learner.data.preferences import pairs_of
from preceptor.learner.models.engine import Engine
from preceptor.learner.models.loading import load_scalar_model
from preceptor.learner.run_configs.reward import RewardConfig
from preceptor.learner.training.reward_report import JudgedPair, report_of
from preceptor.learner.training.reward_task import EncodedComparison, RewardTask

Scores = Sequence[Sequence[float]]


def held_out_report(
    config: RewardConfig, task: RewardTask, held_out: list[EncodedComparison], engine: Engine
) -> dict[str, Any]:
    """Returns what reward_report.report_of measures, and `previous` {accuracy, agreement} where config names one."""
    scores = task.score(held_out)
    pairs = judged_pairs(held_out, scores)
    lengths = [
        (len(candidate.text), score)
        for encoded, values in zip(held_out, scores, strict=True)
        for candidate, score in zip(encoded.comparison.candidates, values, strict=True)
    ]
    report = report_of(pairs, lengths)
    if config.previous is not None:
        report["previous"] = _compared(config, held_out, pairs, engine)
    return report


def judged_pairs(comparisons: Sequence[EncodedComparison], scores: Scores) -> list[JudgedPair]:
    """Returns the untied pairs of every ranking, with the model's margin."""
    found = []
    for encoded, values in zip(comparisons, scores, strict=True):
        one = encoded.comparison
        for ranking, rater, strength in zip(one.rankings, one.ranking_raters, one.ranking_strengths, strict=True):
            for pair in pairs_of(ranking):
                if pair.target == 0.5:
                    continue
                chosen, rejected = one.candidates[pair.first], one.candidates[pair.second]
                margin = values[pair.first] - values[pair.second]
                lengths = len(chosen.text), len(rejected.text)
                found.append(JudgedPair(rater, strength, *lengths, chosen.policy_version, margin))
    return found


def _compared(
    config: RewardConfig, held_out: list[EncodedComparison], pairs: Sequence[JudgedPair], engine: Engine
) -> dict[str, Any]:
    """Returns the accuracy of the previous model on the same pairs, and the share of them that both order alike.

    Both must share a tokenizer, as the versions of a loop do: the token ids are the new model's.
    """
    assert config.previous is not None
    model = load_scalar_model(config.previous, field="previous")
    before = RewardTask(model, held_out, held_out, config, engine, pad_id=0, trained=False)
    judged = judged_pairs(held_out, before.score(held_out))
    alike = sum((one.margin > 0) == (other.margin > 0) for one, other in zip(pairs, judged, strict=True))
    return {
        "accuracy": report_of(judged, ())["accuracy"],
        "agreement": alike / len(pairs) if pairs else None,
    }
