"""Updates that must change nothing: learning rate 0, and digests that show it."""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from blake3 import blake3
from pydantic import BaseModel
from torch import Tensor

from preceptor.learner.run_configs.base import OptimizerConfig

ConfigT = TypeVar("ConfigT", bound=BaseModel)


def with_learning_rate_zero(config: ConfigT) -> ConfigT:
    """Returns the config with every optimiser in it at learning rate 0."""
    zeroed = {
        name: value.model_copy(update={"learning_rate": 0.0})
        for name in type(config).model_fields
        if isinstance(value := getattr(config, name), OptimizerConfig)
    }
    return config.model_copy(update=zeroed)


def tensor_digests(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Returns BLAKE3 of shape, type and bytes of every tensor in nested mappings, by dotted name."""
    digests: dict[str, str] = {}
    for name, value in tree.items():
        if isinstance(value, Tensor):
            plain = value.detach().cpu().contiguous()
            digest = blake3(f"{plain.dtype} {tuple(plain.shape)} ".encode())
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
            digests[prefix + name] = digest.hexdigest()
        elif isinstance(value, Mapping):
            digests |= tensor_digests(value, f"{prefix}{name}.")
    return digests
