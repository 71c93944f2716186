"""Files and folders that appear whole or not at all, and survive a power cut once they have appeared."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import uuid
from pathlib import Path

STAGING_PREFIX = ".staging-"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def write_durably(path: Path, data: bytes) -> None:
    """Replaces a file's content in one step; a reader sees the old or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = staging_path(path)
    try:
        with staged.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
    sync_dir(path.parent)


def copy_tree_durably(source: Path, target: Path) -> None:
    """Copies a folder to a new place, every file and folder synced to disk."""
    shutil.copytree(source, target)
    sync_tree(target)


def sync_tree(root: Path) -> None:
    """Syncs every file and folder below and including `root`."""
    for folder, _, files in os.walk(root, topdown=False):
        for name in files:
            _sync(Path(folder, name), os.O_RDONLY)
        sync_dir(Path(folder))


def sync_dir(path: Path) -> None:
    """Makes the names in a folder durable."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def exchange(one: Path, other: Path) -> None:
    """Swaps two existing names in one step (Linux's renameat2); where the file system cannot, in three quick ones."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None:
        if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.EINVAL, errno.ENOSYS, errno.EPERM):
            raise OSError(number, os.strerror(number), str(one))
    aside = staging_path(other)
    other.rename(aside)
    one.rename(other)
    aside.rename(one)


def staging_path(path: Path) -> Path:
    """Returns a fresh hidden sibling of `path`, for what is to be renamed to it."""
    return path.with_name(f"{STAGING_PREFIX}{path.name}-{uuid.uuid4().hex[:12]}")


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
