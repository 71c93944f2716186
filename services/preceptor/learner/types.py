"""Plain records that the learner's parts hand to one another; imports nothing heavy."""

from collections.abc import Callable
from dataclasses import dataclass, field

# (policy_version, begin, end): completion tokens [begin, end) were computed by policy_version.
VersionSpan = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Experience:
    """One scored rollout as the trainer takes it; T = len(token_ids).

    prompt_token_ids: what the policy read. token_ids: [T] what it wrote, EOS included where it was sampled.
    sampling_logprobs: [T] as the generation engine reported them. version_spans cover [0, T) without gap or overlap.
    score: raw reward of the whole completion. finished: it ended by EOS or a stop string, not by length.
    weight: of its tokens in the policy loss, in [0, 1]; below 1 where the staleness policy weights it down.
    token_rewards: [T] raw rewards of single tokens, beside the score; empty: none.
    """

    rollout_id: str
    group_id: str
    issue_index: int
    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    sampling_logprobs: tuple[float, ...]
    version_spans: tuple[VersionSpan, ...]
    score: float
    finished: bool
    reward_model_version: int
    weight: float = 1.0
    token_rewards: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one update did. skipped: some minibatch was not applied, for the reasons listed (they name the rollouts)."""

    metrics: dict[str, float]
    skipped: bool = False
    reasons: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training run stands. phase: what it is doing ("train", "evaluate", "normalise", "export").

    metrics: of this step under the field's names; empty where the step only moves the bar.
    """

    phase: str
    step: int
    total_steps: int
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a callback asks of a run. stop: end after a checkpoint. checkpoint: write one now, and call with phase
    "checkpoint" once it is written. learning_rate: the peak rate from the next step on; it comes with a checkpoint.
    """

    stop: bool = False
    checkpoint: bool = False
    learning_rate: float | None = None


# Called after every step. False is short for Wishes(stop=True); None and True go on.
ProgressCallback = Callable[[Progress], Wishes | bool | None]


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished run. model_dir: the exported Hugging Face directory (relative to the run directory).

    stopped: the callback asked to end; a checkpoint was written and nothing was exported.
    """

    model_dir: str
    steps: int
    metrics: dict[str, float]
    stopped: bool = False
