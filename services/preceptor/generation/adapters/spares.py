"""Host buffers of overtaken versions, kept for the next one: new pages of memory cost more than what is put in them."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from pathlib import Path

_FOLDER = "spares"


class SpareFiles:
    """Weight files that nobody reads any more, at most one version's worth.

    A version of the same sizes is received into them, so that staging takes no more memory than the two versions that
    an update has on the host in any case.

    Args:
        folder: this process's own; the files are kept in a folder below it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / _FOLDER
        self._lock = threading.Lock()
        self._sizes: dict[Path, int] = {}
        self._count = 0

    def keep(self, folder: Path) -> None:
        """Takes a folder's weight files in place of those kept before. Files that others link to are left there."""
        own = [file for file in folder.glob("*.safetensors") if _is_ours(file)]
        if not own:
            return
        with self._lock:
            for old in self._sizes:
                old.unlink(missing_ok=True)
            self._sizes.clear()
            self._folder.mkdir(parents=True, exist_ok=True)
            for file in own:
                self._count += 1
                kept = self._folder / f"{self._count}"
                file.rename(kept)
                self._sizes[kept] = kept.stat().st_size

    def create(self, path: Path, size: int) -> int:
        """Returns a descriptor of a new file of `size` bytes, whatever they are: a spare one where there is one.

        Raises:
            FileExistsError: there is such a file.
        """
        with self._lock:
            spare = next((kept for kept, kept_size in self._sizes.items() if kept_size == size), None)
            if spare is not None:
                del self._sizes[spare]
                with contextlib.suppress(FileNotFoundError):
                    os.link(spare, path)
                    spare.unlink()
                    return os.open(path, os.O_RDWR)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        os.truncate(descriptor, size)
        return descriptor


def _is_ours(file: Path) -> bool:
    found = file.lstat()
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and bool(found.st_mode & stat.S_IWUSR)
