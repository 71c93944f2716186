"""Policy versions in S3: published, followed, never seen half-written, and errors that say what to do."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from preceptor.api.learner.v1 import weights_pb2
from preceptor.api.learner.v1.weights_pb2 import WeightManifest
from preceptor.common import artifacts
from preceptor.common.artifacts import ArtifactStore
from preceptor.common.errors import FailedPrecondition, InvalidInput, NotFound, PermissionDenied, Unavailable
from preceptor.generation.adapters.fetchers import StoreFetcher
from preceptor.generation.adapters.policy_store import PolicyStore as Versions
from preceptor.generation.adapters.spares import SpareFiles
from preceptor.generation.adapters.stager import PolicyStager
from preceptor.learner.adapters.policy_store import PolicyStore
from preceptor.learner.adapters.publisher import Publisher
from preceptor.learner.adapters.run_checkpoints import RunCheckpoints
from preceptor.learner.run_configs.base import CheckpointConfig
from preceptor.learner.run_configs.rl import PublishConfig
from tests.support.object_store import ObjectStore, object_store
from tests.support.weights import Weights, content

RUN = "run-s3"
DELTA = weights_pb2.WEIGHT_ENCODING_SPARSE_DELTA


@pytest.fixture
def s3() -> Iterator[ObjectStore]:
    with object_store() as found:
        yield found


class Learner:
    """The publishing half of a learner whose store is a bucket."""

    def __init__(self, url: str, folder: Path) -> None:
        self.store = ArtifactStore(url, cache_dir=folder / "cache")
        self.policies = PolicyStore(self.store, RUN)
        self.announced: list[WeightManifest] = []
        self.exports: dict[int, dict[str, bytes]] = {}
        self.model = Weights()
        self._scratch = folder / "scratch"
        self.publisher = Publisher(
            self.policies,
            PublishConfig(keep_versions=3, encoding="delta", full_every=4),
            announce=self.announced.append,
            published=lambda version, seconds: None,
        )

    def publish(self) -> WeightManifest:
        self.model.step()
        version = self.policies.reserve()
        staged = self.model.export(self._scratch / f"{version}")
        self.exports[version] = content(staged)
        self.publisher.submit(version, staged, version)
        self.publisher.flush()
        return self.announced[-1]


def stager_of(url: str, folder: Path) -> tuple[PolicyStager, Versions]:
    """The staging half of a generator, in a process of its own as far as its caches go."""
    folder.mkdir(parents=True)
    store = ArtifactStore(url, cache_dir=folder / "downloads")
    versions = Versions(store, RUN)
    fetchers = [StoreFetcher(store, folder / "downloads")]
    return PolicyStager(RUN, fetchers, folder, versions.manifest, SpareFiles(folder)), versions


def test_versions_and_delta_chains_travel_through_a_bucket(s3: ObjectStore, tmp_path: Path) -> None:
    url = f"s3://{s3.bucket}/artifacts"
    learner = Learner(url, tmp_path / "learner")
    following, versions = stager_of(url, tmp_path / "following")
    assert versions.newest_version() is None
    held = None
    for version in range(7):
        assert learner.publish().policy_version == version
        assert versions.newest_version() == version, "no listing or size is remembered"
        staged = following.stage(versions.manifest(version))
        assert content(staged.folder) == learner.exports[version]
        if held is not None:
            following.discard([held])
        held = staged
    assert [manifest.encoding == DELTA for manifest in learner.announced] == [False, *[True] * 3, False, True, True]
    assert learner.policies.versions() == [4, 5, 6]
    late, _ = stager_of(url, tmp_path / "late")
    assert content(late.stage(versions.manifest(6)).folder) == learner.exports[6]
    again = Learner(url, tmp_path / "again")
    assert again.policies.reserved == 6
    for name in ("following", "late"):
        assert not list((tmp_path / name / "downloads").rglob("*.safetensors")), "downloads are not left lying"
    learner.publisher.close()


class Recorded:
    """fsspec's file system, that writes down what is put where and fails at `cut`."""

    def __init__(self, fs: Any) -> None:
        self._fs = fs
        self.order: list[str] = []
        self.cut = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fs, name)

    def put_file(self, here: str, there: str) -> None:
        self._note(there)
        self._fs.put_file(here, there)

    def pipe_file(self, there: str, data: bytes) -> None:
        self._note(there)
        self._fs.pipe_file(there, data)

    def _note(self, there: str) -> None:
        name = there.rpartition("/")[2]
        if name == self.cut:
            raise OSError("the connection broke")
        self.order.append(name)


def test_latest_moves_only_once_everything_is_there(
    s3: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"s3://{s3.bucket}/artifacts"
    recorded = Recorded(fsspec.filesystem("s3", use_listings_cache=False))
    monkeypatch.setattr(artifacts, "file_system", lambda uri: recorded)
    learner = Learner(url, tmp_path / "learner")
    learner.publish()
    assert recorded.order[0] == "RESERVED.json"
    assert recorded.order[-2:] == ["manifest.json", "LATEST.json"]
    _, versions = stager_of(url, tmp_path / "generator")
    for cut in ("manifest.json", "LATEST.json"):
        recorded.cut = cut
        with pytest.raises(Unavailable, match="the connection broke"):
            Learner(url, tmp_path / f"cut-{cut}").publish()
        assert versions.newest_version() == 0
    recorded.cut = ""
    with pytest.raises(NotFound):
        versions.manifest(1)
    again = Learner(url, tmp_path / "again")
    assert again.publish().policy_version == 3, "numbers that were reserved are not used again"
    assert versions.newest_version() == 3


def test_checkpoints_live_in_a_bucket(s3: ObjectStore, tmp_path: Path) -> None:
    store = ArtifactStore(f"s3://{s3.bucket}/artifacts", cache_dir=tmp_path / "cache")
    rel = "runs/r/checkpoints/00000001"
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "state.bin").write_bytes(b"x" * 100_000)
    store.put_dir(tmp_path / "checkpoint", rel)
    assert (store.local(rel) / "state.bin").read_bytes() == b"x" * 100_000
    store.delete(rel)
    assert not store.exists(rel)
    assert not list((tmp_path / "cache").rglob("state.bin")), "the local copy goes as well"
    assert RunCheckpoints(store, "r", CheckpointConfig(keep=2), scratch=tmp_path / "scratch").load() is None


def test_errors_say_what_to_do(s3: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = ArtifactStore("s3://no-such-bucket/a", cache_dir=tmp_path)
    with pytest.raises(FailedPrecondition, match="create its bucket, or correct artifacts_url"):
        elsewhere.put_json("x.json", {})
    with pytest.raises(NotFound, match="bucket"):
        elsewhere.get_json("x.json")
    with pytest.raises(InvalidInput, match="zzz://b/a cannot be used as a store"):
        ArtifactStore("zzz://b/a").exists("x")
    store = ArtifactStore(f"s3://{s3.bucket}/a", cache_dir=tmp_path)
    store.put_json("x.json", {})
    s3.check_credentials()
    for use in (lambda: store.put_json("x.json", {}), lambda: store.get_json("x.json"), lambda: store.exists("x.json")):
        with pytest.raises(PermissionDenied, match="AWS_ACCESS_KEY_ID"):
            use()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(Unavailable, match="AWS_ENDPOINT_URL"):
        store.get_json("x.json")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setitem(os.environ, "AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(PermissionDenied, match="AWS_ACCESS_KEY_ID"):
        store.get_json("x.json")
