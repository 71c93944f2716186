"""The reward service's own words: items, scores, and what is loaded."""

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


class RewardKind(enum.Enum):
    MODEL = "model"
    FUNCTION = "function"
    REMOTE = "remote"
    COMPOSITE = "composite"


@dataclass(frozen=True, slots=True)
class ScoreItem:
    """One completion to score. A prompt is plain text, or messages of {"role", "content"}."""

    prompt: str | tuple[Mapping[str, str], ...]
    completion: str
    prompt_id: str = ""
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class ScoreFailure:
    """Why one item has no score. `reason` is upper snake case, `message` is for a person."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class ItemScore:
    """A score, or the failure of this item alone."""

    score: float = math.nan
    components: Mapping[str, float] = field(default_factory=dict)
    failure: ScoreFailure | None = None

    @classmethod
    def failed(cls, reason: str, message: str) -> "ItemScore":
        return cls(failure=ScoreFailure(reason, message))


@dataclass(frozen=True, slots=True)
class Scoring:
    """As many results as items, in order, all by the same model."""

    results: Sequence[ItemScore]
    model: str
    reward_model_version: int


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a name stands for. `reward_model_version` counts from 1; 0: a function, or a model without a card."""

    name: str
    kind: RewardKind
    uri: str
    reward_model_version: int = 0


@dataclass(frozen=True, slots=True)
class ModelInfo:
    spec: ModelSpec
    current: bool
    scored_total: int
    busy_seconds_total: float


class Scorer(Protocol):
    """A loaded reward model or function. Scores never raise for one item's sake: its result carries the failure."""

    @property
    def busy_seconds(self) -> float: ...

    async def score(self, items: Sequence[ScoreItem]) -> list[ItemScore]:
        """As many results as items, in order. Raises Overloaded when the items do not fit its queue."""
        ...

    async def close(self) -> None: ...


class ScorerOpener(Protocol):
    async def __call__(self, spec: ModelSpec) -> tuple[ModelSpec, Scorer]:
        """Loads what the spec names; the returned spec carries the version found there.

        Raises NotFound or InvalidInput with one sentence about what is wrong.
        """
        ...


class ServingStore(Protocol):
    """Remembers what is served, so that a killed server comes back with it."""

    def load(self) -> tuple[list[ModelSpec], str]: ...

    def save(self, specs: Sequence[ModelSpec], current: str) -> None: ...
