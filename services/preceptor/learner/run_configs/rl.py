"""Config of an rl run: an algorithm against a reward model or a reward function, fed by rollout workers."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from preceptor.learner.run_configs.algorithms import (
    GrpoConfig,
    OnlineDpoConfig,
    ReinforceConfig,
    ReinforcePlusPlusConfig,
    RftConfig,
    RlooConfig,
)
from preceptor.learner.run_configs.base import CheckpointConfig, ConfigModel, PathText, RunConfig
from preceptor.learner.run_configs.evaluation import EvaluationConfig
from preceptor.learner.run_configs.guards import GuardsConfig, SelfCheckConfig
from preceptor.learner.run_configs.plugins import PLUGIN_SECTION, plugin_settings
from preceptor.learner.run_configs.ppo import PpoConfig
from preceptor.learner.run_configs.prompts import PromptSource, Turn
from preceptor.learner.run_configs.update import CriticConfig, UpdateConfig

__all__ = ["FeedbackShare", "PromptSource", "PublishConfig", "RewardSource", "RlConfig", "SamplingConfig", "Turn"]

# The section of the config that holds an algorithm's settings bears the algorithm's name.
SECTIONS = ("ppo", "grpo", "rloo", "reinforce_pp", "reinforce", "rft", "online_dpo")


class SamplingConfig(ConfigModel):
    """How completions are drawn. RL sampling has top_p 1, no top_k and no penalties, so there is no field for them."""

    temperature: float = Field(default=1.0, gt=0, le=100, description="Also divides the learner's logits.")
    max_tokens: int = Field(default=64, ge=1, le=131_072, description="Tokens per completion at most.")
    stop: tuple[str, ...] = Field(default=(), max_length=16, description="Strings that end a completion beside EOS.")


class RewardSource(ConfigModel):
    """What scores the completions, through RewardService."""

    name: str = Field(
        default="",
        max_length=200,
        description="Name in RewardService; empty: its current model, or the run id if function or model is set.",
    )
    function: str | None = Field(
        default=None,
        max_length=4096,
        description='Reward function, "package.module:function" or "path/to/file.py:function"; loaded at the start.',
    )
    model: PathText | None = Field(
        default=None, description="Reward model directory or artifact URI; loaded at the start under `name`."
    )

    @model_validator(mode="after")
    def _not_both(self) -> "RewardSource":
        if self.function is not None and self.model is not None:
            raise ValueError("give `function` or `model`, not both; without either, `name` must be loaded already")
        if self.function is not None and ":" not in self.function:
            raise ValueError('`function` must read "package.module:function" or "path/to/file.py:function"')
        return self


class FeedbackShare(ConfigModel):
    """Which live groups are offered to raters as comparisons."""

    project: str = Field(default="", max_length=63, description="Feedback project; empty: nothing is offered.")
    share: float = Field(default=0.0, ge=0, le=1, description="Share of the groups that is offered.")
    control_share: float = Field(
        default=0.0, ge=0, le=1, description="Share of the groups that is offered as the random control, always kept."
    )

    @model_validator(mode="after")
    def _consistent(self) -> "FeedbackShare":
        if self.share + self.control_share > 1:
            raise ValueError(f"share {self.share} + control_share {self.control_share} exceeds 1")
        if not self.project and self.share + self.control_share > 0:
            raise ValueError("share and control_share need `project`, the feedback project that takes the comparisons")
        return self


class PublishConfig(ConfigModel):
    """Policy versions in the artifact store."""

    keep_versions: int = Field(
        default=4, ge=2, le=100_000, description="Newest versions kept; those that checkpoints name stay as well."
    )
    keep_every: int = Field(
        default=0, ge=0, le=1_000_000, description="Versions that are multiples of this stay for good; 0: none."
    )
    timeout_s: float = Field(
        default=600.0, gt=0, le=86_400, description="Longest wait for the version before to be durable."
    )
    encoding: Literal["auto", "full", "delta"] = Field(
        default="full",
        description="full: each version is a plain Hugging Face folder; delta: lossless, to the version before; auto: "
        "as a delta where that halves it.",
    )
    full_every: int = Field(
        default=16, ge=1, le=1000, description="At least every so many versions one is stored whole; 1: all of them."
    )
    transports: tuple[Literal["shm", "grpc"], ...] = Field(
        default=("shm",),
        description="Faster ways beside the store, in order of preference: shm (same host), grpc (from the learner).",
    )


def _rl_checkpoints() -> CheckpointConfig:
    return CheckpointConfig(every_steps=10)


class RlConfig(RunConfig):
    """An algorithm on rollouts that generators and rollout workers stream to the learner."""

    kind: Literal["rl"] = Field(description="Which run this is.")
    model: PathText = Field(description="Initial policy: any Hugging Face causal LM directory; version 0 of the run.")
    reference: PathText | None = Field(default=None, description="Frozen policy that KL is taken to; default: `model`.")
    critic_init: PathText | None = Field(
        default=None, description="Reward model directory that the critic starts from; without it, the policy's trunk."
    )
    prompts: PromptSource = Field(description="What is asked.")
    reward: RewardSource = Field(default_factory=RewardSource, description="What scores.")
    batch_size: int = Field(default=128, ge=1, le=1_048_576, description="Rollouts per step.")
    group_size: int = Field(default=4, ge=1, le=4096, description="Rollouts per prompt group; divides batch_size.")
    total_steps: int = Field(ge=1, le=10_000_000, description="Steps of the run.")
    max_staleness: int = Field(
        default=1,
        ge=0,
        le=1024,
        description="Batches issued ahead of the one in training. 0: synchronous, every token by the newest version.",
    )
    staleness: Literal["wait", "drop", "down_weight"] = Field(
        default="wait",
        description="wait: requests wait for weights within max_staleness and every group is trained, however long it "
        "took; drop: requests wait for nothing and a group older than max_staleness is given up; down_weight: requests "
        "wait for nothing and a group older than max_staleness counts for less (staleness_decay).",
    )
    staleness_decay: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="down_weight: each step beyond max_staleness multiplies a group's weight in the policy loss by it.",
    )
    in_flight: Literal["adaptive", "fixed"] = Field(
        default="adaptive",
        description="Rollouts issued and not yet trained. adaptive: the fewest that keep the learner busy, from "
        "batch_size to (max_staleness + 1) * batch_size; fixed: always the most.",
    )
    max_wait_share: float = Field(
        default=0.02,
        gt=0,
        lt=1,
        description="in_flight adaptive: share of a step that the learner may wait before more is issued.",
    )
    sampling: SamplingConfig = Field(default_factory=SamplingConfig, description="How completions are drawn.")
    attempt_deadline_s: float = Field(
        default=300.0, gt=0, le=86_400, description="A group without a result after this is sent again."
    )
    straggler_factor: float = Field(
        default=4.0,
        ge=0,
        le=1000,
        description="A group that takes this many times as long as three in four of the recent ones (and 5 s at least) "
        "while later ones arrive, or twice that while none does, is sent again before its deadline, once; 0: never.",
    )
    max_attempts: int = Field(default=4, ge=1, le=100, description="Attempts per group before it is abandoned.")
    retry_backoff_s: float = Field(
        default=1.0, ge=0, le=3600, description="Wait before a failed group is sent again; doubles per attempt."
    )
    critic_warmup_steps_after_switch: int = Field(
        default=0, ge=0, le=100_000, description="Steps of critic-only training after the reward model's version rose."
    )
    feedback: FeedbackShare = Field(default_factory=FeedbackShare, description="What raters get to see.")
    algorithm: str = Field(
        default="ppo",
        min_length=1,
        max_length=200,
        description="ppo, grpo, rloo, reinforce_pp, reinforce, rft or online_dpo, with settings in the section of that "
        "name; or a plug-in, with settings in `settings`: its entry point's name in the group preceptor.algorithms, or "
        '"package.module:Class".',
    )
    ppo: PpoConfig | None = Field(
        default=None,
        description="PPO's settings. Its batch_size, temperature and max_tokens are this run's (so in every section).",
    )
    grpo: GrpoConfig | None = Field(default=None, description="GRPO's settings (also DAPO's and Dr. GRPO's).")
    rloo: RlooConfig | None = Field(default=None, description="RLOO's settings.")
    reinforce_pp: ReinforcePlusPlusConfig | None = Field(default=None, description="REINFORCE++'s settings.")
    reinforce: ReinforceConfig | None = Field(default=None, description="REINFORCE's settings.")
    rft: RftConfig | None = Field(default=None, description="Best-of-n's and rejection sampling's settings.")
    online_dpo: OnlineDpoConfig | None = Field(default=None, description="Online DPO's settings.")
    settings: dict[str, Any] | None = Field(default=None, description="A plug-in algorithm's settings.")
    publish: PublishConfig = Field(default_factory=PublishConfig, description="Policy versions in the store.")
    checkpoint: CheckpointConfig = Field(
        default_factory=_rl_checkpoints, description="Also bounds the rollouts that wait for acknowledgement."
    )
    record: PathText | None = Field(
        default=None, description="File that every trained batch is written to (JSONL), for `replay`."
    )
    replay: PathText | None = Field(
        default=None,
        description="A recording to train on instead of live rollouts: no generator, no reward service, no Redis.",
    )
    evaluation: EvaluationConfig | None = Field(default=None, description="Held-out prompts during training; null: no.")
    guards: GuardsConfig = Field(default_factory=GuardsConfig, description="What the run watches of itself.")
    self_check: SelfCheckConfig = Field(
        default_factory=SelfCheckConfig, description="An update with learning rate 0 at the start; true: the defaults."
    )
    log_every_steps: int = Field(default=1, ge=1, le=1_000_000, description="Steps between lines of metrics.jsonl.")

    @property
    def groups_per_batch(self) -> int:
        return self.batch_size // self.group_size

    @property
    def reward_name(self) -> str:
        """The name under which RewardService knows the scorer; empty: its current one."""
        if self.reward.name or (self.reward.function is None and self.reward.model is None):
            return self.reward.name
        return self.run_id

    @property
    def update(self) -> UpdateConfig:
        """The chosen algorithm's settings."""
        if self.algorithm in SECTIONS:
            chosen: UpdateConfig = getattr(self, self.algorithm)
            return chosen
        return plugin_settings(self.algorithm, self.settings or {})

    @model_validator(mode="before")
    @classmethod
    def _fill_settings(cls, values: Any) -> Any:
        """The update's batch size, temperature, lengths and critic follow the run unless they are written out."""
        if not isinstance(values, Mapping):
            return values
        name = values.get("algorithm", "ppo")
        section = name if name in SECTIONS else PLUGIN_SECTION
        given = values.get(section)
        if not isinstance(given, Mapping | None):
            return values
        update, sampling = dict(given or {}), values.get("sampling", {})
        update.setdefault("batch_size", values.get("batch_size", cls.model_fields["batch_size"].default))
        sampling = sampling if isinstance(sampling, Mapping) else {}
        update.setdefault("temperature", sampling.get("temperature", 1.0))
        update.setdefault("max_tokens", sampling.get("max_tokens", SamplingConfig.model_fields["max_tokens"].default))
        update.setdefault("total_updates", values.get("total_steps"))
        if name == "ppo":
            update.setdefault("critic", "policy" if values.get("critic_init") is None else "reward_model")
        return {**values, section: update}

    @model_validator(mode="after")
    def _one_section(self) -> "RlConfig":
        section = self.algorithm if self.algorithm in SECTIONS else PLUGIN_SECTION
        for other in (*SECTIONS, PLUGIN_SECTION):
            if other != section and getattr(self, other) is not None:
                raise ValueError(
                    f"`{other}` has settings, but algorithm is {self.algorithm}: remove the section"
                    + ("" if other == PLUGIN_SECTION else f", or say algorithm: {other}")
                )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> "RlConfig":
        if self.batch_size % self.group_size:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of group_size {self.group_size}")
        self._check_update(self.update)
        if self.evaluation is not None and self.replay is not None:
            raise ValueError("evaluation asks generators, and with replay there are none: leave one of them out")
        if self.record is not None and self.replay is not None:
            raise ValueError("record writes down live rollouts, and with replay there are none: leave one of them out")
        if self.critic_warmup_steps_after_switch and self.reward.function is not None:
            raise ValueError("critic_warmup_steps_after_switch has no effect with reward.function: it has no versions")
        return self

    def _check_update(self, update: UpdateConfig) -> None:
        section = self.algorithm if self.algorithm in SECTIONS else PLUGIN_SECTION
        for name, own in (
            ("batch_size", self.batch_size),
            ("temperature", self.sampling.temperature),
            ("max_tokens", self.sampling.max_tokens),
        ):
            if getattr(update, name) != own:
                run_field = name if name == "batch_size" else f"sampling.{name}"
                raise ValueError(f"{section}.{name} {getattr(update, name)} differs from {run_field} {own}")
        if self.staleness == "down_weight" and not update.is_weighted:
            raise ValueError(
                f"staleness: down_weight weights policy gradients; {self.algorithm}'s loss is none: take wait"
            )
        self._check_critic(update, section)
        self._check_group(update, section)

    def _check_critic(self, update: UpdateConfig, section: str) -> None:
        if not isinstance(update, CriticConfig):
            if self.critic_init is not None:
                raise ValueError(f"critic_init is set, but {self.algorithm} has no critic: remove it, or take ppo")
            if self.critic_warmup_steps_after_switch:
                raise ValueError(
                    f"critic_warmup_steps_after_switch trains the critic alone, but {self.algorithm} has none: "
                    "set it to 0"
                )
        elif update.critic == "reward_model" and self.critic_init is None:
            raise ValueError(f"{section}.critic is reward_model, so critic_init must name a reward model directory")
        elif update.critic != "reward_model" and self.critic_init is not None:
            raise ValueError(
                f"critic_init is set, so {section}.critic must be reward_model (or leave one of them out), "
                f"not {update.critic}"
            )

    def _check_group(self, update: UpdateConfig, section: str) -> None:
        by_group = update.compares_group or getattr(update, "baseline", None) == "group"
        if by_group and self.group_size == 1:
            raise ValueError(
                f"group_size 1: {self.algorithm} compares the rollouts of a group, so every advantage would be 0; "
                "take 2 or more, or an algorithm without a group baseline (ppo, reinforce_pp, reinforce)"
            )
        top_k = getattr(update, "top_k", 1)
        if top_k > self.group_size:
            raise ValueError(f"{section}.top_k {top_k} exceeds group_size {self.group_size}")
