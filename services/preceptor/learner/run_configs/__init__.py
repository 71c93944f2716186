"""Run configs: pydantic models of the YAML that `preceptor train` takes. Imports no torch."""

from preceptor.learner.run_configs.base import (
    CheckpointConfig,
    ConfigModel,
    ModelSource,
    OptimizerConfig,
    RunConfig,
    map_paths,
    resolve_paths,
)
from preceptor.learner.run_configs.dpo import DpoConfig
from preceptor.learner.run_configs.ppo import CorrectionConfig, KlConfig, PpoConfig
from preceptor.learner.run_configs.reward import LabelSnapshot, RewardConfig, RewardData
from preceptor.learner.run_configs.sft import SftConfig

__all__ = [
    "CheckpointConfig",
    "ConfigModel",
    "CorrectionConfig",
    "DpoConfig",
    "KlConfig",
    "LabelSnapshot",
    "ModelSource",
    "OptimizerConfig",
    "PpoConfig",
    "RewardConfig",
    "RewardData",
    "RunConfig",
    "SftConfig",
    "map_paths",
    "resolve_paths",
]
