"""One demo run from outside: starts the loop, watches it, evaluates before and after, and writes the report."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from preceptor.api.conductor.v1 import loop_service_pb2 as loop_pb
from preceptor.api.feedback.v1 import feedback_service_pb2 as feedback_pb
from preceptor.api.generation.v1 import generation_service_pb2 as generation_pb
from preceptor.clients.conductor import LoopClient
from preceptor.clients.feedback import FeedbackClient
from preceptor.clients.generation import GenerationClient
from preceptor.common.artifacts import ArtifactStore
from preceptor.common.errors import FailedPrecondition, NotFound, PreceptorError
from preceptor.demo.assets import Assets, build_assets
from preceptor.demo.display import DemoProgress
from preceptor.demo.evaluation import Evaluation, Evaluator, GoldSummary
from preceptor.demo.gold import gold_score
from preceptor.demo.html import render_report
from preceptor.demo.judgement import LabelMode
from preceptor.demo.live_gold import gold_agreement, gold_by_policy_version, list_comparisons
from preceptor.demo.profiles import PROFILES, Profile
from preceptor.demo.recorder import BusyRecorder
from preceptor.demo.report import Measured, make_report
from preceptor.demo.watch import LoopWatch

LOOP_ID = "demo"
RL_RUN_ID = f"{LOOP_ID}-rl"
PROJECT_ID = "demo"
_WAIT_FOR_GENERATORS_S = 300.0


@dataclass(frozen=True, slots=True)
class Endpoints:
    """A running system. addresses: gRPC by service ("conductor", "feedback"). metrics_urls: /metrics by process."""

    addresses: Mapping[str, str]
    artifacts_url: str
    redis_url: str
    metrics_urls: Mapping[str, str] = field(default_factory=dict)
    supervisor_pid: int = 0


def run_demo(
    stack: Endpoints,
    *,
    profile: str,
    seed: int,
    labels: LabelMode,
    rl: bool,
    out_dir: Path,
    progress: Callable[[DemoProgress], None],
    timeout_s: float = 3600.0,
    sft_model: Path | None = None,
) -> dict[str, Any]:
    """Runs the loop to its end and returns the report, which it also writes to out_dir as report.json and report.html.

    The services and the raters (with the same labels and seed) must be running or starting.

    Raises:
        FailedPrecondition: the loop did not succeed; the message is its error.
        DeadlineExceeded: it took longer than timeout_s.
    """
    sizes = PROFILES[profile]
    assets = build_assets(out_dir / "assets", sizes, seed, rl=rl, sft_model=sft_model)
    recorder = BusyRecorder(_with_second_job(stack.metrics_urls), root_pid=stack.supervisor_pid)
    recorder.start()
    demo = _Demo(stack, sizes, assets, labels)
    try:
        demo.start()
        before = demo.watch_to_end(progress, time.monotonic() + timeout_s)
        after = demo.evaluate_final()
    finally:
        recorder.stop()
    measured = demo.measure(before, after, recorder, seed=seed, labels=labels, rl=rl)
    demo.close()
    report = make_report(measured)
    out_dir.mkdir(parents=True, exist_ok=True)
    (out_dir / "report.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    (out_dir / "report.html").write_text(render_report(report), encoding="utf-8")
    return report


def refused(loop: loop_pb.Loop) -> bool:
    """Whether the loop ended because no reward model passed its gate."""
    return any(s.name.startswith("promote") and s.state == "failed" for s in loop.stages)


def _with_second_job(urls: Mapping[str, str]) -> dict[str, str]:
    """The addresses, with that of sft and reward jobs: one port above the rl job's (ConductorSettings)."""
    found = dict(urls)
    if "learner" in found:
        parts = urlsplit(found["learner"])
        second = parts._replace(netloc=f"{parts.hostname}:{(parts.port or 0) + 1}")
        found.setdefault("learner (sft, reward)", urlunsplit(second))
    return found


class _Demo:
    """The clients of one run and what it does with them."""

    def __init__(self, stack: Endpoints, sizes: Profile, assets: Assets, labels: LabelMode) -> None:
        self._sizes = sizes
        self._labels = labels
        self._assets = assets
        self._loops = LoopClient(stack.addresses["conductor"])
        self._feedback = FeedbackClient(stack.addresses["feedback"])
        self._artifacts = ArtifactStore(stack.artifacts_url)
        self._evaluator = Evaluator(stack.redis_url, RL_RUN_ID)
        self._prompts = assets.read_held_out()

    def start(self) -> None:
        """Starts the loop, or finds the one that runs."""
        text = self._assets.loop_yaml.read_text(encoding="utf-8")
        self._loops.start_loop(loop_pb.StartLoopRequest(loop_id=LOOP_ID, config_yaml=text))

    def watch_to_end(self, progress: Callable[[DemoProgress], None], deadline: float) -> Evaluation:
        """Shows the loop until it ends; evaluates policy version 0 while that is what generators serve."""
        watch = LoopWatch(self._loops, self._feedback, LOOP_ID, PROJECT_ID, self._sizes)
        before: Evaluation | None = None
        for state in watch.until_end(deadline):
            progress(state)
            if before is None and watch.is_done("publish"):
                self._evaluator.wait_for_version(0, _WAIT_FOR_GENERATORS_S)
                before = self._evaluate()
        loop = self._loop()
        if before is not None and refused(loop) and self._labels == "shuffled":
            return before  # the gate kept labels without meaning from the policy, as it should
        if loop.state != loop_pb.LOOP_STATE_SUCCEEDED or before is None:
            raise FailedPrecondition(
                f"the loop did not succeed: {loop.error or 'it was stopped'}", reason="LOOP_FAILED"
            )
        if before.policy_versions != (0, 0):
            raise FailedPrecondition(f"the sft evaluation saw policy versions {before.policy_versions}, not 0 alone")
        return before

    def evaluate_final(self) -> Evaluation:
        """Samples the newest policy version."""
        newest = int(self._artifacts.get_json(f"runs/{RL_RUN_ID}/policy/LATEST.json")["policy_version"])
        self._evaluator.wait_for_version(newest, _WAIT_FOR_GENERATORS_S)
        return self._evaluate()

    def measure(
        self, before: Evaluation, after: Evaluation, recorder: BusyRecorder, *, seed: int, labels: LabelMode, rl: bool
    ) -> Measured:
        """Everything that the report is made of."""
        return Measured(
            profile=self._sizes.name,
            seed=seed,
            labels=labels,
            rl=rl,
            before=before,
            after=after,
            corpus_gold=self._corpus_gold(),
            gold_by_version=gold_by_policy_version(list_comparisons(self._feedback, PROJECT_ID)),
            loop=self._loop(),
            reward_models=self._reward_models(),
            rankings=self._rankings(),
            summary=self._summary(),
            metrics=self._metrics(),
            updates=self._updates(),
            busy=recorder.series,
            recorder_began_at=recorder.began_at,
            peak_memory_bytes=recorder.peak_memory_bytes,
        )

    def close(self) -> None:
        self._loops.close()
        self._feedback.close()

    def _evaluate(self) -> Evaluation:
        return self._evaluator.evaluate(self._prompts, self._sizes.samples_per_prompt, self._sizes.max_tokens)

    def _loop(self) -> loop_pb.Loop:
        return self._loops.get_loop(loop_pb.GetLoopRequest(loop_id=LOOP_ID)).loop

    def _corpus_gold(self) -> tuple[float, float]:
        with self._assets.corpus.open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        summary = GoldSummary.of([gold_score(row["prompt"], row["completion"]) for row in rows])
        return summary.mean, summary.sd

    def _reward_models(self) -> list[dict[str, Any]]:
        answer = self._loops.list_reward_models(loop_pb.ListRewardModelsRequest(page_size=100))
        rows = []
        for model in sorted(answer.reward_models, key=lambda m: m.reward_model_version):
            labels = self._artifacts.local(f"loops/{LOOP_ID}/{model.run_id}.rankings.jsonl")
            rows.append(
                {
                    "version": model.reward_model_version,
                    "rankings": model.rankings,
                    "heldout_accuracy": model.heldout_accuracy,
                    "noise_ceiling": model.noise_ceiling,
                    "gold_agreement": gold_agreement(labels),
                    "label_high_water_mark": model.label_high_water_mark,
                    "label_hash": model.label_hash,
                    "gate": model.gate,
                }
            )
        return rows

    def _rankings(self) -> dict[str, Any]:
        stats = self._feedback.stats(feedback_pb.GetStatsRequest(project_id=PROJECT_ID))
        return {"total": stats.rankings, "by_rater": {r.rater_id: r.rankings for r in stats.raters}}

    def _summary(self) -> dict[str, Any]:
        """Of the rl run; empty when there was none."""
        try:
            found: dict[str, Any] = self._artifacts.get_json(f"runs/{RL_RUN_ID}/summary.json")
        except NotFound:
            return {}
        return found

    def _metrics(self) -> list[dict[str, Any]]:
        try:
            with self._artifacts.open(f"runs/{RL_RUN_ID}/metrics.jsonl", "r") as file:
                return [json.loads(line) for line in file if line.strip()]
        except NotFound:
            return []

    def _updates(self) -> list[dict[str, Any]]:
        """Every weight update that a generator still remembers; a generator that left has taken its own along."""
        rows = []
        for address in self._evaluator.addresses():
            try:
                with GenerationClient(address) as client:
                    status = client.status(generation_pb.GetStatusRequest())
            except PreceptorError:
                continue
            rows += [
                {
                    "generator": status.generator_id,
                    "version": update.policy_version,
                    "apply_ms": 1000 * update.apply_seconds,
                    "stall_ms": 1000 * update.stall_seconds,
                    "rolled_back": update.rolled_back,
                }
                for update in status.recent_updates
            ]
        return rows
