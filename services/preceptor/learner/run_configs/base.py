"""What every run config shares: identity, model source, optimiser, checkpoints."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

_PATH = object()  # marks the annotation of fields that `resolve_paths` changes
# A path relative to the config file, an absolute path, or an artifact URI (file://…, s3://…).
PathText = Annotated[str, Field(min_length=1, max_length=4096), _PATH]

RUN_ID_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}$"
HUB_PREFIX = "hub:"


class ConfigModel(BaseModel):
    """Frozen; an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSource(ConfigModel):
    """Where the weights come from: `path`, or `init` for new weights drawn from a Hugging Face config."""

    path: PathText | None = Field(
        default=None, description="Hugging Face model directory or artifact URI; `hub:org/name` asks the hub."
    )
    init: dict[str, Any] | None = Field(
        default=None,
        description="Fields of a Hugging Face config with `model_type` (e.g. llama, gpt2): weights are drawn anew with "
        "the run's seed; vocab_size and special ids follow the tokenizer.",
    )
    tokenizer: PathText | None = Field(default=None, description="Tokenizer directory; default: `path`.")

    @model_validator(mode="after")
    def _one_source(self) -> "ModelSource":
        if (self.path is None) == (self.init is None):
            raise ValueError("give exactly one of `path` (existing weights) and `init` (new weights from a config)")
        if self.init is not None and "model_type" not in self.init:
            raise ValueError("`init` needs `model_type`, for example llama or gpt2")
        if self.init is not None and self.tokenizer is None:
            raise ValueError("`init` needs `tokenizer`, a directory with a Hugging Face tokenizer")
        return self


class OptimizerConfig(ConfigModel):
    """AdamW and its schedule."""

    learning_rate: float = Field(default=3e-5, ge=0, le=1, description="Peak learning rate.")
    betas: tuple[float, float] = Field(default=(0.9, 0.95), description="AdamW's betas, each in [0, 1).")
    eps: float = Field(default=1e-8, gt=0, le=1e-2, description="AdamW's epsilon.")
    weight_decay: float = Field(default=0.0, ge=0, le=10, description="Decoupled; not on biases, norms, embeddings.")
    max_grad_norm: float = Field(
        default=1.0, gt=0, le=1e6, description="Global L2 norm at which gradients are clipped."
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(default="constant", description="After the warm-up.")
    warmup_steps: int = Field(default=0, ge=0, le=1_000_000, description="Optimiser steps of linear warm-up.")
    final_fraction: float = Field(
        default=0.0, ge=0, le=1, description="Share of the peak rate left at the end of linear and cosine schedules."
    )

    @model_validator(mode="after")
    def _betas_below_one(self) -> "OptimizerConfig":
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("betas must each lie in [0, 1)")
        return self


class CheckpointConfig(ConfigModel):
    """When the run's state is made durable."""

    every_steps: int = Field(default=200, ge=1, le=1_000_000, description="Optimiser steps between checkpoints.")
    keep: int = Field(default=2, ge=1, le=1000, description="Newest checkpoints kept.")
    best_metric: str = Field(
        default="",
        max_length=200,
        description="The checkpoint with the best value of this metric is kept as well, e.g. eval/loss; empty: none.",
    )
    best_is: Literal["highest", "lowest"] = Field(default="highest", description="Which value of best_metric is best.")


class LoraSettings(ConfigModel):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) instead of training every weight."""

    rank: int = Field(default=16, ge=1, le=4096, description="Rank of each adapter.")
    alpha: float = Field(default=32.0, gt=0, le=1e5, description="Adapters are scaled by alpha / rank.")
    targets: tuple[str, ...] = Field(
        default=(), max_length=1000, description="Names of the linear layers that get one; empty: all but the head."
    )
    critic: bool = Field(
        default=False, description="rl: also on the critic's trunk, which is frozen then; its value head is trained."
    )


class EngineConfig(ConfigModel):
    """How models are run: what it costs, not what comes out."""

    packing: Literal["auto", "off"] = Field(
        default="auto",
        description="auto: sequences lie end to end without padding where the model gives the same numbers so (checked "
        "when it is loaded); off: right-padded, sorted by length.",
    )
    activation_checkpointing: bool = Field(
        default=False, description="Keep only each layer's input and compute the layer again in the backward pass."
    )
    compile: bool = Field(
        default=False, description="torch.compile each layer: slow first steps; needs a C++ compiler on CPU."
    )


class ProfileConfig(ConfigModel):
    """Steps that torch's profiler looks at: profile/{trace.json (Chrome), operators.txt, phases.txt} of the run."""

    steps: tuple[int, int] = Field(description="First and last step, from 1; each costs time and memory.")

    @model_validator(mode="after")
    def _in_order(self) -> "ProfileConfig":
        if not 1 <= self.steps[0] <= self.steps[1] <= self.steps[0] + 99:
            raise ValueError(f"profile.steps must be [first, last], from 1 on and at most 100 steps, not {self.steps}")
        return self


class WandbConfig(ConfigModel):
    """Weights & Biases beside metrics.jsonl and TensorBoard; needs the package `wandb`."""

    project: str = Field(min_length=1, max_length=128, description="Project.")
    entity: str | None = Field(default=None, max_length=128, description="User or team; null: the account's own.")
    mode: Literal["online", "offline"] = Field(default="online", description="offline: written into the run's folder.")


class RunConfig(ConfigModel):
    """Base of every run."""

    run_id: str = Field(pattern=RUN_ID_PATTERN, description="Name of the run: lower case, digits, dashes; at most 63.")
    seed: int = Field(default=0, ge=0, lt=2**31, description="Seeds weights, data order and sampling.")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: cuda where there is one.")
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Precision of forward and backward; weights and optimiser stay float32."
    )
    engine: EngineConfig = Field(default_factory=EngineConfig, description="How models are run.")
    lora: LoraSettings | None = Field(
        default=None, description="Adapters on the model that is trained; null: all of it."
    )
    frozen: tuple[str, ...] = Field(
        default=(),
        max_length=1000,
        description="Parameters whose names start with one of these are not trained and need no optimiser state.",
    )
    threads: int = Field(default=0, ge=0, le=1024, description="torch threads; 0 leaves torch's choice.")
    log_every_steps: int = Field(default=10, ge=1, le=1_000_000, description="Steps between lines of metrics.jsonl.")
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    profile: ProfileConfig | None = Field(default=None, description="Steps to profile; null: none.")
    wandb: WandbConfig | None = Field(default=None, description="Curves to Weights & Biases as well; null: no.")


ConfigT = TypeVar("ConfigT", bound=BaseModel)


def map_paths(config: ConfigT, change: Callable[[str], str]) -> ConfigT:
    """Returns a copy in which every `PathText` value is change(value)."""
    changes = {
        name: _mapped(getattr(config, name), change, is_path=_PATH in info.metadata or _has_path(info.annotation))
        for name, info in type(config).model_fields.items()
    }
    return config.model_copy(update=changes)


def resolve_paths(config: ConfigT, base: Path) -> ConfigT:
    """Returns a copy whose relative `PathText` values are absolute below base; URIs and hub ids stay as they are."""

    def absolute(value: str) -> str:
        if "://" in value or value.startswith(HUB_PREFIX):
            return value
        return str(base / Path(value).expanduser())

    return map_paths(config, absolute)


def _mapped(value: Any, change: Callable[[str], str], *, is_path: bool) -> Any:
    if isinstance(value, BaseModel):
        return map_paths(value, change)
    if isinstance(value, tuple):
        return tuple(_mapped(item, change, is_path=is_path) for item in value)
    return change(value) if is_path and isinstance(value, str) else value


def _has_path(annotation: Any) -> bool:
    return any(argument is _PATH or _has_path(argument) for argument in get_args(annotation))
