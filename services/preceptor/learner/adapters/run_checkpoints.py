"""Checkpoints of an rl run: trainer and pump in one folder, whole or not at all, verified when they are loaded."""

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from preceptor.common.artifacts import ArtifactStore
from preceptor.common.durable import write_durably
from preceptor.common.errors import DataLoss, NotFound
from preceptor.common.telemetry import get_logger

log = get_logger(__name__)
_STATE = "run.json"
_CHECKSUMS = "checksums.json"
_CHUNK_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class LoadedCheckpoint:
    """name: of the folder. trainer: what the trainer saved. state: JSON of everything else."""

    name: str
    trainer: Path
    state: dict[str, Any]


class RunCheckpoints:
    """runs/<run_id>/checkpoints/: step-<n:08d>/ {trainer/, run.json, checksums.json}, LATEST.json written last."""

    def __init__(self, store: ArtifactStore, run_id: str, *, keep: int, scratch: Path) -> None:
        """scratch: where folders are put together; on the store's file system this spares a copy."""
        self._store = store
        self._base = f"runs/{run_id}/checkpoints"
        self._keep = keep
        self._scratch = scratch

    def save(self, step: int, save_trainer: Callable[[Path], None], state: dict[str, Any], policy_version: int) -> str:
        """Writes a checkpoint; durable on return. Removes the oldest beyond `keep`. Returns its address."""
        known = self._known()
        name = self._free_name(step)
        self._scratch.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=f".staging-{name}-", dir=self._scratch))
        try:
            (staged / "trainer").mkdir()
            save_trainer(staged / "trainer")
            write_durably(staged / _STATE, json.dumps(state).encode())
            write_durably(staged / _CHECKSUMS, json.dumps(_checksums(staged)).encode())
            uri = self._store.put_dir(staged, f"{self._base}/{name}", move=True)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        kept = [{"name": name, "step": step, "policy_version": policy_version}, *known][: self._keep]
        self._store.put_json(f"{self._base}/LATEST.json", {"step": step, "path": name, "checkpoints": kept})
        self._remove_all_but({entry["name"] for entry in kept})
        return uri

    def load(self) -> LoadedCheckpoint | None:
        """The newest checkpoint whose files are what was written; None if there never was one.

        Raises:
            DataLoss: there are checkpoints, and every one of them is damaged.
        """
        known = self._known()
        damage: list[str] = []
        for entry in known:
            try:
                return self._load(entry["name"])
            except (DataLoss, NotFound) as error:
                log.error("checkpoint is damaged; trying the one before", checkpoint=entry["name"], error=error.message)
                damage.append(error.message)
        if damage:
            raise DataLoss("every checkpoint of the run is damaged: " + "; ".join(damage), reason="BROKEN_CHECKPOINT")
        return None

    def policy_versions(self) -> set[int]:
        """Versions that the kept checkpoints name."""
        return {int(entry["policy_version"]) for entry in self._known()}

    def _load(self, name: str) -> LoadedCheckpoint:
        folder = self._store.local(f"{self._base}/{name}")
        try:
            expected = json.loads((folder / _CHECKSUMS).read_bytes())
            found = _checksums(folder)
            state = json.loads((folder / _STATE).read_bytes())
        except (OSError, ValueError) as error:
            raise DataLoss(f"checkpoint {name} cannot be read: {error}", reason="BROKEN_CHECKPOINT") from error
        wrong = sorted(file for file in expected if expected[file] != found.get(file))
        if wrong:
            raise DataLoss(f"checkpoint {name}: {wrong[0]} is not what was written", reason="BROKEN_CHECKPOINT")
        return LoadedCheckpoint(name, folder / "trainer", state)

    def _known(self) -> list[dict[str, Any]]:
        try:
            return list(self._store.get_json(f"{self._base}/LATEST.json")["checkpoints"])
        except NotFound:
            return []

    def _free_name(self, step: int) -> str:
        name, repeat = f"step-{step:08d}", 0
        while self._store.exists(f"{self._base}/{name}"):
            repeat += 1
            name = f"step-{step:08d}-{repeat}"
        return name

    def _remove_all_but(self, kept: set[str]) -> None:
        for name in self._store.list(self._base):
            if name.startswith("step-") and name not in kept:
                self._store.delete(f"{self._base}/{name}")


def _checksums(folder: Path) -> dict[str, str]:
    """BLAKE3 of every file but checksums.json itself, by path."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != _CHECKSUMS]
    return {path.relative_to(folder).as_posix(): _digest(path) for path in sorted(files)}


def _digest(path: Path) -> str:
    digest = blake3()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
