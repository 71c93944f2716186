"""Checkpoints of sft and reward runs on local disk: staged, synced, renamed; LATEST.json names the newest whole one."""

import json
import os
import shutil
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
        staged.mkdir(parents=True)
        with (staged / _STATE).open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
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
            path = self._directory / json.loads(pointer.read_text())["path"] / _STATE
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise DataLoss(f"the checkpoint that {pointer} names cannot be read: {error}") from error
        return state

    def _prune(self) -> None:
        kept = sorted(self._directory.glob("step-*"))
        for old in kept[: -self._keep]:
            shutil.rmtree(old, ignore_errors=True)


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
