"""The YAML of a loop. Run configs stand in it as mappings: the learner validates them, the conductor fills in what it
alone knows (ids, the model a run starts from, the labels)."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from preceptor.conductor.types import StageKind, StagePlan

RunMapping = Annotated[dict[str, Any], Field(description="Fields of the run's own config, without run_id and kind.")]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SftStage(_Model):
    """Supervised fine-tuning before the loop."""

    run: RunMapping


class CollectStage(_Model):
    """Comparisons sampled from the policy before the first reward model, and whenever none is left to rank."""

    n: int = Field(default=4, ge=2, le=9, description="Candidates per comparison.")
    max_tokens: int = Field(default=64, ge=1, le=65_536, description="Tokens per completion at most.")
    temperature: float = Field(default=1.0, gt=0, le=10, description="Sampling temperature.")
    comparisons: int = Field(default=500, ge=1, le=1_000_000, description="Comparisons to mint.")
    full_overlap_share: float = Field(default=0.2, ge=0, le=1, description="Share ranked by full_overlap raters.")
    full_overlap: int = Field(default=3, ge=1, le=100, description="Rankings wanted of that share; the rest get one.")
    concurrency: int = Field(default=16, ge=1, le=512, description="Prompts generated at a time.")


class LabelStage(_Model):
    """Waiting for people."""

    targets: tuple[int, ...] = Field(min_length=1, description="Rankings in force before each iteration's reward run.")
    timeout_s: float = Field(default=86_400, gt=0, description="Longest wait for one target.")

    @model_validator(mode="after")
    def _targets_grow(self) -> "LabelStage":
        if any(t < 1 for t in self.targets) or any(b < a for a, b in zip(self.targets, self.targets[1:], strict=False)):
            raise ValueError("targets count all rankings so far: each must be at least 1 and none below the one before")
        return self


class GateConfig(_Model):
    """What a reward model must show before it may be promoted."""

    min_heldout_accuracy: float = Field(default=0.55, ge=0, le=1, description="Share of held-out preferences.")
    min_score_sd: float = Field(
        default=0.25,
        ge=0,
        description="Spread of the raw scores, which are log-odds: below it the model is hardly sure of anything, and "
        "normalising it to sd 1 would blow up noise.",
    )
    min_ceiling_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Held-out accuracy over chance, as a share of what rater noise leaves to reach (the card's "
        "noise_ceiling, which needs comparisons that two raters ranked; without one nothing is asked). 0: not asked.",
    )
    max_ece: float = Field(
        default=1.0, gt=0, le=1, description="Expected calibration error on held-out preferences at most; 1: not asked."
    )
    max_accuracy_drop: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="How far held-out accuracy may fall below that of the version that serves; 1: any.",
    )
    probe: str | None = Field(
        default=None, description="JSONL of {prompt, chosen, rejected} with known order: catches a flipped sign."
    )
    min_probe_accuracy: float = Field(default=0.7, ge=0, le=1, description="Share of the probe's pairs.")


class RewardStage(_Model):
    """Training and gating reward models."""

    run: RunMapping
    gate: GateConfig = Field(default_factory=GateConfig)


class RlStage(_Model):
    """The rl run that goes on through all iterations."""

    run: RunMapping
    steps: tuple[int, ...] = Field(min_length=1, description="Steps done in all at the end of each iteration.")

    @model_validator(mode="after")
    def _steps_grow(self) -> "RlStage":
        if any(s < 1 for s in self.steps) or any(b <= a for a, b in zip(self.steps, self.steps[1:], strict=False)):
            raise ValueError("steps count from the run's start: each must exceed the one before")
        return self


class ProjectConfig(_Model):
    """The feedback project that the loop creates, unless it exists."""

    project_id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    title: str = Field(default="", max_length=200)
    guidelines: str = Field(default="", max_length=100_000, description="Markdown, shown to raters.")


class LoopConfig(_Model):
    """A loop: what is trained on what, how often, and when it goes on."""

    project: ProjectConfig
    iterations: int = Field(default=1, ge=1, le=1000)
    seed: int = Field(default=0, ge=0, lt=2**31)
    prompts: str = Field(min_length=1, description='JSONL file of {"prompt", "prompt_id"?}.')
    initial_model: str | None = Field(default=None, description="Model directory to start from, instead of an sft run.")
    sft: SftStage | None = None
    collect: CollectStage = Field(default_factory=CollectStage)
    labels: LabelStage
    reward: RewardStage
    rl: RlStage | None = Field(default=None, description="Absent: reward models alone, the policy stays.")

    @model_validator(mode="after")
    def _one_start(self) -> "LoopConfig":
        if (self.sft is None) == (self.initial_model is None):
            raise ValueError("give exactly one of `sft` (a run) and `initial_model` (a directory)")
        return self

    @model_validator(mode="after")
    def _one_target_per_iteration(self) -> "LoopConfig":
        for name, values in (("labels.targets", self.labels.targets), ("rl.steps", self.rl.steps if self.rl else None)):
            if values is not None and len(values) != self.iterations:
                raise ValueError(f"{name} has {len(values)} entries; it needs one per iteration: {self.iterations}")
        return self


def plan(config: LoopConfig) -> tuple[StagePlan, ...]:
    """The loop's stages in order."""
    stages = [
        StagePlan(k.value, k, 1) for k in (StageKind.SFT, StageKind.PUBLISH) if k is not StageKind.SFT or config.sft
    ]
    for i in range(1, config.iterations + 1):
        kinds = [StageKind.LABELS, StageKind.REWARD, StageKind.PROMOTE]
        if i == 1 or config.rl is None:
            kinds.insert(0, StageKind.COLLECT)
        if config.rl is not None:
            kinds.append(StageKind.RL)
        stages += [StagePlan(f"{kind.value}-{i}", kind, i) for kind in kinds]
    return tuple(stages)
