"""A folder for this process's host copies of weights, and those that killed generators left behind."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from preceptor.common import locked_folder

_PREFIX = "preceptor-generation-"
_SHM = Path("/dev/shm")
_SHM_MIN_FREE_BYTES = 2 * 1024**3


class StagingFolder(locked_folder.LockedFolder):
    """A folder that is locked while this process lives.

    Args:
        wanted: where to make it; None = in memory where there is room, else in the folder for temporary files.
    """

    def __init__(self, wanted: Path | None) -> None:
        super().__init__(wanted or _parent(), _PREFIX)


def remove_abandoned(parent: Path) -> list[Path]:
    """Removes the folders of generators that were killed. Returns them."""
    return locked_folder.remove_abandoned(parent, _PREFIX)


def _parent() -> Path:
    roomy = _SHM.is_dir() and shutil.disk_usage(_SHM).free >= _SHM_MIN_FREE_BYTES
    return _SHM if roomy else Path(tempfile.gettempdir())
