"""Model weights written tensor by tensor: never more than one of them in memory."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from preceptor.common.errors import InvalidInput

if TYPE_CHECKING:
    from torch import Tensor

SHARD_BYTES = 4 * 1024**3
_HEADER_BYTES = 256 * 1024  # kept free at a file's beginning for what it will hold; safetensors allows spaces
_INDEX = "model.safetensors.index.json"
_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


def write_weights(folder: Path, tensors: Iterable[tuple[str, Tensor]], *, shard_bytes: int = SHARD_BYTES) -> list[Path]:
    """Writes tensors as they come: model.safetensors, or several files and their index past `shard_bytes`.

    The iterator may make each tensor when it is asked for (`DTensor.full_tensor()` layer by layer): none is held
    once it is written. Two names of one tensor (tied weights) are written twice: leave one out.

    Args:
        folder: where, an existing folder without weights.
        tensors: names and whole tensors on any device.
        shard_bytes: of tensors in one file; one tensor is never split.

    Raises:
        InvalidInput: a name comes twice, a dtype is unknown to safetensors, or there is no tensor.
    """
    writer = _Writer(folder, shard_bytes)
    try:
        for name, tensor in tensors:
            writer.add(name, tensor)
            del tensor
        return writer.finish()
    finally:
        writer.close()


class _Writer:
    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self._folder = folder
        self._shard_bytes = shard_bytes
        self._names: list[dict[str, dict[str, object]]] = []
        self._seen: set[str] = set()
        self._file: BinaryIO | None = None
        self._end = self._header = 0

    def add(self, name: str, tensor: Tensor) -> None:
        import torch

        if name in self._seen:
            raise InvalidInput(f"tensor {name} comes twice", field=name)
        dtype = _DTYPES.get(str(tensor.dtype).removeprefix("torch."))
        if dtype is None:
            raise InvalidInput(f"tensor {name} is {tensor.dtype}, which safetensors cannot hold", field=name)
        self._seen.add(name)
        size = tensor.numel() * tensor.element_size()
        room = len(json.dumps(name)) + 120 + 20 * tensor.ndim
        file = self._open(size, room)
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        file.write(data.data)
        span = [self._end, self._end + size]
        self._names[-1][name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": span}
        self._end += size
        self._header += room

    def finish(self) -> list[Path]:
        self.close()
        if not self._seen:
            raise InvalidInput("a model without a tensor", field="tensors")
        count = len(self._names)
        if count == 1:
            only = self._folder / "model.safetensors"
            self._part(0).rename(only)
            return [only]
        files = [self._folder / f"model-{index + 1:05d}-of-{count:05d}.safetensors" for index in range(count)]
        for index, file in enumerate(files):
            self._part(index).rename(file)
        names = {name: file.name for file, held in zip(files, self._names, strict=True) for name in held}
        total = sum(file.stat().st_size for file in files) - count * _HEADER_BYTES
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": names}, indent=1)
        (self._folder / _INDEX).write_text(text, encoding="utf-8")
        return files

    def close(self) -> None:
        """Ends the file that is being written."""
        if self._file is None:
            return
        text = json.dumps({"__metadata__": {"format": "pt"}, **self._names[-1]}).encode()
        self._file.seek(0)
        self._file.write(struct.pack("<Q", _HEADER_BYTES - 8) + text.ljust(_HEADER_BYTES - 8))
        self._file.close()
        self._file = None

    def _open(self, size: int, room: int) -> BinaryIO:
        full = self._end + size > self._shard_bytes or self._header + room > _HEADER_BYTES
        if self._file is not None and self._end and full:
            self.close()
        if self._file is None:
            self._end, self._header = 0, 64
            self._names.append({})
            self._file = self._part(len(self._names) - 1).open("wb")
            self._file.seek(_HEADER_BYTES)
        return self._file

    def _part(self, index: int) -> Path:
        return self._folder / f".part-{index}"
