"""What the console shows and takes: one set of models for its pages, its REST answers and its OpenAPI document.

Names are those of the protos. Raters judge blind: `ShownCandidate` carries no policy version, rollout id or sampling.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

RATER_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
EVENT_ID_PATTERN = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"

Strength = Literal["unspecified", "slight", "clear", "strong"]
LoopState = Literal["unspecified", "running", "succeeded", "failed", "stopped"]
RaterId = Annotated[
    str, Field(pattern=RATER_ID_PATTERN, description="A pseudonym: letters, digits, dot, dash, underscore.")
]
EventId = Annotated[str, Field(pattern=EVENT_ID_PATTERN, description="A lower-case UUID made by the client.")]
Id = Annotated[str, Field(min_length=1, max_length=300)]


def _in_utc(value: datetime) -> datetime:
    aware = value if value.tzinfo else value.replace(tzinfo=UTC)
    try:
        shifted = aware.astimezone(UTC)
    except OverflowError:
        shifted = _EARLIEST - timedelta(days=1)
    if not _EARLIEST <= shifted < _LATEST:
        raise ValueError(f"it must lie between {_EARLIEST.year} and {_LATEST.year}")
    return shifted


_EARLIEST, _LATEST = datetime(1970, 1, 2, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
Moment = Annotated[datetime, AfterValidator(_in_utc)]
LeaseSeconds = Annotated[float, Field(ge=0, le=86_400, description="0: the server's default.")]


class Model(BaseModel):
    """Frozen, and refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(Model):
    """One turn of a conversation."""

    role: str
    content: str


class ProjectSettings(Model):
    """How a project measures its raters."""

    gold_rate: float = Field(default=0, ge=0, le=0.5, description="Share of a rater's leases that are gold items.")
    repeat_rate: float = Field(default=0, ge=0, le=0.5, description="Share that repeats, in swapped order.")
    pause_below_reliability: float = Field(default=0, ge=0, le=1, description="0: nobody is paused.")
    pause_below_gold_accuracy: float = Field(default=0, ge=0, le=1, description="0: nobody is paused.")
    pause_after: int = Field(default=20, ge=1, le=10_000, description="Comparisons before a rater can be paused.")


class Project(Model):
    """A labelling project."""

    project_id: str
    title: str
    guidelines: str = Field(description="Markdown.")
    guideline_version: int
    default_overlap: int
    axes: tuple[str, ...] = Field(description="Names of optional ratings per candidate, 1 to 7.")
    settings: ProjectSettings = ProjectSettings()


class ProjectUpdate(Model):
    """What to change of a project; what is absent stays."""

    title: str | None = Field(default=None, max_length=1000)
    guidelines: str | None = Field(default=None, description="Markdown; becomes the next version.")
    default_overlap: int | None = Field(default=None, ge=1, le=100)
    axes: tuple[str, ...] | None = Field(default=None, description="Those there are, and further ones.")
    settings: ProjectSettings | None = None


class ShownCandidate(Model):
    """A candidate as a rater sees it."""

    candidate_id: str
    text: str


class ShownComparison(Model):
    """A comparison as a rater sees it: the prompt and the candidates in the order drawn for this rater."""

    comparison_id: str
    project_id: str
    prompt: tuple[Message, ...] = Field(description="A plain-text prompt is one message with the role 'prompt'.")
    candidates: tuple[ShownCandidate, ...]


class Lease(Model):
    """A rater's hold on one comparison."""

    lease_id: str
    comparison: ShownComparison
    leased_at: datetime = Field(description="The server's clock. Send it back as shown_at of the ranking.")
    expires_at: datetime
    expires_in_seconds: float
    guideline_version: int


class LeaseRequest(Model):
    """Who wants something to rank."""

    rater_id: RaterId
    lease_seconds: LeaseSeconds = 0


class LeaseOffer(Model):
    """A lease, or none and when to ask again."""

    lease: Lease | None
    retry_after_seconds: float


class ExtendRequest(Model):
    """Who holds the lease."""

    rater_id: RaterId
    lease_seconds: LeaseSeconds = 0


class LeaseExtension(Model):
    """Until when the lease now holds."""

    expires_at: datetime
    expires_in_seconds: float


class ReleaseRequest(Model):
    """Gives a lease back unanswered: this rater never sees the comparison again."""

    rater_id: RaterId
    reason: str = Field(default="", max_length=2_000)
    flag: bool = Field(default=False, description="Withdraw the comparison from everybody until it is reviewed.")


class AxisRating(Model):
    """One rating of one candidate on one of the project's axes."""

    axis: Id
    candidate_id: Id
    value: int = Field(ge=1, le=7)


class RankingRequest(Model):
    """One vote. Sending the same event_id with the same body again returns the first answer."""

    event_id: EventId
    comparison_id: Id
    rater_id: RaterId
    lease_id: str = Field(default="", max_length=300)
    tie_groups: tuple[tuple[Id, ...], ...] = Field(
        min_length=1, max_length=9, description="Best first; each candidate_id stands in exactly one group."
    )
    all_bad: bool = Field(default=False, description="None is acceptable; the order still counts.")
    strength: Strength = Field(default="unspecified", description="Of the best group over the rest.")
    axis_ratings: tuple[AxisRating, ...] = Field(default=(), max_length=1_000)
    comment: str = Field(default="", max_length=10_000)
    shown_at: Moment | None = Field(default=None, description="leased_at of the lease, unchanged in retries.")
    submitted_at: Moment | None = Field(default=None, description="When it was given, if it is sent later.")
    supersedes: EventId | None = Field(default=None, description="The vote of this rater that this one replaces.")


class RetractRequest(Model):
    """Takes a vote out of force."""

    event_id: EventId
    rater_id: RaterId
    reason: str = Field(default="", max_length=2_000)


class Retraction(Model):
    """Where in the order of events the retraction stands."""

    sequence: int


class Ranking(Model):
    """A vote as stored."""

    event_id: str
    sequence: int
    project_id: str
    comparison_id: str
    rater_id: str
    tie_groups: tuple[tuple[str, ...], ...]
    all_bad: bool
    strength: Strength
    axis_ratings: tuple[AxisRating, ...]
    comment: str
    shown_order: tuple[str, ...]
    shown_at: datetime | None
    submitted_at: datetime | None
    guideline_version: int
    supersedes: str
    late: bool = Field(description="The lease had expired; the vote counts as overlap.")
    client: str


class RankingPage(Model):
    """Votes in force, newest first."""

    rankings: tuple[Ranking, ...]
    next_page_token: str


class ProjectPage(Model):
    """Projects."""

    projects: tuple[Project, ...]
    next_page_token: str


class RaterStats(Model):
    """How much one rater did."""

    rater_id: str
    rankings: int
    median_seconds: float


class Stats(Model):
    """Where a project stands."""

    comparisons_open: int
    comparisons_complete: int
    rankings: int
    leases_active: int
    raters: tuple[RaterStats, ...]
    label_high_water_mark: int


class Stage(Model):
    """One step of a loop."""

    name: str
    state: str
    started_at: datetime | None
    finished_at: datetime | None
    run_id: str
    progress: float
    message: str


class Loop(Model):
    """A loop and its stages."""

    loop_id: str
    state: LoopState
    stages: tuple[Stage, ...]
    iteration: int
    iterations: int
    error: str
    created_at: datetime | None


class LoopPage(Model):
    """Loops."""

    loops: tuple[Loop, ...]
    next_page_token: str


class Run(Model):
    """One training job."""

    run_id: str
    loop_id: str
    kind: str
    state: str
    attempt: int
    output_uri: str
    created_at: datetime | None


class RewardModel(Model):
    """A registered reward model."""

    reward_model_version: int
    run_id: str
    project_id: str
    label_high_water_mark: int
    label_hash: str
    rankings: int
    heldout_accuracy: float
    noise_ceiling: float = Field(description="0 when unknown.")
    promoted: bool
    gate: str
    created_at: datetime | None


class RewardModelPage(Model):
    """Reward models."""

    reward_models: tuple[RewardModel, ...]
    next_page_token: str


class Event(Model):
    """Something that happened in a loop."""

    sequence: int
    time: datetime | None
    kind: str
    stage: str
    message: str
    values: dict[str, float]


class Sample(Model):
    """One completion with where it came from: shown on the loop page, never on the labelling page."""

    prompt: tuple[Message, ...]
    text: str
    policy_version: int
    truncated: bool
    run_id: str


class ServiceHealth(Model):
    """One process of the system."""

    service: str
    instance: str
    address: str
    state: Literal["up", "starting", "down"]
    detail: str


class ServiceList(Model):
    """The system's processes as the console sees them."""

    services: tuple[ServiceHealth, ...]


class Problem(Model):
    """An error as the REST answers carry it."""

    code: str = Field(description="A gRPC status name, such as INVALID_ARGUMENT.")
    reason: str = Field(description="A stable word for programs, may be empty.")
    field: str = Field(description="The field that is wrong, may be empty.")
    message: str = Field(description="A sentence for a person.")
