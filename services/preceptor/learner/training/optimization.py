"""AdamW, its schedule, and one guarded step."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from preceptor.learner.run_configs.base import OptimizerConfig


def build_optimizer(modules: Iterable[nn.Module], config: OptimizerConfig) -> torch.optim.AdamW:
    """Returns a fused AdamW over the modules' trainable parameters; vectors and embeddings do not decay."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for module in modules:
        embeddings = {id(p) for m in module.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
        for parameter in module.parameters():
            if parameter.requires_grad:
                (plain if parameter.ndim < 2 or id(parameter) in embeddings else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def learning_rate(config: OptimizerConfig, step: int, total_steps: int | None) -> float:
    """Returns the rate of optimiser step `step` (from 0) of total_steps; an unknown total keeps the peak rate."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant" or not total_steps:
        return config.learning_rate
    span = max(1, total_steps - config.warmup_steps)
    done = min(1.0, (step - config.warmup_steps) / span)
    shape = 1.0 - done if config.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return config.learning_rate * (config.final_fraction + (1.0 - config.final_fraction) * shape)


def guarded_step(optimizer: torch.optim.Optimizer, *, rate: float, max_grad_norm: float) -> float:
    """Clips the gradients' global norm, steps unless it is NaN or infinite, clears them.

    Returns the norm before clipping; if it is not finite, weights and optimiser state are untouched.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    total = nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    norm = float(total.full_tensor() if isinstance(total, DTensor) else total)
    if math.isfinite(norm):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def rng_state() -> dict[str, Any]:
    """Returns the state of torch's generators (CPU, and CUDA where there is one)."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_rng(state: dict[str, Any]) -> None:
    """Restores what rng_state returned; CUDA states only where their number fits."""
    torch.set_rng_state(state["cpu"])
    if len(state.get("cuda", [])) == torch.cuda.device_count() > 0:
        torch.cuda.set_rng_state_all(state["cuda"])
