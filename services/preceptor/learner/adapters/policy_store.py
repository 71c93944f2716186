"""The run's policy versions in the artifact store: numbers are reserved before use, contents never change."""

import re
import shutil
from pathlib import Path

from preceptor.api.learner.v1 import weights_pb2
from preceptor.common.artifacts import ArtifactStore
from preceptor.common.errors import DataLoss, NotFound
from preceptor.common.weights_manifest import build_manifest, read_manifest, write_manifest

_VERSION = re.compile(r"^\d{8,}$")


class PolicyStore:
    """runs/<run_id>/policy/: <version:08d>/ (a Hugging Face folder and manifest.json), RESERVED.json, LATEST.json."""

    def __init__(self, store: ArtifactStore, run_id: str) -> None:
        self._store = store
        self._run_id = run_id
        self._base = f"runs/{run_id}/policy"
        self._reserved = self._read_number("RESERVED.json")

    @property
    def reserved(self) -> int:
        """The highest number that may have been used; -1 if none."""
        return max(self._reserved, self.newest)

    @property
    def newest(self) -> int:
        """The version that LATEST.json names; -1 if none."""
        return self._read_number("LATEST.json")

    def reserve(self) -> int:
        """Returns a number that was never used, durably taken before this returns."""
        number = self.reserved + 1
        self._store.put_json(f"{self._base}/RESERVED.json", {"policy_version": number})
        self._reserved = number
        return number

    def publish(self, version: int, staged: Path, *, step: int) -> weights_pb2.WeightManifest:
        """Makes a staged folder (which is consumed) the content of `version`, then moves LATEST.json to it.

        Raises:
            AlreadyExists: the version has a content.
        """
        rel = self._rel(version)
        source = weights_pb2.WeightSource(
            transport=weights_pb2.WEIGHT_TRANSPORT_STORE, uri=self._store.path(rel), host=""
        )
        manifest = build_manifest(self._run_id, version, staged, learner_step=step, sources=[source])
        write_manifest(manifest, staged)
        self._store.put_dir(staged, rel, move=True)
        self._store.put_json(f"{self._base}/LATEST.json", {"policy_version": version, "path": rel})
        shutil.rmtree(staged, ignore_errors=True)
        return manifest

    def same_content(self, version: int, staged: Path) -> bool:
        """Whether `version` is in the store with exactly the weights of a staged folder."""
        try:
            stored = self.manifest(version)
        except (NotFound, DataLoss):
            return False
        return stored.content_digest == build_manifest(self._run_id, version, staged).content_digest

    def manifest(self, version: int) -> weights_pb2.WeightManifest:
        """NotFound if the version was never published or has been collected; DataLoss if its manifest is broken."""
        return read_manifest(self.folder(version))

    def folder(self, version: int) -> Path:
        """A local folder with the version's files; NotFound if there is none."""
        if not self._store.exists(self._rel(version)):
            raise NotFound(
                f"policy version {version} of run {self._run_id} is not in the store", reason="NO_POLICY_VERSION"
            )
        return self._store.local(self._rel(version))

    def versions(self) -> list[int]:
        """Versions whose full weights are in the store, ascending."""
        return sorted(int(name) for name in self._store.list(self._base) if _VERSION.match(name))

    def collect_garbage(self, *, keep_newest: int, keep_every: int, pinned: set[int]) -> list[int]:
        """Removes what neither the newest, nor every keep_every-th, nor `pinned` covers. Returns what went."""
        versions = self.versions()
        kept = set(versions[-keep_newest:]) | pinned
        doomed = [v for v in versions if v not in kept and not (keep_every and v % keep_every == 0)]
        for version in doomed:
            self._store.delete(self._rel(version))
        return doomed

    def _rel(self, version: int) -> str:
        return f"{self._base}/{version:08d}"

    def _read_number(self, name: str) -> int:
        try:
            return int(self._store.get_json(f"{self._base}/{name}")["policy_version"])
        except NotFound:
            return -1
