"""The rollout worker's own words. Token lists are tuples as they came; nothing here knows a transport."""

import enum
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from preceptor.common.completions import Sampling, VersionSpan

if TYPE_CHECKING:
    from preceptor.rollout.drafts import StreamedGroup


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on the monotonic clock, `at` in seconds."""

    at: float
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def after(cls, seconds: float, clock: Callable[[], float] = time.monotonic) -> "Deadline":
        return cls(clock() + seconds, clock)

    def remaining_s(self) -> float:
        """Seconds left, 0 when it has passed."""
        return max(0.0, self.at - self.clock())

    @property
    def passed(self) -> bool:
        return self.clock() >= self.at

    def less(self, margin_s: float) -> "Deadline":
        """The same, `margin_s` earlier."""
        return Deadline(self.at - margin_s, self.clock)

    def at_least(self, seconds: float) -> "Deadline":
        """The same, or `seconds` from now if that is later."""
        return Deadline(max(self.at, self.clock() + seconds), self.clock)


@dataclass(frozen=True, slots=True)
class Prompt:
    """Exactly one of the three is set; messages are (role, content)."""

    text: str | None = None
    messages: tuple[tuple[str, str], ...] | None = None
    token_ids: tuple[int, ...] | None = None


class FinishReason(enum.Enum):
    STOP = "stop"
    LENGTH = "length"
    HANDED_BACK = "handed_back"


@dataclass(frozen=True, slots=True)
class Completion:
    token_ids: tuple[int, ...]
    text: str
    sampling_logprobs: tuple[float, ...]
    finish_reason: FinishReason
    version_spans: tuple[VersionSpan, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt at one prompt group."""

    run_id: str
    group_id: str
    attempt: int
    issue_index: int
    prompt_id: str
    prompt: Prompt
    n: int
    sampling: Sampling
    min_policy_version: int
    reward_model: str
    deadline: Deadline
    feedback_project: str = ""
    feedback_control: bool = False
    continue_from: tuple[Completion, ...] = ()


@dataclass(frozen=True, slots=True)
class Generator:
    """A discovery record. `load` and `max_requests` count sequences; `max_requests` 0 is unknown."""

    id: str
    address: str
    run_id: str
    policy_version: int = -1
    load: int = 0
    max_requests: int = 0


@dataclass(frozen=True, slots=True)
class Generation:
    """What one generator wrote for one prompt."""

    generator_id: str
    prompt_token_ids: tuple[int, ...]
    completions: tuple[Completion, ...]


@dataclass(frozen=True, slots=True)
class ItemScore:
    """A score, or why there is none: `reason` is empty or upper snake case."""

    score: float
    components: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Scoring:
    results: tuple[ItemScore, ...]
    reward_model: str
    reward_model_version: int


@dataclass(frozen=True, slots=True)
class Rollout:
    rollout_id: str
    completion: Completion
    score: float
    score_components: Mapping[str, float]


class Stage(enum.Enum):
    GENERATION = "generation"
    REWARD = "reward"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Failure:
    stage: Stage
    reason: str
    message: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class Group:
    """What goes to the stream: n scored rollouts, or the failure of this attempt. Never both."""

    job: Job
    worker_id: str
    rollouts: tuple[Rollout, ...] = ()
    prompt_token_ids: tuple[int, ...] = ()
    reward_model: str = ""
    reward_model_version: int = 0
    generator_id: str = ""
    generate_seconds: float = 0.0
    score_seconds: float = 0.0
    failure: Failure | None = None


class Generate(Protocol):
    def __call__(
        self,
        generator: Generator,
        job: Job,
        *,
        n: int,
        continue_from: tuple[Completion, ...],
        timeout_s: float,
        streamed: "StreamedGroup",
    ) -> Generation:
        """n completions by this generator, those to be continued first. Raises subclasses of PreceptorError.

        streamed: takes in what arrives before the end, where the generator is asked to stream.
        """
        ...


class Score(Protocol):
    def __call__(self, job: Job, completions: tuple[Completion, ...], *, timeout_s: float) -> Scoring:
        """One result per completion, all by one reward model. Raises subclasses of PreceptorError."""
        ...


class Deliver(Protocol):
    def __call__(self, group: Group, deadline: Deadline) -> None:
        """Appends the group to its run's stream, trying again until the deadline. Raises Unavailable."""
        ...


class Offer(Protocol):
    def __call__(self, group: Group) -> None:
        """Offers the group as a comparison. Raises Unavailable."""
        ...
