"""WeightFetchers: the store, and the shared memory of this host."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from pathlib import Path

from preceptor.api.learner.v1 import weights_pb2
from preceptor.api.learner.v1.weights_pb2 import WeightManifest, WeightSource
from preceptor.common.artifacts import ArtifactStore
from preceptor.common.errors import NotFound, Unavailable


class StoreFetcher:
    """WeightFetcher for WEIGHT_TRANSPORT_STORE: a folder at any address that fsspec knows."""

    transport = weights_pb2.WEIGHT_TRANSPORT_STORE
    brings_whole = False

    def __init__(self, store: ArtifactStore, cache_dir: Path) -> None:
        self._store = store
        self._cache = cache_dir

    def fetch(self, manifest: WeightManifest, source: WeightSource, folder: Path) -> None:
        """See WeightFetcher."""
        found = self._store.local(source.uri)
        try:
            shutil.copytree(found, folder, dirs_exist_ok=True)
        except (FileNotFoundError, shutil.Error) as error:
            raise NotFound(
                f"policy version {manifest.policy_version} vanished from {found} while it was copied",
                reason="NO_ARTIFACT",
            ) from error
        finally:
            if found.is_relative_to(self._cache):
                shutil.rmtree(found, ignore_errors=True)


class ShmFetcher:
    """WeightFetcher for WEIGHT_TRANSPORT_SHM: the learner's files in this host's memory, linked, not copied.

    The links keep the bytes for as long as this generator serves them, whatever becomes of the learner.
    """

    transport = weights_pb2.WEIGHT_TRANSPORT_SHM
    brings_whole = True

    def fetch(self, manifest: WeightManifest, source: WeightSource, folder: Path) -> None:
        """See WeightFetcher."""
        segment = Path(source.uri)
        if source.host != socket.gethostname() or not segment.is_dir():
            raise Unavailable(f"policy version {manifest.policy_version} is not in the shared memory of this host")
        try:
            for file in segment.iterdir():
                _link(file, folder / file.name)
        except FileNotFoundError as error:
            raise NotFound(
                f"policy version {manifest.policy_version} left shared memory", reason="OVERTAKEN"
            ) from error


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK):
            raise
        shutil.copyfile(file, target)  # host copies are kept elsewhere, or the files are another user's
