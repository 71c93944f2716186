"""What the service computes with. No transport, no engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from preceptor.common.completions import Sampling, VersionSpan

NO_VERSION = -1


class State(Enum):
    WAITING_FOR_WEIGHTS = "waiting for weights"
    LOADING = "loading"
    SERVING = "serving"
    DRAINING = "draining"
    FAILED = "failed"


class Finish(Enum):
    NOT_YET = "not yet"
    STOP = "stop"
    LENGTH = "length"
    HANDED_BACK = "handed back"


@dataclass(frozen=True, slots=True)
class Turn:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class TokenIds:
    ids: Sequence[int]


Prompt = str | Conversation | TokenIds


@dataclass(frozen=True, slots=True)
class Completion:
    """What the policy wrote. The token-wise fields describe the same T tokens; spans cover [0, T)."""

    token_ids: Sequence[int] = ()
    text: str = ""
    sampling_logprobs: Sequence[float] = ()
    finish: Finish = Finish.NOT_YET
    spans: tuple[VersionSpan, ...] = ()


@dataclass(frozen=True, slots=True)
class Command:
    """One call. `deadline_s` is what is left of the caller's time, None when it set none."""

    request_id: str
    run_id: str
    prompt: Prompt | None
    sampling: Sampling
    n: int = 1
    rl: bool = False
    min_policy_version: int = 0
    continue_from: tuple[Completion, ...] = ()
    deadline_s: float | None = None
    delta_tokens: int = 0  # of a stream; 0 = the server's own
    text_at_end: bool = False  # of a stream


@dataclass(frozen=True, slots=True)
class Outcome:
    """n completions of one prompt, and the version that was in force when they were admitted."""

    request_id: str
    admitted_policy_version: int
    prompt_token_ids: Sequence[int]
    completions: tuple[Completion, ...]


@dataclass(frozen=True, slots=True)
class Delta:
    """Tokens since the last delta of completion `index`, and the spans of all its tokens so far (none: not known yet).

    The last one carries `finish`.
    """

    completion: Completion
    admitted_policy_version: int
    prompt_token_ids: Sequence[int] = ()
    index: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """What the engine bears, known once it has loaded."""

    max_model_len: int
    vocab_size: int
    seeds: bool  # whether a per-request seed is safe


@dataclass(frozen=True, slots=True)
class WeightUpdateRecord:
    """One attempt to bring a version into service. Seconds; `stall_s` = while generation was paused."""

    policy_version: int
    previous_version: int
    apply_s: float
    stall_s: float
    rolled_back: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    generator_id: str
    run_id: str
    state: State
    policy_version: int
    running: int
    waiting: int
    max_requests: int
    max_model_len: int
    generated_tokens: int
    message: str
    busy_s: float
    recent_updates: tuple[WeightUpdateRecord, ...] = field(default=())
