"""Checkpoints of sft and reward runs on local disk: staged, synced, renamed; LATEST.json names the newest whole one."""

import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch

from preceptor.common.errors import DataLoss

_STATE = "state.pt"
_LATEST = "LATEST.json"


class CheckpointStore:
    """Keeps the newest `keep` checkpoints below directory; a crash at any moment leaves the last whole one."""

    def __init__(self, directory: Path, *, keep: int) -> None:
        self._directory = directory
        self._keep = keep

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Writes a checkpoint durably, moves LATEST.json to it, removes the oldest. Returns its directory."""
        final = self._directory / f"step-{step:08d}"
        staged = self._directory / f".staged-{step:08d}"
        shutil.rmtree(staged, ignore_errors=True)
        write_state(staged / _STATE, state)
        shutil.rmtree(final, ignore_errors=True)
        staged.rename(final)
        write_json(self._directory / _LATEST, {"step": step, "path": final.name})
        self._prune()
        return final

    def latest(self) -> dict[str, Any] | None:
        """Returns the newest checkpoint's state, or None where there is none.

        Raises:
          DataLoss: LATEST.json or the file that it names cannot be read.
        """
        pointer = self._directory / _LATEST
        if not pointer.is_file():
            return None
        try:
            name = json.loads(pointer.read_text())["path"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataLoss(f"{pointer} cannot be read: {error}") from error
        return read_state(self._directory / name / _STATE)

    def _prune(self) -> None:
        kept = sorted(self._directory.glob("step-*"))
        for old in kept[: -self._keep]:
            shutil.rmtree(old, ignore_errors=True)


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Writes tensors and plain values to a file and syncs it; the caller makes its directory appear atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        torch.save(state, stream)
        stream.flush()
        os.fsync(stream.fileno())


def read_state(path: Path) -> dict[str, Any]:
    """Returns what write_state wrote, on the CPU.

    Raises:
      DataLoss: the file is missing, cut short, or fails its checksums.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            raise DataLoss(f"the checkpoint {path} is damaged at {broken}")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, zipfile.BadZipFile, RuntimeError, pickle.UnpicklingError) as error:
        raise DataLoss(f"the checkpoint {path} cannot be read: {error}") from error
    return state


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically and durably (staged, synced, renamed)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.staged")
    with staged.open("w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=1, sort_keys=True)
        stream.flush()
        os.fsync(stream.fileno())
    staged.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
