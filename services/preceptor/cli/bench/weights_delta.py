"""How small a delta is and how fast: a bf16 copy of float32 weights that Adam moves."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from preceptor.common.weights_delta import apply_delta, write_delta

_LAYER_ELEMENTS = 4 * 1024 * 1024
Floats = np.ndarray[Any, np.dtype[np.float32]]
Bits = np.ndarray[Any, np.dtype[np.uint16]]


@dataclass(frozen=True, slots=True)
class DeltaFigures:
    """One delta. Speeds in megabytes of model per second."""

    steps: int
    changed_share: float
    size_share: float
    encode_mb_s: float
    decode_mb_s: float


def measure_deltas(folder: Path, size_bytes: int, steps: Sequence[int], seed: int = 0) -> Iterator[DeltaFigures]:
    """Yields a row for each number of steps between two versions of a bf16 model of about `size_bytes`.

    Weights start as N(0, 0.02), in float32; gradients are N(0, 1), drawn anew each step; Adam (betas 0.9 and 0.999)
    runs at lr 1e-6 from its start on, where its steps are largest. Files are in the page cache.
    """
    layers = max(1, size_bytes // (2 * _LAYER_ELEMENTS))
    base = [_Layer(seed + index) for index in range(layers)]
    write_model(folder / "base", [layer.bits() for layer in base])
    before = [layer.bits() for layer in base]
    done = 0
    for count in steps:
        for layer in base:
            layer.train(count - done)
        done = count
        yield _measure(folder, count, before, [layer.bits() for layer in base])


class _Layer:
    """Weights with Adam's state."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._weights: Floats = self._rng.standard_normal(_LAYER_ELEMENTS, dtype=np.float32) * np.float32(0.02)
        self._mean: Floats = np.zeros_like(self._weights)
        self._square: Floats = np.zeros_like(self._weights)
        self._step = 0

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self._step += 1
            gradient = self._rng.standard_normal(len(self._weights), dtype=np.float32)
            self._mean += (gradient - self._mean) * np.float32(0.1)
            self._square += (gradient * gradient - self._square) * np.float32(0.001)
            mean = self._mean / np.float32(1 - 0.9**self._step)
            square = self._square / np.float32(1 - 0.999**self._step)
            self._weights -= np.float32(1e-6) * mean / (np.sqrt(square) + np.float32(1e-8))

    def bits(self) -> Bits:
        """Rounded to the nearest bf16, ties to even."""
        words = self._weights.view(np.uint32)
        return ((words + 0x7FFF + ((words >> 16) & 1)) >> 16).astype(np.uint16)


def _measure(folder: Path, steps: int, before: list[Bits], after: list[Bits]) -> DeltaFigures:
    new, file = folder / "new", folder / "delta" / "delta.safetensors"
    size = write_model(new, after)
    file.parent.mkdir(exist_ok=True)
    begun = time.perf_counter()
    stored = write_delta(folder / "base", new, file)
    encoded = time.perf_counter()
    assert stored is not None
    write_model(new, before)  # a receiver patches its host copy in place
    patched = time.perf_counter()
    apply_delta(file, new)
    decoded = time.perf_counter()
    changed = sum(int(np.count_nonzero(old != now)) for old, now in zip(before, after, strict=True))
    elements = sum(map(len, after))
    return DeltaFigures(
        steps,
        changed / elements,
        stored / size,
        size / 1e6 / (encoded - begun),
        size / 1e6 / (decoded - patched),
    )


def write_model(folder: Path, layers: Sequence[Bits]) -> int:
    """Writes a bf16 model folder: config.json and model.safetensors. Returns the bytes of its tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    header, end = {}, 0
    for index, bits in enumerate(layers):
        span = [end, end + bits.nbytes]
        header[f"model.layers.{index}.weight"] = {"dtype": "BF16", "shape": [len(bits)], "data_offsets": span}
        end += bits.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for bits in layers:
            file.write(bits.data)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return end
