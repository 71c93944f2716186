"""Which version the next delta is taken to, and when one is stored whole instead."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from preceptor.common.errors import FailedPrecondition, NotFound
from preceptor.common.weights_delta import DELTA_FILE, write_delta
from preceptor.common.weights_manifest import model_digest, read_tensors

_WORTH_IT = 0.5  # "auto": of the whole, past which a delta saves too little


class DeltaChain:
    """The host copy of the version published last, and how many deltas lead to it."""

    def __init__(self, encoding: Literal["auto", "full", "delta"], full_every: int) -> None:
        self._encoding = encoding
        self._full_every = full_every
        self._links = 0
        self._base: tuple[int, Path, bool] | None = None  # version, folder, whether the folder is ours

    @property
    def used(self) -> bool:
        """Whether host copies are wanted at all."""
        return self._encoding != "full" and self._full_every > 1

    @property
    def base_version(self) -> int:
        """What `delta` is taken to; -1 without one."""
        return -1 if self._base is None else self._base[0]

    def delta(self, staged: Path) -> Path | None:
        """A new folder beside a staged one with the delta to the version before; None: store it whole."""
        if not self.used or self._base is None or self._links + 1 >= self._full_every:
            return None
        folder = staged.with_name(f"{staged.name}-delta")
        folder.mkdir()
        try:
            size = self._write(self._base[1], staged, folder / DELTA_FILE)
        except (FailedPrecondition, NotFound, FileNotFoundError):
            size = None  # another architecture, or the host copy is gone
        if size is None:
            shutil.rmtree(folder)
            return None
        return folder

    def advance(self, version: int, folder: Path, *, whole: bool, ours: bool) -> None:
        """Takes a published version's host copy as the base of the next. ours: to be removed when overtaken."""
        self.close()
        self._base = (version, folder, ours)
        self._links = 0 if whole else self._links + 1

    def close(self) -> None:
        """Removes the host copy."""
        if self._base is not None and self._base[2]:
            shutil.rmtree(self._base[1], ignore_errors=True)
        self._base = None

    def _write(self, base: Path, staged: Path, file: Path) -> int | None:
        if model_digest(base) != model_digest(staged):
            return None
        size_bytes = sum(tensor.size_bytes for tensor in read_tensors(staged))
        limit = size_bytes if self._encoding == "delta" else int(_WORTH_IT * size_bytes)
        return write_delta(base, staged, file, limit_bytes=limit)
