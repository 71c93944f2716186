"""Plain records of the conductor: loops, stages, runs, reward models, events, jobs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class LoopState(StrEnum):
    """Where a loop stands; the last three are final."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"


class StageState(StrEnum):
    """Where a stage stands."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class StageKind(StrEnum):
    """What a stage does. Stages are named <kind>-<iteration>, the first two by their kind alone."""

    SFT = "sft"
    PUBLISH = "publish"
    COLLECT = "collect"
    LABELS = "labels"
    REWARD = "reward"
    PROMOTE = "promote"
    RL = "rl"


class JobState(StrEnum):
    """A learner job as its launcher sees it."""

    ABSENT = "absent"
    RUNNING = "running"  # or being started again after a kill
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class StagePlan:
    """A stage of a loop's plan. iteration counts from 1."""

    name: str
    kind: StageKind
    iteration: int


@dataclass(frozen=True, slots=True)
class StageRecord:
    """A stage as stored. progress in [0, 1]."""

    name: str
    kind: StageKind
    iteration: int
    state: StageState = StageState.PENDING
    started_at: datetime | None = None
    finished_at: datetime | None = None
    run_id: str = ""
    progress: float = 0.0
    message: str = ""


@dataclass(frozen=True, slots=True)
class LoopRecord:
    """A loop as stored."""

    loop_id: str
    config_yaml: str
    state: LoopState
    stages: tuple[StageRecord, ...]
    iterations: int
    created_at: datetime
    error: str = ""
    stop_requested: bool = False

    @property
    def iteration(self) -> int:
        """The iteration of the first stage that is not done."""
        return next((s.iteration for s in self.stages if s.state is not StageState.DONE), self.iterations)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A training job. attempt counts starts of its process."""

    run_id: str
    loop_id: str
    kind: str
    state: str
    attempt: int
    config_yaml: str
    output_uri: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class RewardModelRecord:
    """A registered reward model; gate is "passed" or the reason why not."""

    reward_model_version: int
    uri: str
    run_id: str
    loop_id: str
    project_id: str
    label_high_water_mark: int
    label_hash: str
    rankings: int
    heldout_accuracy: float
    noise_ceiling: float
    score_mean: float
    score_sd: float
    promoted: bool
    gate: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class EventRecord:
    """Something that happened in a loop. sequence grows over the whole database."""

    sequence: int
    time: datetime
    kind: str
    stage: str
    message: str
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class PolicyRange:
    """Policy versions of a run, both ends included."""

    run_id: str
    first_policy_version: int
    last_policy_version: int


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A learner job: what to start. config_path: a file of the launcher's host, or an address in an object store."""

    run_id: str
    kind: str
    config_path: str


@dataclass(frozen=True, slots=True)
class JobStatus:
    """What a launcher knows of a job. message: for a person, with the end of its log after a failure."""

    state: JobState
    pid: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True)
class LearnerStatus:
    """What a running learner says of itself; metrics are of its last step."""

    state: str
    step: int
    total_steps: int
    policy_version: int
    reward_model_version: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    message: str = ""


@dataclass(frozen=True, slots=True)
class LabelSnapshot:
    """A fixed set of labels."""

    label_high_water_mark: int
    label_hash: str
    rankings: int


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """Where labelling stands."""

    rankings: int
    comparisons_open: int


@dataclass(frozen=True, slots=True)
class SampledGroup:
    """The completions of one prompt, drawn from a generator."""

    prompt: str
    texts: tuple[str, ...]
    policy_versions: tuple[int, ...]
    truncated: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class NewComparison:
    """A comparison to be minted from a sampled group."""

    comparison_id: str
    prompt_id: str
    overlap: int
    group: SampledGroup
