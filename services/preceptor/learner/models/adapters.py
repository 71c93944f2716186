"""LoRA through peft: adapters inside a Hugging Face model, switched off for the reference, merged for export."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from preceptor.common.errors import InvalidInput
from preceptor.learner.run_configs.base import LoraSettings

_ADAPTER = "default"
_BASE = ".base_layer."


def add_adapters(model: PreTrainedModel, settings: LoraSettings) -> None:
    """Puts adapters into the model's linear layers, drawn from the global RNG; every other weight is frozen.

    Raises:
      InvalidInput: no layer has one of the names in `lora.targets`.
    """
    targets = list(settings.targets) or linear_layers(model)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        target_modules=targets,
        fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in model.modules()),
    )
    model.requires_grad_(False)
    try:
        inject_adapter_in_model(config, model, adapter_name=_ADAPTER)
    except ValueError as error:
        raise InvalidInput(f"lora.targets: {str(error).splitlines()[0]}", field="lora.targets") from error
    score = getattr(model, "score", None)
    if isinstance(score, nn.Linear):  # a reward model's new head says nothing before it is trained
        score.requires_grad_(True)


def linear_layers(model: PreTrainedModel) -> list[str]:
    """Returns the full names of the trunk's linear layers (GPT-2's Conv1D among them)."""
    heads = {id(model.get_output_embeddings()), id(getattr(model, "score", None))}
    return [
        name
        for name, module in model.named_modules()
        if (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D") and id(module) not in heads
    ]


def has_adapters(model: nn.Module) -> bool:
    """Whether add_adapters was called on it."""
    return any(isinstance(module, LoraLayer) for module in model.modules())


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Within it the model computes what it did before its adapters were added. For use without gradient."""
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        layer._disable_adapters = True  # enable_adapters(False) would also freeze them
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def adapter_config(model: nn.Module, settings: LoraSettings) -> dict[str, object]:
    """Returns the content of adapter_config.json for the adapters of a causal LM."""
    names = sorted({name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, LoraLayer)})
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": 0.0,
        "target_modules": names,
        "bias": "none",
        "fan_in_fan_out": any(_is_transposed(m) for m in model.modules() if isinstance(m, LoraLayer)),
        "base_model_name_or_path": None,
        "inference_mode": True,
    }


def adapter_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yields the adapters under the names of a peft folder, whole, on the CPU; a collective call."""
    for name, tensor in model.state_dict().items():
        if f".{_ADAPTER}.weight" in name:
            yield "base_model.model." + name.replace(f".{_ADAPTER}.", "."), whole(tensor)


def merged_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yields the state dict under its Hugging Face names, one whole tensor on the CPU at a time, adapters merged in.

    In layer order; with several ranks a collective call that gathers one tensor after the other.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    for name, tensor in model.state_dict().items():
        if f".{_ADAPTER}." in name:
            continue
        owner, found, rest = name.partition(_BASE)
        weight = whole(tensor)
        if found and rest == "weight":
            weight = weight + _delta(layers[owner]).to(weight.dtype)
        yield (f"{owner}.{rest}" if found else name), weight


@torch.no_grad()
def whole(tensor: Tensor) -> Tensor:
    """Returns the whole tensor on the CPU; a collective call where it is sharded."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().cpu()


@torch.no_grad()
def _delta(layer: LoraLayer) -> Tensor:
    up, down = whole(layer.lora_B[_ADAPTER].weight), whole(layer.lora_A[_ADAPTER].weight)
    delta = (up @ down) * layer.scaling[_ADAPTER]
    return delta.T if _is_transposed(layer) else delta


def _is_transposed(layer: LoraLayer) -> bool:
    return bool(getattr(layer, "fan_in_fan_out", False))
