"""A world for loops in one process: every port of the conductor in memory, and a crash before any chosen call."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save_file

from preceptor.common.artifacts import ArtifactStore
from preceptor.common.errors import Unavailable
from preceptor.conductor.loop_config import CollectStage, ProjectConfig
from preceptor.conductor.stages.context import World
from preceptor.conductor.store.database import migrate, open_database
from preceptor.conductor.store.loops import LoopStore
from preceptor.conductor.store.registry import RegistryStore
from preceptor.conductor.types import (
    JobSpec,
    JobState,
    JobStatus,
    LabelCounts,
    LabelSnapshot,
    LearnerStatus,
    NewComparison,
    RewardModelRecord,
    SampledGroup,
)


class Crash(BaseException):
    """The conductor dies here: not an Exception, so that nothing in it gets to react."""


class FakeWorld:
    """All ports at once, their state outliving the conductor as the real services' does."""

    def __init__(self, root: Path, database_url: str = "") -> None:
        self.root = root
        self.artifacts = ArtifactStore((root / "artifacts").as_uri())
        self.artifacts.put_json("made.json", {})
        self.engine = open_database(database_url or f"sqlite:///{root / 'conductor.sqlite'}")
        migrate(self.engine)
        self.calls = itertools.count(1)
        self.crash_before = 0
        self.unavailable: set[int] = set()
        self.jobs: dict[str, dict[str, Any]] = {}
        self.starts: list[str] = []
        self.heldout_accuracy = 0.7
        self.score_sd = 2.0
        self.projects: dict[str, ProjectConfig] = {}
        self.comparisons: dict[str, tuple[str, NewComparison]] = {}
        self.rankings: list[str] = []
        self.loaded: set[int] = set()
        self.current = 0
        self.probe_score: Callable[[str], float] = len
        self.paused = False
        self.pauses = 0
        self.stopped: list[str] = []

    def world(self) -> World:
        """What the engine takes."""
        return World(
            loops=LoopStore(self.engine),
            registry=RegistryStore(self.engine),
            artifacts=self.artifacts,
            launcher=self,
            learners=Learner(self),
            labels=self,
            generators=self,
            reward=Reward(self),
            poll_interval_s=0.001,
        )

    def tick(self) -> None:
        """Before every call from the conductor."""
        number = next(self.calls)
        if number == self.crash_before:
            raise Crash
        if number in self.unavailable:
            raise Unavailable("the service restarts")

    # ---- launcher

    def start(self, job: JobSpec) -> None:
        self.tick()
        if job.run_id not in self.jobs:
            self.starts.append(job.run_id)
            config = yaml.safe_load(Path(job.config_path).read_text())
            self.jobs[job.run_id] = {
                "kind": job.kind,
                "config": config,
                "polls": 0,
                "step": 0,
                "pid": 100 + len(self.starts),
            }

    def status(self, run_id: str) -> JobStatus:
        self.tick()
        job = self.jobs.get(run_id)
        if job is None:
            return JobStatus(JobState.ABSENT)
        job["polls"] += 1
        if job["kind"] == "rl":
            done = job["step"] >= job["config"]["total_steps"]
        else:
            done = job["polls"] > 2
            if done:
                self._write_output(run_id, job)
        return JobStatus(JobState.SUCCEEDED if done else JobState.RUNNING, pid=job["pid"])

    def stop(self, run_id: str) -> None:
        self.tick()
        self.jobs.pop(run_id, None)

    def forget(self, run_id: str) -> None:
        self.stop(run_id)

    def _write_output(self, run_id: str, job: dict[str, Any]) -> None:
        if self.artifacts.exists(f"runs/{run_id}/model"):
            return
        staged = self.root / "staged" / run_id
        staged.mkdir(parents=True, exist_ok=True)
        (staged / "config.json").write_text('{"model_type": "llama"}')
        save_file({"w": np.arange(4, dtype=np.float32)}, staged / "model.safetensors")
        if job["kind"] == "reward":
            labels = job["config"]["labels"]
            lines = Path(job["config"]["data"][0]["path"]).read_text().splitlines()
            card = {
                **labels,
                "rankings": len(lines),
                "heldout_accuracy": self.heldout_accuracy,
                "noise_ceiling": 0.8,
                "score_mean": 0.1,
                "score_sd": self.score_sd,
            }
            (staged / "card.json").write_text(json.dumps(card))
        self.artifacts.put_dir(staged, f"runs/{run_id}/model")

    # ---- labels

    def ensure_project(self, project: ProjectConfig) -> None:
        self.tick()
        self.projects[project.project_id] = project

    def minted(self, project_id: str, run_id: str) -> set[str]:
        self.tick()
        return {i for i, (source, _) in self.comparisons.items() if source == run_id}

    def mint(self, project_id: str, run_id: str, comparisons: Sequence[NewComparison]) -> None:
        self.tick()
        for new in comparisons:
            known = self.comparisons.setdefault(new.comparison_id, (run_id, new))
            assert known[0] == run_id

    def counts(self, project_id: str) -> LabelCounts:
        self.tick()
        wanted = sum(new.overlap for _, new in self.comparisons.values())
        if len(self.rankings) < wanted:
            self.rankings += [f"event-{len(self.rankings) + i}" for i in range(min(5, wanted - len(self.rankings)))]
        return LabelCounts(len(self.rankings), wanted - len(self.rankings))

    def snapshot(self, project_id: str) -> LabelSnapshot:
        self.tick()
        count = len(self.rankings)
        return LabelSnapshot(count, f"hash-{count}", count)

    def export(self, project_id: str, label_high_water_mark: int) -> Iterable[tuple[str, str]]:
        self.tick()
        return [(event, json.dumps({"event_id": event})) for event in self.rankings[:label_high_water_mark]]

    # ---- generators

    def sample(self, run_id: str, prompt: str, settings: CollectStage) -> SampledGroup:
        # Called from a pool: a crash there would not be the conductor's.
        assert self.artifacts.exists(f"runs/{run_id}/policy/LATEST.json")
        n = settings.n
        return SampledGroup(prompt, tuple(f" reply {i}" for i in range(n)), (0,) * n, (False,) * n)


class Learner:
    """The learner jobs' RPCs. The rl job makes a step per status call unless it is paused."""

    def __init__(self, world: FakeWorld) -> None:
        self._world = world

    def status(self, run_id: str) -> LearnerStatus | None:
        self._world.tick()
        job = self._world.jobs.get(run_id)
        if job is None:
            return None
        if job["kind"] != "rl":
            return LearnerStatus("running", job["polls"], 3, -1, 0)
        total = job["config"]["total_steps"]
        if not self._world.paused and job["step"] < total:
            job["step"] += 1
            job["scored_by"] = self._world.current
        state = "paused" if self._world.paused else "running"
        return LearnerStatus(state, job["step"], total, job["step"], job.get("scored_by", 0), {"objective/kl": 0.5})

    def pause(self, run_id: str, reason: str) -> None:
        self._world.tick()
        self._world.paused = True
        self._world.pauses += 1

    def resume(self, run_id: str) -> None:
        self._world.tick()
        self._world.paused = False

    def stop(self, run_id: str, reason: str) -> None:
        self._world.tick()
        self._world.stopped.append(run_id)
        job = self._world.jobs[run_id]
        job["step"] = job["config"]["total_steps"]  # the job ends


class Reward:
    """The reward service."""

    def __init__(self, world: FakeWorld) -> None:
        self._world = world

    def load(self, model: RewardModelRecord, *, make_current: bool) -> None:
        self._world.tick()
        assert self._world.artifacts.local(model.uri).joinpath("card.json").exists()
        self._world.loaded.add(model.reward_model_version)
        if make_current:
            self._world.current = model.reward_model_version

    def current_version(self) -> int:
        self._world.tick()
        return self._world.current

    def score(self, model: RewardModelRecord, items: Sequence[tuple[str, str]]) -> list[float]:
        self._world.tick()
        return [self._world.probe_score(completion) for _, completion in items]


def loop_yaml(root: Path, **changes: Any) -> str:
    """A loop of two iterations whose prompts lie below root."""
    prompts = root / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"prompt {i}"}) + "\n" for i in range(5)))
    config: dict[str, Any] = {
        "project": {"project_id": "p"},
        "iterations": 2,
        "prompts": str(prompts),
        "sft": {"run": {"model": {"path": "/models/start"}}},
        "collect": {"n": 2, "comparisons": 12, "concurrency": 2},
        "labels": {"targets": [10, 20]},
        "reward": {"run": {"epochs": 1}},
        "rl": {"run": {"feedback": {"share": 0.5}}, "steps": [3, 6]},
    }
    return yaml.safe_dump({**config, **changes})
