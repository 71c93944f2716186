"""A folder for this process's host copies of weights, and those that killed generators left behind."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

_PREFIX = "preceptor-generation-"
_LOCK = ".lock"
_SHM = Path("/dev/shm")
_SHM_MIN_FREE_BYTES = 2 * 1024**3


class StagingFolder:
    """A folder that is locked while this process lives.

    Args:
        wanted: where to make it; None = in memory where there is room, else in the folder for temporary files.
    """

    def __init__(self, wanted: Path | None) -> None:
        parent = wanted or _parent()
        parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(parent)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        self._lock = _locked(self.path)

    def remove(self) -> None:
        """Removes the folder with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def remove_abandoned(parent: Path) -> list[Path]:
    """Removes the folders of generators that were killed. Returns them."""
    removed = []
    for folder in parent.glob(f"{_PREFIX}*"):
        if (folder / _LOCK).exists() and (lock := _locked(folder)) is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
            removed.append(folder)
    return removed


def _locked(folder: Path) -> int | None:
    """Returns the lock's descriptor, None where another process holds it."""
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _parent() -> Path:
    roomy = _SHM.is_dir() and shutil.disk_usage(_SHM).free >= _SHM_MIN_FREE_BYTES
    return _SHM if roomy else Path(tempfile.gettempdir())
