"""Reward model from rankings: config in, sequence-classification directory with card.json out.

Bradley-Terry over all K-choose-2 pairs of a ranking, with one forward pass per candidate and all pairs of a comparison
in one batch element (Ouyang et al. 2022, arXiv 2203.02155, section 3.5); ties are targets of 0.5.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from preceptor.common.errors import InvalidInput
from preceptor.learner.data.preferences import Labels, RankedCandidates, load_labels
from preceptor.learner.models.engine import Engine
from preceptor.learner.models.loading import context_length, load_tokenizer
from preceptor.learner.models.scalar import new_reward_model
from preceptor.learner.run_configs.base import ModelSource
from preceptor.learner.run_configs.reward import RewardConfig
from preceptor.learner.training.agreement import noise_ceiling
from preceptor.learner.training.checkpoints import write_json
from preceptor.learner.training.export import export, prepare
from preceptor.learner.training.loop import Schedule, TrainingLoop
from preceptor.learner.training.reward_evaluation import held_out_report
from preceptor.learner.training.reward_report import doubling_gain
from preceptor.learner.training.reward_task import EncodedComparison, RewardTask, encode_candidates
from preceptor.learner.types import Progress, ProgressCallback, RunResult


@dataclass(frozen=True, slots=True)
class Normalisation:
    """The served score is (raw - mean) / sd; samples: how many raw scores they were taken from."""

    mean: float
    sd: float
    samples: int


def run_reward(config: RewardConfig, run_dir: Path, progress: ProgressCallback | None = None) -> RunResult:
    """Trains, evaluates, normalises and exports to run_dir/model (with card.json); resumes from the last checkpoint.

    Raises:
      InvalidInput: model, tokenizer or data are not usable; the message names the field or the file and line.
      FailedPrecondition: run_dir holds a checkpoint of another config.
    """
    engine = prepare(config)
    labels = load_labels(config.data)
    path = _trunk_path(config.model)
    tokenizer = load_tokenizer(config.model.tokenizer or path)
    model = new_reward_model(path, seed=config.seed)
    train, held_out = _split(config, labels, model, tokenizer)
    task = RewardTask(model, train, held_out, config, engine, pad_id=tokenizer.pad_token_id or 0)
    loop = TrainingLoop(task, config, Schedule(config.epochs, config.batch_size, config.optimizer), run_dir, progress)
    if not loop.run():
        return RunResult("", loop.step, loop.last_metrics, stopped=True)
    if progress:
        progress(Progress("normalise", loop.step, loop.total_steps))
    normalisation = normalise(config, task, train)
    metrics = _final_metrics(loop.last_metrics, labels, normalisation)
    model.config.pad_token_id = tokenizer.pad_token_id
    report = held_out_report(config, task, held_out, engine)
    if config.learning_curve:
        curve = _learning_curve(config, run_dir, path, engine, train, held_out, metrics)
        if curve is None:
            return RunResult("", loop.step, loop.last_metrics, stopped=True)
        report["learning_curve"] = curve
    metrics["eval/ece"] = report["calibration"]["ece"] if held_out else math.nan
    card = _card(config, labels, normalisation, metrics) | {"report": report}
    if engine.ranks.leads:
        write_json(run_dir / "data_report.json", [asdict(row) for row in labels.odd_rows])
    export(model, tokenizer, run_dir / "model", engine.ranks, card=card)
    return RunResult("model", loop.step, metrics)


def normalise(config: RewardConfig, task: RewardTask, train: Sequence[EncodedComparison]) -> Normalisation:
    """Returns mean and population sd of the raw scores of the reference samples.

    Reference samples: the candidates of the training comparisons, or of those only the ones with policy_version in
    [0, initial_policy_version], so that the KL coefficient means the same for every reward model of a loop
    (Ziegler et al. 2019, appendix).

    Raises:
      InvalidInput: fewer than 2 samples, or all have the same score.
    """
    raw = [
        score
        for encoded, scores in zip(train, task.score(train), strict=True)
        for candidate, score in zip(encoded.comparison.candidates, scores, strict=True)
        if config.normalise_on == "candidates" or 0 <= candidate.policy_version <= config.initial_policy_version
    ]
    if len(raw) < 2:
        raise InvalidInput(
            f"normalise_on: {len(raw)} reference samples of policy_version 0 to {config.initial_policy_version}; "
            "at least 2 are needed (normalise_on: candidates takes all)",
            field="normalise_on",
        )
    values = torch.tensor(raw, dtype=torch.float64)
    mean, sd = float(values.mean()), float(values.std(correction=0))
    if not math.isfinite(mean) or not sd > 1e-9:
        raise InvalidInput(
            f"the reward model scores all {len(raw)} reference samples alike (sd {sd})", field="optimizer"
        )
    return Normalisation(mean, sd, len(raw))


def split_by_prompt(
    comparisons: Sequence[RankedCandidates], fraction: float, seed: int
) -> tuple[list[RankedCandidates], list[RankedCandidates]]:
    """Returns (train, held out). Where a prompt goes depends on its text and the seed alone, so that the comparisons of
    a prompt stay together, and a prompt held out once stays held out as labels are added.
    """

    def is_held_out(comparison: RankedCandidates) -> bool:
        digest = hashlib.sha256(f"{seed}:{comparison.prompt_key}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64 < fraction

    held_out = [comparison for comparison in comparisons if is_held_out(comparison)]
    return [comparison for comparison in comparisons if not is_held_out(comparison)], held_out


def _learning_curve(
    config: RewardConfig,
    run_dir: Path,
    path: str,
    engine: Engine,
    train: Sequence[EncodedComparison],
    held_out: list[EncodedComparison],
    metrics: dict[str, float],
) -> dict[str, Any] | None:
    """Trains on shares of the labels; returns {points, doubling_gain}, or None when it was interrupted.

    A larger share holds the smaller ones; which labels are in depends on their prompts and the seed alone.
    """
    order = sorted(train, key=lambda e: hashlib.sha256(f"{config.seed}:{e.comparison.prompt_key}".encode()).digest())
    points: list[tuple[int, float]] = []
    for share in config.learning_curve:
        part = order[: max(1, round(share * len(order)))]
        model = new_reward_model(path, seed=config.seed)
        task = RewardTask(model, part, held_out, config, engine, pad_id=model.config.pad_token_id or 0)
        schedule = Schedule(config.epochs, config.batch_size, config.optimizer)
        loop = TrainingLoop(task, config, schedule, run_dir / f"labels-{share:g}", None)
        if not loop.run():
            return None
        points.append((_rankings(part), loop.last_metrics.get("eval/accuracy", math.nan)))
    points.append((_rankings(train), metrics.get("eval/accuracy", math.nan)))
    return {"points": [{"rankings": n, "accuracy": a} for n, a in points], "doubling_gain": doubling_gain(points)}


def _rankings(encoded: Sequence[EncodedComparison]) -> int:
    return sum(len(one.comparison.rankings) for one in encoded)


def _trunk_path(source: ModelSource) -> str:
    if source.path is None:
        raise InvalidInput("model.path: a reward model starts from the weights of a language model", field="model.path")
    return source.path


def _split(
    config: RewardConfig, labels: Labels, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[EncodedComparison], list[EncodedComparison]]:
    """Returns encoded (train, held out); rows that are too long join labels.odd_rows."""
    max_length = min(config.max_length, context_length(model))
    parts: list[list[EncodedComparison]] = []
    for comparisons in split_by_prompt(labels.comparisons, config.eval_fraction, config.seed):
        encoded, odd = encode_candidates(comparisons, tokenizer, max_length=max_length)
        parts.append(encoded)
        labels.odd_rows += odd
    if not parts[0]:
        raise InvalidInput(
            f"no comparison is left to train on: {len(labels.comparisons)} in the files, eval_fraction "
            f"{config.eval_fraction}, {len(labels.odd_rows)} left out (max_length {max_length})",
            field="data",
        )
    return parts[0], parts[1]


def _final_metrics(last: dict[str, float], labels: Labels, normalisation: Normalisation) -> dict[str, float]:
    return last | {
        "noise_ceiling": noise_ceiling(labels.comparisons),
        "data/comparisons": float(len(labels.comparisons)),
        "data/rankings": float(labels.rankings),
        "data/odd_rows": float(len(labels.odd_rows)),
        "score/mean": normalisation.mean,
        "score/sd": normalisation.sd,
    }


def _card(
    config: RewardConfig, labels: Labels, normalisation: Normalisation, metrics: dict[str, float]
) -> dict[str, Any]:
    finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
    return {
        "reward_model_version": config.reward_model_version,
        "run_id": config.run_id,
        "project_id": config.labels.project_id,
        "label_high_water_mark": config.labels.label_high_water_mark,
        "label_hash": config.labels.label_hash,
        "rankings": labels.rankings,
        "heldout_accuracy": finite.get("eval/accuracy"),
        "noise_ceiling": finite["noise_ceiling"],
        "score_mean": normalisation.mean,
        "score_sd": normalisation.sd,
        "reference_samples": normalisation.samples,
        "seed": config.seed,
        "config_hash": hashlib.sha256(config.model_dump_json().encode()).hexdigest(),
        "metrics": finite,
    }
