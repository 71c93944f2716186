"""Verified host copies of versions, by whatever transport and encoding they come."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from preceptor.api.learner.v1 import weights_pb2
from preceptor.api.learner.v1.weights_pb2 import WeightManifest
from preceptor.common import weights_manifest
from preceptor.common.errors import DataLoss, FailedPrecondition, NotFound, PreceptorError, Unavailable
from preceptor.common.telemetry import get_logger
from preceptor.common.weight_chunks import CHUNK_BYTES
from preceptor.common.weights_adapter import apply_adapter
from preceptor.common.weights_delta import DELTA_FILE, apply_delta
from preceptor.generation.adapters.spares import SpareFiles
from preceptor.generation.weights import StagedPolicy, WeightFetcher

log = get_logger(__name__)
_ON_A_BASE = (weights_pb2.WEIGHT_ENCODING_SPARSE_DELTA, weights_pb2.WEIGHT_ENCODING_ADAPTER)
Check = Callable[[Path, WeightManifest], None]


class PolicyStager:
    """Stager that tries a version's sources in turn, and applies deltas to the version it holds.

    Args:
        run_id: versions of other runs are refused.
        fetchers: one per transport.
        folder: where host copies go; this process's own.
        manifest_of: where the manifests of what a delta builds on are found.
        spares: takes the files of what is discarded.
    """

    def __init__(
        self,
        run_id: str,
        fetchers: Sequence[WeightFetcher],
        folder: Path,
        manifest_of: Callable[[int], WeightManifest],
        spares: SpareFiles,
    ) -> None:
        self._run_id = run_id
        self._fetchers = {fetcher.transport: fetcher for fetcher in fetchers}
        self._folder = folder
        self._manifest_of = manifest_of
        self._spares = spares
        self._held: dict[int, StagedPolicy] = {}
        self._adapted: tuple[int, Path] | None = None  # the version that adapters build on
        self._served: WeightManifest | None = None  # the first one staged: its architecture is the engine's

    def stage(self, manifest: WeightManifest) -> StagedPolicy:
        """See Stager."""
        self._check(manifest)
        folder = Path(tempfile.mkdtemp(prefix=f"{manifest.policy_version:08d}-", dir=self._folder))
        try:
            self._fill(manifest, folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if manifest.encoding != weights_pb2.WEIGHT_ENCODING_ADAPTER:
            self._drop_base()
        self._served = self._served or manifest
        staged = StagedPolicy(manifest.policy_version, folder, manifest)
        self._held[manifest.policy_version] = staged
        return staged

    def discard(self, staged: Sequence[StagedPolicy]) -> None:
        """See Stager."""
        for policy in staged:
            if self._held.get(policy.policy_version) == policy:
                del self._held[policy.policy_version]
            self._spares.keep(policy.folder)
            shutil.rmtree(policy.folder, ignore_errors=True)

    def _fill(self, manifest: WeightManifest, folder: Path) -> None:
        if manifest.encoding == weights_pb2.WEIGHT_ENCODING_FULL:
            self._fetch(manifest, folder, weights_manifest.verify)
            return
        if self._fetch_whole(manifest, folder):
            return
        if manifest.encoding == weights_pb2.WEIGHT_ENCODING_ADAPTER:
            _copy(self._base_folder(manifest), folder, self._spares)
            self._apply(manifest, folder)
            weights_manifest.verify(folder, manifest)
            return
        try:
            self._follow_chain(manifest, folder, self._held)
        except DataLoss as error:
            if not self._held:
                raise
            log.warning("a delta did not fit the version held: starting from a whole one", error=error.message)
            _empty(folder)
            self._follow_chain(manifest, folder, {})

    def _fetch_whole(self, manifest: WeightManifest, folder: Path) -> bool:
        ways = [source.transport for source in manifest.sources if source.transport in self._fetchers]
        if not any(self._fetchers[transport].brings_whole for transport in ways):
            return False
        try:
            self._fetch(manifest, folder, weights_manifest.verify, only_whole=True)
        except (NotFound, Unavailable, DataLoss):
            return False
        return True

    def _follow_chain(self, manifest: WeightManifest, folder: Path, held: dict[int, StagedPolicy]) -> None:
        """Starts from a version held, or else from a whole one, and applies what lies between."""
        deltas = [manifest]
        while (base := self._base_of(deltas[-1])) not in held:
            before = _also_from(manifest, self._manifest_of(base))
            if before.encoding == weights_pb2.WEIGHT_ENCODING_FULL:
                self._fetch(before, folder, weights_manifest.verify)
                for file in folder.glob("*.safetensors"):
                    _make_own(file)
                break
            deltas.append(before)
        else:
            _copy(held[base].folder, folder, self._spares)
        for delta in reversed(deltas):
            self._apply(delta, folder)
        weights_manifest.verify(folder, manifest)

    def _apply(self, delta: WeightManifest, folder: Path) -> None:
        with _temporary_folder(self._folder) as payload:
            self._fetch(delta, payload, weights_manifest.verify_files)
            if delta.encoding == weights_pb2.WEIGHT_ENCODING_ADAPTER:
                apply_adapter(payload, folder)
            else:
                apply_delta(payload / DELTA_FILE, folder)

    def _base_folder(self, manifest: WeightManifest) -> Path:
        """The weights that an adapter builds on. They are kept: the next adapter builds on them too."""
        base = self._base_of(manifest)
        if self._adapted is not None and self._adapted[0] == base:
            return self._adapted[1]
        folder = Path(tempfile.mkdtemp(prefix=f"{base:08d}-base-", dir=self._folder))
        try:
            if base in self._held:
                for file in self._held[base].folder.iterdir():
                    os.link(file, folder / file.name)
            else:
                self._fill(_also_from(manifest, self._manifest_of(base)), folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._drop_base()
        self._adapted = base, folder
        return folder

    def _drop_base(self) -> None:
        if self._adapted is not None:
            shutil.rmtree(self._adapted[1], ignore_errors=True)
        self._adapted = None

    def _base_of(self, manifest: WeightManifest) -> int:
        version = manifest.policy_version
        if manifest.encoding not in _ON_A_BASE or not manifest.HasField("base_version"):
            encoding = weights_pb2.WeightEncoding.Name(manifest.encoding)
            raise FailedPrecondition(
                f"policy version {version} is encoded as {encoding}: this generator takes WEIGHT_ENCODING_FULL and, "
                "with a base_version, WEIGHT_ENCODING_SPARSE_DELTA and WEIGHT_ENCODING_ADAPTER",
                field="manifest.encoding",
            )
        if manifest.base_version >= version:
            raise DataLoss(f"policy version {version} claims to be a delta to {manifest.base_version}")
        return manifest.base_version

    def _fetch(self, manifest: WeightManifest, folder: Path, check: Check, *, only_whole: bool = False) -> None:
        """Fills and checks a folder from the first source that does."""
        failure: PreceptorError = FailedPrecondition(
            f"none of the sources of policy version {manifest.policy_version} can be used here",
            field="manifest.sources",
        )
        wants_delta = check is weights_manifest.verify_files
        for source in manifest.sources:
            fetcher = self._fetchers.get(source.transport)
            if fetcher is None or (only_whole and not fetcher.brings_whole) or (wants_delta and fetcher.brings_whole):
                continue
            try:
                fetcher.fetch(manifest, source, folder)
                check(folder, manifest)
            except (NotFound, Unavailable, DataLoss) as error:
                transport = weights_pb2.WeightTransport.Name(source.transport)
                log.warning("a source failed", source=transport, version=manifest.policy_version, error=error.message)
                failure = error
                _empty(folder)
            else:
                return
        raise failure

    def _check(self, manifest: WeightManifest) -> None:
        if manifest.run_id != self._run_id:
            raise FailedPrecondition(
                f"policy version {manifest.policy_version} is of run {manifest.run_id}, and this generator serves "
                f"{self._run_id}",
                field="manifest.run_id",
                reason="OTHER_RUN",
            )
        if manifest.encoding != weights_pb2.WEIGHT_ENCODING_FULL:
            self._base_of(manifest)
        if self._served is not None:
            _check_same_model(manifest, self._served)


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


@contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="delta-", dir=parent, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _also_from(announced: WeightManifest, stored: WeightManifest) -> WeightManifest:
    """A stored manifest with the learner that announced another one as a source: it serves whatever is stored."""
    learners = [source for source in announced.sources if source.transport == weights_pb2.WEIGHT_TRANSPORT_GRPC]
    sources = [*learners, *stored.sources]
    del stored.sources[:]
    stored.sources.extend(sources)
    return stored


def _copy(source: Path, folder: Path, spares: SpareFiles) -> None:
    for file in source.iterdir():
        size = file.stat().st_size
        with file.open("rb") as reading, os.fdopen(spares.create(folder / file.name, size), "wb") as writing:
            shutil.copyfileobj(reading, writing, CHUNK_BYTES)


def _make_own(file: Path) -> None:
    """Makes a file that may be a link to another's into one of our own that may be written."""
    if file.stat().st_nlink > 1:
        staged = file.with_suffix(".own")
        shutil.copyfile(file, staged)
        staged.replace(file)
    file.chmod(0o644)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
