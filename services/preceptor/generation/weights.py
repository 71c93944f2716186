"""What brings a policy version to this host, verified, and whence one hears of newer ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from preceptor.api.learner.v1.weights_pb2 import WeightManifest, WeightSource, WeightTransport


@dataclass(frozen=True, slots=True)
class StagedPolicy:
    """A host copy of one version that was verified tensor by tensor: a Hugging Face folder of our own."""

    policy_version: int
    folder: Path
    manifest: WeightManifest


class WeightFetcher(Protocol):
    """One way for bytes to reach this host. Calls block: run them in a thread."""

    @property
    def transport(self) -> WeightTransport.ValueType:
        """Whose sources it understands."""
        ...

    @property
    def brings_whole(self) -> bool:
        """Whether it brings the whole weights even of a version that is stored as a delta."""
        ...

    def fetch(self, manifest: WeightManifest, source: WeightSource, folder: Path) -> None:
        """Fills an empty folder with the files of a version. Others verify them.

        Raises:
            NotFound: the version is gone, as an overtaken one may be.
            DataLoss: what arrived is broken.
            Unavailable: the source cannot be reached from here.
        """
        ...


class PolicySource(Protocol):
    """Manifests of a run's versions. Calls block: run them in a thread."""

    def newest_version(self) -> int | None:
        """Returns the newest version announced, None before the first."""
        ...

    def manifest(self, version: int) -> WeightManifest:
        """Returns a version's manifest. Raises NotFound, DataLoss."""
        ...


class Stager(Protocol):
    """Fetches and verifies. Calls block: run them in a thread."""

    def stage(self, manifest: WeightManifest) -> StagedPolicy:
        """Returns a verified host copy.

        Raises:
            DataLoss: a tensor is not what the manifest says; it is named.
            FailedPrecondition: of another run or architecture, or of an encoding or transport not supported here.
            NotFound, Unavailable: as WeightFetcher.fetch.
        """
        ...

    def discard(self, staged: Sequence[StagedPolicy]) -> None:
        """Removes host copies."""
        ...
