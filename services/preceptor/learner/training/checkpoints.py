"""Checkpoints of sft, reward and DPO runs: written while training goes on, whole or not at all, verified on load."""

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from preceptor.common.errors import DataLoss
from preceptor.learner.distributed.ranks import Ranks
from preceptor.learner.distributed.snapshots import SnapshotWriter, file_digest, read_snapshot
from preceptor.learner.run_configs.base import CheckpointConfig

CHECKSUMS = "checksums.json"
_LATEST = "LATEST.json"


class CheckpointStore:
    """Keeps the newest checkpoints and the best below directory; a crash at any moment leaves the last whole one.

    Every rank has one and calls it alike.
    """

    def __init__(self, directory: Path, config: CheckpointConfig, ranks: Ranks) -> None:
        self._directory, self._config, self._ranks = directory, config, ranks
        self._writer = SnapshotWriter(ranks)
        self._pending: tuple[int, Path, Future[dict[str, str]], float] | None = None

    def begin(self, step: int, state: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Copies the state and writes it beside the training; waits for the checkpoint before."""
        self.settle()
        staged = self._directory / f".staged-{step:08d}"
        if self._ranks.leads:
            shutil.rmtree(staged, ignore_errors=True)
        self._ranks.agree(True)  # nobody writes before the folder is empty
        value = metrics.get(self._config.best_metric, math.nan)
        self._pending = (step, staged, self._writer.begin(state, staged), value)

    def settle(self) -> None:
        """Returns once the last checkpoint is durable under its name."""
        if self._pending is None:
            return
        (step, staged, written, value), self._pending = self._pending, None
        digests = written.result()
        if self._ranks.leads:
            self._finish(step, staged, digests, value)

    def close(self) -> None:
        """Settles, and ends the writer."""
        self.settle()
        self._writer.close()

    def latest(self, live: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns the newest checkpoint's state, sharded as the live one, or None where there is none.

        Raises:
          DataLoss: LATEST.json or a file of the checkpoint that it names is not what was written.
        """
        kept = self._kept()
        if not kept:
            return None
        folder = self._directory / str(kept[0]["path"])
        verify(folder, folder.name)
        return read_snapshot(folder, live, self._ranks)

    def _finish(self, step: int, staged: Path, digests: Mapping[str, str], value: float) -> None:
        final = self._directory / f"step-{step:08d}"
        write_json(staged / CHECKSUMS, dict(digests))
        shutil.rmtree(final, ignore_errors=True)
        staged.rename(final)
        entry = {"step": step, "path": final.name, "value": value if math.isfinite(value) else None}
        others = [known for known in self._kept() if known["step"] < step]
        kept = kept_checkpoints([entry, *others], self._config)
        write_json(self._directory / _LATEST, {"checkpoints": kept})
        names = {known["path"] for known in kept}
        for old in self._directory.glob("step-*"):
            if old.name not in names:
                shutil.rmtree(old, ignore_errors=True)

    def _kept(self) -> list[dict[str, Any]]:
        pointer = self._directory / _LATEST
        if not pointer.is_file():
            return []
        try:
            return list(json.loads(pointer.read_text())["checkpoints"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataLoss(f"{pointer} cannot be read: {error}") from error


def kept_checkpoints(known: Sequence[dict[str, Any]], config: CheckpointConfig) -> list[dict[str, Any]]:
    """Returns those of `known`, newest first, that are kept: the newest, and the one with the best "value"."""
    kept = list(known[: config.keep])
    valued = [entry for entry in known if entry.get("value") is not None]
    if config.best_metric and valued:
        best = (max if config.best_is == "highest" else min)(valued, key=lambda entry: float(entry["value"]))
        kept += [best] if best not in kept else []
    return kept


def verify(folder: Path, name: str) -> None:
    """Raises DataLoss, naming the first file below folder that is not what checksums.json says."""
    try:
        expected = json.loads((folder / CHECKSUMS).read_bytes())
    except (OSError, ValueError) as error:
        raise DataLoss(f"checkpoint {name}: {CHECKSUMS} cannot be read: {error}", reason="BROKEN_CHECKPOINT") from error
    for file, digest in sorted(expected.items()):
        path = folder / file
        if not path.is_file():
            raise DataLoss(f"checkpoint {name}: {file} is missing", reason="BROKEN_CHECKPOINT")
        if file_digest(path) != digest:
            raise DataLoss(f"checkpoint {name}: {file} is not what was written", reason="BROKEN_CHECKPOINT")


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
