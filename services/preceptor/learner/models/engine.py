"""Makes a model ready to be run: packing, adapters, frozen parts, recomputed activations, compiled and sharded layers.

bfloat16 means autocast over float32 weights: the float32 weights are the master copy that AdamW steps, matrix products
run in bfloat16, norms and softmax in float32. One process and several ranks then compute the same numbers, which
parameters cast as a whole would not.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from preceptor.common.errors import InvalidInput
from preceptor.common.telemetry import get_logger
from preceptor.learner.distributed.ranks import Ranks
from preceptor.learner.distributed.sharding import shard
from preceptor.learner.models.adapters import add_adapters
from preceptor.learner.models.batching import TokenBatch, TokenRow, empty_batch, micro_batches
from preceptor.learner.models.forward import precision
from preceptor.learner.models.packing import enable_packing
from preceptor.learner.run_configs.base import EngineConfig, LoraSettings

log = get_logger(__name__)


@dataclass
class Engine:
    """How this process runs its models. packed: whether every model that was made ready takes packed rows."""

    config: EngineConfig = field(default_factory=EngineConfig)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: str = "float32"
    ranks: Ranks = field(default_factory=Ranks)
    packed: bool = True

    def ready(
        self, module: nn.Module, *, lora: LoraSettings | None = None, frozen: Sequence[str] = (), trained: bool = True
    ) -> None:
        """Makes `module`, which holds a Hugging Face model as `.model`, ready on the device.

        Raises:
          InvalidInput: `frozen` or `lora.targets` names nothing, or nothing is left to train.
        """
        module.to(self.device)
        model: PreTrainedModel = module.model  # type: ignore[assignment]
        can_pack = self.config.packing == "auto" and enable_packing(model)
        if self.config.packing == "auto" and not can_pack:
            log.info("the model takes no packed rows; padding instead", model=type(model).__name__)
        self.packed = self.packed and can_pack
        if not trained:
            module.requires_grad_(False)
        else:
            _freeze(module, model, frozen)
            if lora is not None:
                add_adapters(model, lora)
        if trained and self.config.activation_checkpointing:
            _recompute_activations(model)
        layers = decoder_layers(model)
        if self.config.compile:
            for layer in layers:
                layer.compile(dynamic=True)
        if self.ranks.size > 1:
            shard(module, layers, self.ranks)

    def precision(self) -> AbstractContextManager[object]:
        """Returns the context of a forward pass."""
        return precision(self.device, self.dtype)

    def micro_batches(
        self, rows: Sequence[TokenRow], max_tokens: int, pad_id: int, *, places: Sequence[int] | None = None
    ) -> list[TokenBatch]:
        """Returns this rank's share of `rows` (of those at `places`) as micro-batches on the device.

        Ranks get about the same number of tokens, and the same number of micro-batches: the last ones may be empty.
        """
        chosen = list(range(len(rows)) if places is None else places)
        shares = self.ranks.share([len(rows[i].token_ids) for i in chosen]) if self.ranks.size > 1 else None
        if shares is None:
            mine = micro_batches(rows, max_tokens, pad_id, packed=self.packed, places=chosen)
        else:
            plans = [
                micro_batches(rows, max_tokens, pad_id, packed=self.packed, places=[chosen[i] for i in share])
                for share in shares
            ]
            mine = plans[self.ranks.rank]
            mine += [empty_batch(pad_id)] * (max(map(len, plans)) - len(mine))
        return [batch.to(self.device) for batch in mine]


def trained_state(module: nn.Module) -> dict[str, Any]:
    """Returns the state dict without the parameters that are frozen: they are where the model was loaded from."""
    frozen = {
        name for name, parameter in module.named_parameters(remove_duplicate=False) if not parameter.requires_grad
    }
    return {name: tensor for name, tensor in module.state_dict().items() if name not in frozen}


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """Returns the trunk's layers: the longest list of modules in it."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return list(max(lists, key=len)) if lists else []


def _freeze(module: nn.Module, model: PreTrainedModel, frozen: Sequence[str]) -> None:
    for prefix in frozen:
        found = [p for name, p in model.named_parameters() if name.startswith(prefix)]
        if not found:
            raise InvalidInput(f"frozen: no parameter's name starts with {prefix!r}", field="frozen")
        for parameter in found:
            parameter.requires_grad_(False)
    if not any(p.requires_grad for p in module.parameters()):
        raise InvalidInput("frozen: nothing is left to train", field="frozen")


def _recompute_activations(model: PreTrainedModel) -> None:
    if not model.supports_gradient_checkpointing:
        raise InvalidInput(
            f"engine.activation_checkpointing: {type(model).__name__} cannot do it",
            field="engine.activation_checkpointing",
        )
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
