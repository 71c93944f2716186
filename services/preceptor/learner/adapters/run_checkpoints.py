"""Checkpoints of an rl run: trainer and pump in one folder, whole or not at all, verified when they are loaded.

They are written in a thread; only once one is durable may what it contains be acknowledged.
"""

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preceptor.common.artifacts import ArtifactStore
from preceptor.common.durable import write_durably
from preceptor.common.errors import DataLoss, NotFound
from preceptor.common.telemetry import get_logger
from preceptor.learner.distributed.snapshots import file_digest
from preceptor.learner.run_configs.base import CheckpointConfig
from preceptor.learner.training.checkpoints import CHECKSUMS, kept_checkpoints, verify

log = get_logger(__name__)
_STATE = "run.json"
_TRAINER = "trainer"


@dataclass(frozen=True, slots=True)
class LoadedCheckpoint:
    """name: of the folder. trainer: what the trainer saved. state: JSON of everything else."""

    name: str
    trainer: Path
    state: dict[str, Any]


@dataclass(slots=True)
class PendingCheckpoint:
    """A checkpoint that is being written."""

    step: int
    _durable: "Future[str]"

    @property
    def done(self) -> bool:
        return self._durable.done()

    def wait(self) -> str:
        """Returns its address once it is durable; raises what writing it failed of."""
        return self._durable.result()


class RunCheckpoints:
    """runs/<run_id>/checkpoints/: step-<n:08d>/ {trainer/, run.json, checksums.json}, LATEST.json written last."""

    def __init__(self, store: ArtifactStore, run_id: str, config: CheckpointConfig, *, scratch: Path) -> None:
        """scratch: where folders are put together; on the store's file system this spares a copy."""
        self._store = store
        self._base = f"runs/{run_id}/checkpoints"
        self._config = config
        self._scratch = scratch
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")

    def begin(
        self,
        step: int,
        save_trainer: Callable[[Path], "Future[dict[str, str]]"],
        state: dict[str, Any],
        policy_version: int,
        metrics: Mapping[str, float],
    ) -> PendingCheckpoint:
        """Has the state copied, and a checkpoint of it written while the run goes on.

        save_trainer: copies at once what the trainer holds and writes it to a folder; its result is the files' BLAKE3.
        metrics: of the step, among them the one that says which checkpoint is best.
        """
        name = self._free_name(step)
        self._scratch.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=f".staging-{name}-", dir=self._scratch))
        (staged / _TRAINER).mkdir()
        with ExitStack() as undo:
            undo.callback(shutil.rmtree, staged, ignore_errors=True)
            written = save_trainer(staged / _TRAINER)
            undo.pop_all()
        value = metrics.get(self._config.best_metric, math.nan)
        entry = {
            "name": name,
            "step": step,
            "policy_version": policy_version,
            "value": value if math.isfinite(value) else None,
        }
        content = json.dumps(state).encode()
        return PendingCheckpoint(step, self._executor.submit(self._finish, entry, staged, content, written))

    def _finish(self, entry: dict[str, Any], staged: Path, content: bytes, written: "Future[dict[str, str]]") -> str:
        """Durable on return. Removes what is not kept."""
        try:
            digests = {f"{_TRAINER}/{name}": digest for name, digest in written.result().items()}
            write_durably(staged / _STATE, content)
            digests[_STATE] = file_digest(staged / _STATE)
            write_durably(staged / CHECKSUMS, json.dumps(digests).encode())
            uri = self._store.put_dir(staged, f"{self._base}/{entry['name']}", move=True)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        kept = kept_checkpoints([entry, *self._known()], self._config)
        latest = {"step": entry["step"], "path": entry["name"], "checkpoints": kept}
        self._store.put_json(f"{self._base}/LATEST.json", latest)
        self._remove_all_but({known["name"] for known in kept})
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

    def close(self) -> None:
        """Waits for what is being written."""
        self._executor.shutdown(wait=True)

    def _load(self, name: str) -> LoadedCheckpoint:
        folder = self._store.local(f"{self._base}/{name}")
        verify(folder, name)
        try:
            state = json.loads((folder / _STATE).read_bytes())
        except (OSError, ValueError) as error:
            raise DataLoss(f"checkpoint {name} cannot be read: {error}", reason="BROKEN_CHECKPOINT") from error
        return LoadedCheckpoint(name, folder / _TRAINER, state)

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
