"""The run's policy versions in the artifact store: numbers are reserved before use, contents never change."""

import re
import shutil
from pathlib import Path

from preceptor.api.learner.v1 import weights_pb2
from preceptor.common.artifacts import ArtifactStore
from preceptor.common.errors import DataLoss, FailedPrecondition, InvalidInput, NotFound
from preceptor.common.weights_manifest import (
    MANIFEST_FILE,
    build_manifest,
    file_checksum,
    list_files,
    parse_manifest,
    write_manifest,
)

_VERSION = re.compile(r"^\d{8,}$")


class PolicyStore:
    """runs/<run_id>/policy/: <version:08d>/, RESERVED.json, LATEST.json.

    A version's folder holds manifest.json and either a whole Hugging Face folder or the delta to another version.
    """

    def __init__(self, store: ArtifactStore, run_id: str) -> None:
        self._store = store
        self._run_id = run_id
        self._base_rel = f"runs/{run_id}/policy"
        self._reserved = self._read_number("RESERVED.json")
        self._bases: dict[int, int | None] = {}

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
        self._store.put_json(f"{self._base_rel}/RESERVED.json", {"policy_version": number})
        self._reserved = number
        return number

    def publish(self, version: int, staged: Path, *, step: int, keep: bool = False) -> weights_pb2.WeightManifest:
        """Makes a staged folder (which is consumed) the content of `version`, then moves LATEST.json to it.

        keep: leave the host copy where `host_copy` finds it.

        Raises:
            AlreadyExists: the version has a content.
        """
        manifest = self._describe(version, staged, step)
        write_manifest(manifest, staged)
        self._put(version, staged)
        if not keep:
            shutil.rmtree(staged, ignore_errors=True)
        return manifest

    def publish_delta(
        self,
        version: int,
        staged: Path,
        delta: Path,
        *,
        base: int,
        step: int,
        encoding: weights_pb2.WeightEncoding.ValueType = weights_pb2.WEIGHT_ENCODING_SPARSE_DELTA,
    ) -> weights_pb2.WeightManifest:
        """As `publish`, but stores the folder `delta` (which is consumed): what turns version `base` into `staged`.

        The host copy `staged` is left as it is.

        Raises:
            AlreadyExists: the version has a content.
            NotFound: the base, or what the base is a delta to, is not in the store.
        """
        self.chain(base)
        manifest = self._describe(version, staged, step)
        manifest.encoding = encoding
        manifest.base_version = base
        del manifest.files[:]
        manifest.files.extend(list_files(delta))
        for file in manifest.files:
            file.checksum = file_checksum(delta / file.name)
        write_manifest(manifest, delta)
        self._put(version, delta)
        shutil.rmtree(delta, ignore_errors=True)
        return manifest

    def host_copy(self, version: int, staged: Path) -> Path:
        """Where the whole weights of a version that was published with `keep` are on this host."""
        return staged if staged.is_dir() else self.folder(version)

    def chain(self, version: int) -> list[int]:
        """The versions that `version` needs, from itself down to one that is stored whole; NotFound without one."""
        chain = [version]
        while (base := self._base(chain[-1])) is not None:
            chain.append(base)
        return chain

    def same_content(self, version: int, staged: Path) -> bool:
        """Whether `version` is in the store with exactly the weights of a staged folder."""
        try:
            stored = self.manifest(version)
        except (NotFound, DataLoss):
            return False
        return stored.content_digest == build_manifest(self._run_id, version, staged).content_digest

    def manifest(self, version: int) -> weights_pb2.WeightManifest:
        """NotFound if the version was never published or has been collected; DataLoss if its manifest is broken."""
        rel = f"{self._rel(version)}/{MANIFEST_FILE}"
        if not self._store.exists(rel):
            raise self._missing(version)
        try:
            with self._store.open(rel, "rb") as file:
                return parse_manifest(file.read().decode())
        except (InvalidInput, UnicodeDecodeError) as error:
            raise DataLoss(f"{self._store.path(rel)} is broken: {error}", reason="BROKEN_MANIFEST") from error

    def folder(self, version: int) -> Path:
        """A local folder with the version's files; NotFound if there is none."""
        if not self._store.exists(self._rel(version)):
            raise self._missing(version)
        return self._store.local(self._rel(version))

    def whole(self, version: int) -> Path:
        """As `folder`, of a version that is stored whole. FailedPrecondition for another."""
        if self._base(version) is not None:
            raise FailedPrecondition(f"policy version {version} is not stored whole: adapters build on one that is")
        return self.folder(version)

    def files(self, version: int) -> list[Path]:
        """Local files with the bytes of a version, in the order of its manifest; NotFound if there is none."""
        folder = self.folder(version)
        named = [folder / Path(file.name).name for file in self.manifest(version).files]
        return named or sorted(folder.glob("*.safetensors"))

    def versions(self) -> list[int]:
        """Versions in the store, ascending."""
        return sorted(int(name) for name in self._store.list(self._base_rel) if _VERSION.match(name))

    def collect_garbage(self, *, keep_newest: int, keep_every: int, pinned: set[int]) -> list[int]:
        """Removes what neither the newest, nor every keep_every-th, nor `pinned`, nor a delta of those needs.

        Returns what went.
        """
        versions = self.versions()
        wanted = set(versions[-keep_newest:]) | pinned | {v for v in versions if keep_every and v % keep_every == 0}
        kept = {link for version in wanted & set(versions) for link in self._needed(version)}
        doomed = [version for version in versions if version not in kept]
        for version in reversed(doomed):  # a delta goes before what it is a delta to
            self._store.delete(self._rel(version))
            self._bases.pop(version, None)
        return doomed

    def _needed(self, version: int) -> list[int]:
        try:
            return self.chain(version)
        except (NotFound, DataLoss):
            return [version]  # what an interrupted upload left; nothing follows from it

    def _missing(self, version: int) -> NotFound:
        return NotFound(
            f"policy version {version} of run {self._run_id} is not in the store", reason="NO_POLICY_VERSION"
        )

    def _describe(self, version: int, staged: Path, step: int) -> weights_pb2.WeightManifest:
        uri = self._store.path(self._rel(version))
        source = weights_pb2.WeightSource(transport=weights_pb2.WEIGHT_TRANSPORT_STORE, uri=uri, host="")
        return build_manifest(self._run_id, version, staged, learner_step=step, sources=[source])

    def _put(self, version: int, folder: Path) -> None:
        rel = self._rel(version)
        self._store.put_dir(folder, rel, move=True)
        self._store.put_json(f"{self._base_rel}/LATEST.json", {"policy_version": version, "path": rel})

    def _base(self, version: int) -> int | None:
        if version not in self._bases:
            manifest = self.manifest(version)
            is_whole = manifest.encoding == weights_pb2.WEIGHT_ENCODING_FULL
            if not is_whole and manifest.base_version >= version:
                raise DataLoss(f"policy version {version} claims to be a delta to {manifest.base_version}")
            self._bases[version] = None if is_whole else manifest.base_version
        return self._bases[version]

    def _rel(self, version: int) -> str:
        return f"{self._base_rel}/{version:08d}"

    def _read_number(self, name: str) -> int:
        try:
            return int(self._store.get_json(f"{self._base_rel}/{name}")["policy_version"])
        except NotFound:
            return -1
