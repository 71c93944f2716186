"""What the loop needs of the world, as protocols; adapters/ holds what speaks gRPC or starts processes."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from preceptor.conductor.loop_config import CollectStage, ProjectConfig
from preceptor.conductor.types import (
    JobSpec,
    JobStatus,
    LabelCounts,
    LabelSnapshot,
    LearnerStatus,
    NewComparison,
    RewardModelRecord,
    SampledGroup,
)


class Launcher(Protocol):
    """Starts learner jobs and keeps them alive. Every call may be repeated."""

    def start(self, job: JobSpec) -> None:
        """Starts the job unless it was started; a job that died by a signal is started again by itself."""
        ...

    def status(self, run_id: str) -> JobStatus:
        """What became of it; ABSENT when it was never started or is forgotten."""
        ...

    def stop(self, run_id: str) -> None:
        """Ends the job's process group; nothing happens when there is none."""
        ...

    def forget(self, run_id: str) -> None:
        """Stops the job and removes it, so that no restart brings it back."""
        ...


class Learners(Protocol):
    """The learner jobs' own RPCs, found by run id."""

    def status(self, run_id: str) -> LearnerStatus | None:
        """None while the job does not answer: it starts, restarts or has ended."""
        ...

    def pause(self, run_id: str, reason: str) -> None:
        """Stops after the current step; nothing happens while the job does not answer."""
        ...

    def resume(self, run_id: str) -> None:
        """Goes on; nothing happens while the job does not answer."""
        ...

    def stop(self, run_id: str, reason: str) -> None:
        """Ends the run after its current step; nothing happens while the job does not answer."""
        ...


class Labels(Protocol):
    """The feedback service."""

    def ensure_project(self, project: ProjectConfig) -> None:
        """Creates the project unless it exists."""
        ...

    def minted(self, project_id: str, run_id: str) -> set[str]:
        """Ids of the comparisons that were minted for a run."""
        ...

    def mint(self, project_id: str, run_id: str, comparisons: Sequence[NewComparison]) -> None:
        """Stores comparisons; repeating one changes nothing."""
        ...

    def counts(self, project_id: str) -> LabelCounts:
        """Where labelling stands."""
        ...

    def snapshot(self, project_id: str) -> LabelSnapshot:
        """The labels in force now."""
        ...

    def export(self, project_id: str, label_high_water_mark: int) -> Iterable[tuple[str, str]]:
        """The snapshot's votes in order: (event_id, RankedComparison as one line of JSON)."""
        ...


class Generators(Protocol):
    """The generators that serve a run's policy."""

    def sample(self, run_id: str, prompt: str, settings: CollectStage) -> SampledGroup:
        """Completions of one prompt from the policy version served now. Threads may call it at once.

        Raises:
            Unavailable: no generator serves this run yet.
        """
        ...


class RewardServer(Protocol):
    """The reward service."""

    def load(self, model: RewardModelRecord, *, make_current: bool) -> None:
        """Loads a registered model beside those that serve."""
        ...

    def current_version(self) -> int:
        """The version that answers to the empty name; 0 when none does."""
        ...

    def score(self, model: RewardModelRecord, items: Sequence[tuple[str, str]]) -> list[float]:
        """Scores (prompt, completion) pairs with a loaded model."""
        ...
