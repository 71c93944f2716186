"""A run's folder: on a local artifact store the store's own, otherwise a working folder that is uploaded."""

import math
import shutil
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from preceptor.common.artifacts import ArtifactStore
from preceptor.common.errors import InvalidInput, NotFound
from preceptor.learner.run_configs.base import HUB_PREFIX


def run_folder(artifacts_url: str, work_dir: str, run_id: str) -> Path:
    """Where a run writes metrics and curves: runs/<run_id> of a local store, else below work_dir (made if absent)."""
    parts = urlsplit(artifacts_url)
    if parts.scheme in ("file", "local"):
        root = Path(unquote(parts.path))
    else:
        root = Path(work_dir) if work_dir else Path.home() / ".cache" / "preceptor" / "work"
    folder = root / "runs" / run_id
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def is_local(artifacts_url: str) -> bool:
    return urlsplit(artifacts_url).scheme in ("file", "local")


def model_folder(store: ArtifactStore, source: str, field: str) -> Path:
    """A local folder with the model; a hub id stays as it is. InvalidInput naming the field if there is none."""
    if source.startswith(HUB_PREFIX):
        return Path(source)
    try:
        return store.local(source)
    except NotFound as error:
        raise InvalidInput(f"{field}: no model directory at {source}", field=field) from error


class LocalRunFiles:
    """Staging folders beside the run's files, its final model and its summary."""

    def __init__(self, store: ArtifactStore, run_id: str, folder: Path) -> None:
        self._store = store
        self._base = f"runs/{run_id}"
        self._folder = folder

    @property
    def scratch(self) -> Path:
        return self._folder / ".staging"

    def clear_scratch(self) -> None:
        """Removes what a killed process left half-made."""
        shutil.rmtree(self.scratch, ignore_errors=True)

    def staging(self, name: str) -> Path:
        """A new empty folder."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.scratch))

    def put_model(self, staged: Path) -> str:
        """Makes a staged folder the run's final model, replacing an earlier one; returns its address."""
        return self._store.put_dir(staged, f"{self._base}/model", replace=True, move=True)

    def put_summary(self, summary: dict[str, Any]) -> None:
        """Writes summary.json; NaN and infinity become null."""
        self._store.put_json(f"{self._base}/summary.json", _plain(summary))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
