"""Reads a run's YAML: `kind` says which config it is; paths in it are relative to the file.

The file itself, and any path in it, may be an address in an object store (s3://…): a local copy is read.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from preceptor.common.artifacts import ArtifactStore
from preceptor.common.errors import NotFound
from preceptor.common.yaml_config import load_yaml
from preceptor.learner.run_configs import DpoConfig, RewardConfig, SftConfig, resolve_paths
from preceptor.learner.run_configs.base import HUB_PREFIX, map_paths
from preceptor.learner.run_configs.rl import RlConfig

PlainConfig = SftConfig | RewardConfig | DpoConfig
AnyRunConfig = PlainConfig | RlConfig
_CONFIGS: dict[str, type[AnyRunConfig]] = {
    "sft": SftConfig,
    "reward": RewardConfig,
    "dpo": DpoConfig,
    "rl": RlConfig,
}


class _Kind(BaseModel):
    model_config = ConfigDict(extra="allow")
    kind: Literal["sft", "reward", "dpo", "rl"]


def load_run(path: str | Path) -> AnyRunConfig:
    """The run config in a YAML file, its relative paths resolved against the file's folder.

    Raises:
        NotFound: there is no such file.
        InvalidInput: naming file, line and field, and what is allowed.
    """
    path = Path(_fetched(str(path)))
    if not path.is_file():
        raise NotFound(f"no config file {path}", field="config")
    model = _CONFIGS[load_yaml(path, _Kind).kind]
    config = map_paths(resolve_paths(load_yaml(path, model), path.resolve().parent), _fetched)
    return _with_function_path(config, path.resolve().parent) if isinstance(config, RlConfig) else config


def _fetched(path: str) -> str:
    """The path itself, or that of a local copy of what an object store holds."""
    scheme, separator, _ = path.partition("://")
    if not separator or scheme == "file" or path.startswith(HUB_PREFIX):
        return path
    folder, _, name = path.rstrip("/").rpartition("/")
    return str(ArtifactStore(folder).local(name))


def _with_function_path(config: RlConfig, base: Path) -> RlConfig:
    """reward.function "file.py:name" is relative to the config file as well."""
    function = config.reward.function
    if function is None:
        return config
    file, _, name = function.rpartition(":")
    if not file.endswith(".py"):
        return config
    reward = config.reward.model_copy(update={"function": f"{base / Path(file).expanduser()}:{name}"})
    return config.model_copy(update={"reward": reward})
