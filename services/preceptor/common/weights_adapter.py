"""A LoRA adapter merged into the weights that it was trained on, to the same bits on every machine.

An adapter is a folder as peft writes it: adapter_config.json and adapter_model.safetensors. A merged weight is

    round(W + s * sum over k = 0, 1, ... of B[:, k] A[k, :])

in float32, term by term in that order and without fused multiply-add, rounded once to the stored dtype (to nearest,
ties to even). A matrix product's bits would depend on the BLAS, the number of threads and the CPU: no checksum could
vouch for it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from preceptor.common.errors import DataLoss, FailedPrecondition
from preceptor.common.weights_manifest import StoredTensor, read_tensors

ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
_BLOCK_ELEMENTS = 1 << 16  # two of them fit a core's cache
_DTYPES = ("F32", "BF16", "F16")
Floats = np.ndarray[Any, np.dtype[np.float32]]
Array = np.ndarray[Any, np.dtype[Any]]


def apply_adapter(adapter: Path, folder: Path) -> None:
    """Merges an adapter into the weights of a folder, in place. The result is to be verified by its manifest.

    Raises:
        DataLoss: the adapter is broken.
        FailedPrecondition: it is of another model, or of a kind that cannot be merged (DoRA, embeddings, biases).
    """
    config = _config(adapter)
    found = {tensor.name: tensor for tensor in read_tensors(adapter) if tensor.file.name == ADAPTER_FILE}
    targets = {tensor.name: tensor for tensor in read_tensors(folder)}
    jobs: list[_Job] = []
    for name, tensor in found.items():
        if name.endswith(_UP) and name.removesuffix(_UP) + _DOWN in found:
            continue
        jobs.append(_job(name, tensor, found, targets, config))
    with ThreadPoolExecutor(min(4, len(os.sched_getaffinity(0)))) as pool:
        for _ in pool.map(lambda step: step(), (step for job in jobs for step in job.steps())):
            pass


@dataclass(frozen=True, slots=True)
class _Config:
    alpha: float
    scaled_by_root: bool
    transposed: bool

    def scale(self, rank: int) -> np.float32:
        return np.float32(self.alpha / (math.sqrt(rank) if self.scaled_by_root else rank))


def _config(adapter: Path) -> _Config:
    try:
        config = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        alpha = float(config["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataLoss(f"{adapter} has no readable {ADAPTER_CONFIG}: {error}", reason="BROKEN_ADAPTER") from error
    for key in ("use_dora", "rank_pattern", "alpha_pattern", "lora_bias"):
        if config.get(key):
            raise FailedPrecondition(f"the adapter uses {key}, which cannot be merged here", field=key)
    return _Config(alpha, bool(config.get("use_rslora")), bool(config.get("fan_in_fan_out")))


def _job(
    name: str, tensor: StoredTensor, found: dict[str, StoredTensor], targets: dict[str, StoredTensor], config: _Config
) -> _Job:
    bare = name.removeprefix(_PREFIX)
    up = found.get(name.removesuffix(_DOWN) + _UP) if name.endswith(_DOWN) else None
    target = targets.get(f"{bare.removesuffix(_DOWN)}.weight" if up is not None else bare)
    if target is None or (up is None and "lora_" in bare):
        raise FailedPrecondition(f"the adapter's tensor {name} has no weight in the model to go to", field=name)
    if target.dtype not in _DTYPES:
        raise FailedPrecondition(f"tensor {target.name} is {target.dtype}: adapters go to {_DTYPES}", field=target.name)
    if up is None:
        if (tensor.dtype, tensor.shape) != (target.dtype, target.shape):
            raise FailedPrecondition(f"the adapter's tensor {name} is of another shape or dtype", field=name)
        return _Job(target, None, _floats(tensor), np.float32(1))
    left, right = _floats(up), _floats(tensor)
    if config.transposed:
        left, right = right.T, left.T
    if left.ndim != 2 or target.shape != (left.shape[0], right.shape[1]) or left.shape[1] != right.shape[0]:
        raise FailedPrecondition(f"the adapter's {name} does not fit {target.name} {list(target.shape)}", field=name)
    return _Job(target, np.ascontiguousarray(left), np.ascontiguousarray(right), config.scale(left.shape[1]))


@dataclass(frozen=True, slots=True)
class _Job:
    """One weight: W + scale * left @ right, or, without `left`, `right` itself."""

    target: StoredTensor
    left: Floats | None
    right: Floats
    scale: np.float32

    def steps(self) -> Iterator[Any]:
        """Pieces of work, for any thread."""
        mapped: Array = np.memmap(self.target.file, np.uint8, "r+")
        words = mapped[self.target.begin : self.target.end].view(np.uint32 if self.target.dtype == "F32" else np.uint16)
        if self.left is None:
            yield lambda: _store(words, self.target.dtype, self.right.reshape(-1))
            return
        rows, columns = self.target.shape
        count = max(1, _BLOCK_ELEMENTS // max(1, columns))
        for begin in range(0, rows, count):
            block = words[begin * columns : min(rows, begin + count) * columns]
            part = self.left[begin : begin + count]
            yield lambda block=block, part=part: self._merge(block, part)

    def _merge(self, words: Array, left: Floats) -> None:
        total = np.zeros((len(left), self.right.shape[1]), np.float32)
        term = np.empty_like(total)
        for k in range(left.shape[1]):
            np.multiply(left[:, k, None], self.right[k][None, :], out=term)
            np.add(total, term, out=total)
        np.multiply(total, self.scale, out=total)
        before = _load(words, self.target.dtype).reshape(total.shape)
        np.add(before, total, out=total)
        _store(words, self.target.dtype, total.reshape(-1))


def _floats(tensor: StoredTensor) -> Floats:
    if tensor.dtype not in _DTYPES:
        raise FailedPrecondition(f"the adapter's tensor {tensor.name} is {tensor.dtype}: {_DTYPES}", field=tensor.name)
    data = np.fromfile(tensor.file, np.uint8, tensor.size_bytes, offset=tensor.begin)
    words = data.view(np.uint32 if tensor.dtype == "F32" else np.uint16)
    return _load(words, tensor.dtype).reshape(tensor.shape)


def _load(words: Array, dtype: str) -> Floats:
    if dtype == "F32":
        return words.view(np.float32)
    if dtype == "F16":
        return words.view(np.float16).astype(np.float32)
    return (words.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _store(words: Array, dtype: str, values: Floats) -> None:
    if dtype == "F32":
        words[:] = values.view(np.uint32)
    elif dtype == "F16":
        words[:] = values.astype(np.float16).view(np.uint16)
    else:
        bits = values.view(np.uint32)
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        words[:] = np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16)
