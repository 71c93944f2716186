"""Policy versions in the artifact store: runs/<run_id>/policy/LATEST.json and runs/<run_id>/policy/<version>/."""

from __future__ import annotations

from typing import Any

from preceptor.api.learner.v1 import weights_pb2
from preceptor.api.learner.v1.weights_pb2 import WeightManifest
from preceptor.common import weights_manifest
from preceptor.common.artifacts import ArtifactStore
from preceptor.common.errors import DataLoss, NotFound


class PolicyStore:
    """PolicySource on an artifact store.

    Args:
        store: where runs are.
        run_id: whose versions.
    """

    def __init__(self, store: ArtifactStore, run_id: str) -> None:
        self._store = store
        self._run_id = run_id
        self._folder = f"runs/{run_id}/policy"

    def newest_version(self) -> int | None:
        """See PolicySource."""
        latest = self._latest()
        return None if latest is None else int(latest["policy_version"])

    def manifest(self, version: int) -> WeightManifest:
        """See PolicySource."""
        folder = f"{self._folder}/{version:08d}"
        with self._store.open(f"{folder}/{weights_manifest.MANIFEST_FILE}", "rb") as file:
            manifest = weights_manifest.parse_manifest(file.read().decode())
        if (manifest.run_id, manifest.policy_version) != (self._run_id, version):
            raise DataLoss(
                f"the manifest in {folder} is of policy version {manifest.policy_version} of run {manifest.run_id}"
            )
        if not manifest.sources:
            uri = self._store.path(folder)
            manifest.sources.add(transport=weights_pb2.WEIGHT_TRANSPORT_STORE, uri=uri)
        return manifest

    def _latest(self) -> dict[str, Any] | None:
        try:
            latest = self._store.get_json(f"{self._folder}/LATEST.json")
        except NotFound:
            return None
        if not isinstance(latest, dict) or not isinstance(latest.get("policy_version"), int):
            raise DataLoss(f'{self._folder}/LATEST.json has no integer "policy_version"')
        return latest
