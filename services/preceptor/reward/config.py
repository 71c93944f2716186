"""Settings of the reward service."""

import re
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from preceptor.common.config import ServiceSettings
from preceptor.reward.types import ModelSpec, RewardKind

_ENTRY = re.compile(r"^(?P<name>[a-z0-9][a-z0-9._-]{0,62})=(?P<uri>[^,]+?)(?:@(?P<version>\d+))?$")
_FUNCTION = re.compile(r"^(?:[\w./ -]+\.py|[A-Za-z_][\w.]*):[A-Za-z_]\w*$")


class RewardSettings(ServiceSettings):
    """`PRECEPTOR_REWARD_<FIELD>`."""

    model_config = SettingsConfigDict(env_prefix="PRECEPTOR_REWARD_")

    port: int = 7110
    metrics_port: int = 7210
    advertised_host: str = ""
    """The host that clients reach this process at; empty: its own."""
    models: str = ""
    """Loaded at start: a comma list of name=uri[@version]; a uri is a model folder's address (relative: in the artifact
    store), a function (package.module:function, path/file.py:function, entrypoint:name), an http(s) address that
    scores, or composite:how(name|name|…) of names before it in the list, how being sum (terms may read 0.3*name), mean,
    min or uwo=lambda."""
    current: str = ""
    """The name that answers to the empty one; by default the first of `models`."""
    allow_functions: bool = True
    """Whether LoadModel may name Python code."""
    max_batch_items: Annotated[int, Field(ge=1, le=4096)] = 64
    max_batch_tokens: Annotated[int, Field(ge=1)] = 65_536
    max_wait_ms: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """How long an idle model waits for a batch to fill. 0 is right where requests come side by side: what arrives while
    a forward runs is the next batch."""
    max_padding: Annotated[float, Field(ge=0, le=1)] = 0.1
    """The share of a batch that may be padding, once it holds enough_tokens. 1: texts of any lengths go together."""
    enough_tokens: Annotated[int, Field(ge=0)] = 1024
    """How many tokens keep the device busy: on a GPU rather 16384."""
    max_queue_items: Annotated[int, Field(ge=1)] = 4096
    max_request_items: Annotated[int, Field(ge=1)] = 1024
    max_input_tokens: Annotated[int, Field(ge=0)] = 0
    """The longest prompt plus completion; 0 is the model's own context."""
    truncate_prompts: bool = False
    """Drop the beginning of a prompt that is too long, instead of refusing it."""
    function_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    function_threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Calls of one reward function at a time; above 1 the function must be thread-safe."""
    remote_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """The longest wait for one answer of a remote reward."""
    remote_concurrency: Annotated[int, Field(ge=1, le=1024)] = 16
    """Requests to one remote reward at a time."""
    sync_interval_s: Annotated[float, Field(gt=0, le=3600)] = 2.0
    """How often a server looks for what another one was told to load; a name it does not know makes it look at once."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<n>."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: float32 on a CPU, the checkpoint's own on a GPU."""

    @field_validator("models")
    @classmethod
    def _models_are_readable(cls, value: str) -> str:
        names = [spec.name for spec in parse_models(value)]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f'the name "{name}" stands there twice')
        return value

    @field_validator("current")
    @classmethod
    def _current_is_a_model(cls, value: str, info: ValidationInfo) -> str:
        names = [spec.name for spec in parse_models(info.data.get("models", ""))]
        if value and value not in names:
            raise ValueError(f"it is not in PRECEPTOR_REWARD_MODELS ({', '.join(names) or 'which is empty'})")
        return value

    @field_validator("max_request_items")
    @classmethod
    def _a_request_fits_the_queue(cls, value: int, info: ValidationInfo) -> int:
        queue = info.data.get("max_queue_items", value)
        if value > queue:
            raise ValueError(f"it must not exceed PRECEPTOR_REWARD_MAX_QUEUE_ITEMS ({queue})")
        return value

    @property
    def specs(self) -> tuple[ModelSpec, ...]:
        """`models`, parsed."""
        return parse_models(self.models)

    @property
    def initial_current(self) -> str:
        """The name that is current until a call says otherwise; empty when nothing is loaded at start."""
        return self.current or next((spec.name for spec in self.specs), "")


def parse_models(text: str) -> tuple[ModelSpec, ...]:
    """Specs of a comma list of name=uri[@version]. Raises ValueError naming the entry at fault."""
    return tuple(_parse_entry(entry.strip()) for entry in text.split(",") if entry.strip())


def kind_of(uri: str) -> RewardKind:
    """composite:… and http(s)://… say it; package.module:function and path/file.py:function are functions."""
    if uri.startswith("composite:"):
        return RewardKind.COMPOSITE
    if uri.startswith(("http://", "https://")):
        return RewardKind.REMOTE
    return RewardKind.FUNCTION if _FUNCTION.match(uri) else RewardKind.MODEL


def _parse_entry(entry: str) -> ModelSpec:
    match = _ENTRY.match(entry)
    if match is None:
        raise ValueError(f'models entry "{entry}" is not name=uri[@version], with a name of lower case, digits and .-_')
    uri = match["uri"].strip()
    return ModelSpec(match["name"], kind_of(uri), uri, int(match["version"] or 0))
