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
        """Replaces the model's weights by those of a folder's safetensors files. Returns the number of tensors."""
        count = 0

        def tensors() -> Iterator[tuple[str, torch.Tensor]]:
            nonlocal count
            for name, tensor in read_all(Path(model_dir)):
                count += 1
                yield name, tensor

        worker: Any = self
        worker.reload_weights(weights_iterator=tensors())
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
