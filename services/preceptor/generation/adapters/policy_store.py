"""Policy versions in the artifact store: runs/<run_id>/policy/LATEST.json and runs/<run_id>/policy/<version>/."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from preceptor.api.learner.v1 import weights_pb2
from preceptor.api.learner.v1.weights_pb2 import WeightManifest
from preceptor.common import weights_manifest
from preceptor.common.artifacts import ArtifactStore
from preceptor.common.errors import DataLoss, FailedPrecondition, NotFound
from preceptor.generation.weights import StagedPolicy, WeightFetcher


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


class StoreFetcher:
    """WeightFetcher for WEIGHT_TRANSPORT_STORE: a folder at any address that fsspec knows."""

    def __init__(self, store: ArtifactStore, cache_dir: Path) -> None:
        self._store = store
        self._cache = cache_dir

    def can_fetch(self, manifest: WeightManifest) -> bool:
        """See WeightFetcher."""
        return _store_uri(manifest) is not None

    def fetch(self, manifest: WeightManifest, folder: Path) -> None:
        """See WeightFetcher."""
        source = self._store.local(_store_uri(manifest) or "")
        try:
            shutil.copytree(source, folder, dirs_exist_ok=True)
        except (FileNotFoundError, shutil.Error) as error:
            raise NotFound(
                f"policy version {manifest.policy_version} vanished from {source} while it was copied",
                reason="NO_ARTIFACT",
            ) from error
        finally:
            if source.is_relative_to(self._cache):
                shutil.rmtree(source, ignore_errors=True)


class PolicyStager:
    """Stager that tries fetchers in turn.

    Args:
        run_id: versions of other runs are refused.
        fetchers: one per transport.
        folder: where host copies go; this process's own.
    """

    def __init__(self, run_id: str, fetchers: Sequence[WeightFetcher], folder: Path) -> None:
        self._run_id = run_id
        self._fetchers = fetchers
        self._folder = folder
        self._served: WeightManifest | None = None  # the first one staged: its architecture is the engine's

    def stage(self, manifest: WeightManifest) -> StagedPolicy:
        """See Stager."""
        fetcher = self._fetcher_for(manifest)
        folder = Path(tempfile.mkdtemp(prefix=f"{manifest.policy_version:08d}-", dir=self._folder))
        try:
            fetcher.fetch(manifest, folder)
            weights_manifest.verify(folder, manifest)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._served = self._served or manifest
        return StagedPolicy(manifest.policy_version, folder, manifest)

    def discard(self, staged: Sequence[StagedPolicy]) -> None:
        """See Stager."""
        for policy in staged:
            shutil.rmtree(policy.folder, ignore_errors=True)

    def _fetcher_for(self, manifest: WeightManifest) -> WeightFetcher:
        named = f"policy version {manifest.policy_version}"
        if manifest.run_id != self._run_id:
            raise FailedPrecondition(
                f"{named} is of run {manifest.run_id}, and this generator serves {self._run_id}",
                field="manifest.run_id",
                reason="OTHER_RUN",
            )
        if manifest.encoding != weights_pb2.WEIGHT_ENCODING_FULL:
            encoding = weights_pb2.WeightEncoding.Name(manifest.encoding)
            raise FailedPrecondition(
                f"{named} is encoded as {encoding}: this generator takes WEIGHT_ENCODING_FULL",
                field="manifest.encoding",
            )
        if self._served is not None:
            _check_same_model(manifest, self._served)
        for fetcher in self._fetchers:
            if fetcher.can_fetch(manifest):
                return fetcher
        raise FailedPrecondition(f"none of the sources of {named} can be used here", field="manifest.sources")


def _check_same_model(manifest: WeightManifest, served: WeightManifest) -> None:
    """Returns when a version fits the engine as it was started.

    Raises:
        FailedPrecondition: naming what differs: the architecture, or the first tensor by name.
    """
    named = f"policy version {manifest.policy_version}"
    if manifest.model_digest and served.model_digest and manifest.model_digest != served.model_digest:
        raise FailedPrecondition(
            f"{named} is of another architecture than the one served", field="manifest.model_digest"
        )
    ours, theirs = ({one.name: (one.dtype, tuple(one.shape)) for one in each.tensors} for each in (served, manifest))
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise FailedPrecondition(
                f"{named}: tensor {name} is {_described(theirs.get(name))}, the model served has it as "
                f"{_described(ours.get(name))}",
                field="manifest.tensors",
                reason="OTHER_MODEL",
            )


def _described(tensor: tuple[str, tuple[int, ...]] | None) -> str:
    return "absent" if tensor is None else f"{tensor[0]}{list(tensor[1])}"


def _store_uri(manifest: WeightManifest) -> str | None:
    for source in manifest.sources:
        if source.transport == weights_pb2.WEIGHT_TRANSPORT_STORE:
            return source.uri
    return None
