"""From a learner's publisher to a generator's verified host copy, by every transport and encoding; no engine."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from preceptor.api.learner.v1 import weights_pb2
from preceptor.api.learner.v1.weights_pb2 import WeightManifest
from preceptor.common.artifacts import ArtifactStore
from preceptor.common.errors import DataLoss, NotFound, Unavailable
from preceptor.generation.adapters.fetchers import ShmFetcher, StoreFetcher
from preceptor.generation.adapters.grpc_fetcher import GrpcFetcher
from preceptor.generation.adapters.policy_store import PolicyStore as Versions
from preceptor.generation.adapters.spares import SpareFiles
from preceptor.generation.adapters.stager import PolicyStager
from preceptor.learner.adapters.policy_store import PolicyStore
from preceptor.learner.adapters.publisher import Publisher
from preceptor.learner.adapters.transports import SHM_PREFIX, GrpcTransport, ShmTransport, Transport
from preceptor.learner.background import BackgroundServer
from preceptor.learner.background import Weights as Served
from preceptor.learner.config import LearnerSettings
from preceptor.learner.monitor import RunControl, RunMonitor
from preceptor.learner.run_configs.rl import PublishConfig
from preceptor.learner.server import WeightFeed
from tests.support.weights import Weights, content

RUN = "run-w"
SERVICES = str(Path(__file__).parents[3] / "services")
FULL, DELTA = weights_pb2.WEIGHT_ENCODING_FULL, weights_pb2.WEIGHT_ENCODING_SPARSE_DELTA


class Learner:
    """The publishing half of a learner."""

    def __init__(self, folder: Path, transports: list[Transport] | None = None, **config: object) -> None:
        self.store = ArtifactStore((folder / "artifacts").as_uri())
        self.policies = PolicyStore(self.store, RUN)
        self.announced: list[WeightManifest] = []
        self.model = Weights()
        self._scratch = folder / "scratch"
        self.exports: dict[int, dict[str, bytes]] = {}
        self.publisher = Publisher(
            self.policies,
            PublishConfig.model_validate({"keep_versions": 50, "encoding": "auto", **config}),
            announce=self.announced.append,
            published=lambda version, seconds: None,
            transports=transports or [],
        )

    def publish(self, share: float = 0.03) -> WeightManifest:
        self.model.step(share)
        version = self.policies.reserve()
        staged = self.model.export(self._scratch / f"{version}-{time.monotonic_ns()}")
        self.exports[version] = content(staged)
        self.publisher.submit(version, staged, version)
        self.publisher.flush()
        return self.announced[-1]


class Generator:
    """The staging half of a generator."""

    def __init__(self, store: ArtifactStore, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.versions = Versions(store, RUN)
        spares = SpareFiles(folder.parent / f"{folder.name}-spares")
        self.grpc = GrpcFetcher(spares, streams=2)
        fetchers = [ShmFetcher(), self.grpc, StoreFetcher(store, folder / "downloads")]
        self.stager = PolicyStager(RUN, fetchers, folder, self.versions.manifest, spares)

    def newest(self) -> WeightManifest:
        return self.versions.manifest(self.versions.newest_version() or 0)


@pytest.fixture
def learner(tmp_path: Path) -> Iterator[Learner]:
    learner = Learner(tmp_path / "learner")
    yield learner
    learner.publisher.close()


@pytest.fixture
def generator(learner: Learner, tmp_path: Path) -> Generator:
    return Generator(learner.store, tmp_path / "generator")


# -- the store ------------------------------------------------------------------------------------------------------


def test_deltas_are_followed_from_the_version_held(learner: Learner, generator: Generator) -> None:
    held = generator.stager.stage(learner.publish())
    for _ in range(20):
        manifest = learner.publish()
        staged = generator.stager.stage(manifest)
        assert content(staged.folder) == learner.exports[manifest.policy_version]
        generator.stager.discard([held])
        held = staged
    encodings = [manifest.encoding for manifest in learner.announced]
    assert encodings == [FULL, *[DELTA] * 15, FULL, *[DELTA] * 4], "full_every is 16"
    assert {path.name for path in held.folder.iterdir()} >= {"config.json", "tokenizer.json", "model.safetensors"}
    assert [path.name for path in generator.folder.iterdir()] == [held.folder.name]


def test_one_who_joins_late_starts_from_the_whole_one_below(learner: Learner, generator: Generator) -> None:
    for _ in range(6):
        learner.publish()
    staged = generator.stager.stage(generator.newest())
    assert content(staged.folder) == learner.exports[5]


def test_overtaken_versions_are_passed_over(learner: Learner, generator: Generator) -> None:
    first = generator.stager.stage(learner.publish())
    for _ in range(4):
        learner.publish()
    # Nothing below what is held is needed any more.
    learner.store.delete(f"runs/{RUN}/policy/00000000")
    staged = generator.stager.stage(generator.newest())
    assert content(staged.folder) == learner.exports[4]
    assert content(first.folder) == learner.exports[0], "the version in force stays as it was"


def test_a_delta_that_saves_little_is_stored_whole(learner: Learner) -> None:
    learner.publish()
    assert learner.publish(share=0.9).encoding == FULL
    assert learner.publish().encoding == DELTA


def test_encoding_full_is_always_whole_and_leaves_no_host_copy(tmp_path: Path) -> None:
    learner = Learner(tmp_path, encoding="full")
    assert [learner.publish().encoding for _ in range(3)] == [FULL] * 3
    assert not list((tmp_path / "scratch").iterdir())


def test_only_one_host_copy_is_kept_and_none_after_the_end(learner: Learner, tmp_path: Path) -> None:
    for _ in range(5):
        learner.publish()
    assert len(list((tmp_path / "learner" / "scratch").iterdir())) == 1
    learner.publisher.close()
    assert not list((tmp_path / "learner" / "scratch").iterdir())


def test_whatever_a_kept_delta_needs_is_kept(tmp_path: Path) -> None:
    learner = Learner(tmp_path / "learner", keep_versions=2, full_every=4)
    for _ in range(7):
        learner.publish()
    # 0 and 4 are whole. 5 and 6 are the newest and need 4; nothing needs 0 to 3.
    assert learner.policies.versions() == [4, 5, 6]
    learner.publisher.pin({5})
    for _ in range(4):
        learner.publish()
    assert learner.policies.versions() == [4, 5, 8, 9, 10]
    generator = Generator(learner.store, tmp_path / "generator")
    assert content(generator.stager.stage(generator.versions.manifest(5)).folder) == learner.exports[5]


def test_a_learner_that_starts_again_begins_with_a_whole_version(learner: Learner, tmp_path: Path) -> None:
    learner.publish()
    learner.publish()
    again = Learner(tmp_path / "learner")
    assert again.publish().encoding == FULL
    assert again.publish().base_version == 2


def test_a_corrupt_delta_is_refused_and_what_is_held_serves_on(learner: Learner, generator: Generator) -> None:
    held = generator.stager.stage(learner.publish())
    manifest = learner.publish()
    file = learner.policies.folder(1) / "delta.safetensors"
    data = bytearray(file.read_bytes())
    for damaged in (data[:-1], data[:100], data[:-5] + b"\0\0\0\0\0"):
        file.write_bytes(damaged)
        with pytest.raises(DataLoss):
            generator.stager.stage(manifest)
    file.write_bytes(data)
    assert content(generator.stager.stage(manifest).folder) == learner.exports[1]
    assert content(held.folder) == learner.exports[0]
    assert len(list(generator.folder.iterdir())) == 2, "no half-made copy is left"


def test_a_base_that_changed_in_memory_is_replaced_from_the_store(learner: Learner, generator: Generator) -> None:
    held = generator.stager.stage(learner.publish())
    file = held.folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-2] ^= 0xFF
    file.write_bytes(data)
    assert content(generator.stager.stage(learner.publish()).folder) == learner.exports[1]


def test_a_missing_link_is_not_found(learner: Learner, generator: Generator) -> None:
    for _ in range(3):
        learner.publish()
    learner.store.delete(f"runs/{RUN}/policy/00000001")
    with pytest.raises(NotFound):
        generator.stager.stage(generator.newest())


# -- grpc -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Learner, BackgroundServer]]:
    learner = Learner(tmp_path / "learner", encoding="full")
    settings = LearnerSettings(artifacts_url=str(tmp_path), redis_url="redis://127.0.0.1:1/0", port=0, metrics_port=0)
    weights = Served(learner.policies, WeightFeed())
    server = BackgroundServer(settings, RUN, RunMonitor(RUN, "rl"), RunControl(), weights)
    server.start()
    learner.publisher._transports = [GrpcTransport(server.address)]
    yield learner, server
    server.stop()


def without_store(manifest: WeightManifest) -> WeightManifest:
    kept = [source for source in manifest.sources if source.transport != weights_pb2.WEIGHT_TRANSPORT_STORE]
    del manifest.sources[:]
    manifest.sources.extend(kept)
    return manifest


def test_several_streams_bring_every_file(served: tuple[Learner, BackgroundServer], tmp_path: Path) -> None:
    learner, _ = served
    learner.model = Weights(elements=8_000_000)  # 48 MB: several ranges
    manifest = learner.publish()
    generator = Generator(learner.store, tmp_path / "generator")
    staged = generator.stager.stage(without_store(manifest))
    assert content(staged.folder) == learner.exports[0]
    assert (staged.folder / "tokenizer.json").read_text() == "{}"


def test_a_delta_and_what_it_needs_come_over_grpc(tmp_path: Path, served: tuple[Learner, BackgroundServer]) -> None:
    _, server = served
    learner = Learner(tmp_path / "learner", transports=[GrpcTransport(server.address)])
    generator = Generator(learner.store, tmp_path / "generator")
    for _ in range(3):
        manifest = without_store(learner.publish())
    assert manifest.encoding == DELTA
    assert content(generator.stager.stage(manifest).folder) == learner.exports[2]


def test_a_broken_stream_goes_on_where_it_broke(
    served: tuple[Learner, BackgroundServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from preceptor.clients.learner import WeightClient

    learner, _ = served
    learner.model = Weights(elements=2_000_000)
    manifest = learner.publish()
    asked: list[int] = []
    whole = WeightClient.fetch_chunks

    def breaks_twice(self, request, *, timeout_s):  # type: ignore[no-untyped-def]
        asked.append(request.offset_bytes)
        for count, chunk in enumerate(whole(self, request, timeout_s=timeout_s)):
            if len(asked) < 3 and count == 2:
                if len(asked) == 1:
                    raise Unavailable("the connection broke")
                chunk = replace(chunk, data=memoryview(bytes(len(chunk.data))))  # arrives damaged
            yield chunk

    monkeypatch.setattr(WeightClient, "fetch_chunks", breaks_twice)
    generator = Generator(learner.store, tmp_path / "generator")
    staged = generator.stager.stage(without_store(manifest))
    assert content(staged.folder) == learner.exports[0]
    assert asked == [0, 2 * 1024**2, 4 * 1024**2]


def test_without_the_learner_the_store_serves(served: tuple[Learner, BackgroundServer], tmp_path: Path) -> None:
    learner, server = served
    manifest = learner.publish()
    assert [source.transport for source in manifest.sources] == [
        weights_pb2.WEIGHT_TRANSPORT_GRPC,
        weights_pb2.WEIGHT_TRANSPORT_STORE,
    ]
    server.stop()
    generator = Generator(learner.store, tmp_path / "generator")
    assert content(generator.stager.stage(manifest).folder) == learner.exports[0]
    with pytest.raises(Unavailable):
        generator.stager.stage(without_store(manifest))


# -- shm ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def shm(tmp_path: Path) -> Path:
    return tmp_path / "shm"


def test_files_are_shared_not_copied_and_outlive_the_learner(tmp_path: Path, shm: Path) -> None:
    learner = Learner(tmp_path / "learner", transports=[ShmTransport(RUN, shm)])
    generator = Generator(learner.store, tmp_path / "generator")
    manifest = learner.publish()
    segment = Path(manifest.sources[0].uri)
    staged = generator.stager.stage(without_store(manifest))
    assert (staged.folder / "model.safetensors").samefile(segment / "model.safetensors")
    learner.publisher.close()
    assert not segment.exists()
    assert content(staged.folder) == learner.exports[0]


def test_a_segment_goes_when_two_versions_have_overtaken_it(tmp_path: Path, shm: Path) -> None:
    learner = Learner(tmp_path / "learner", transports=[ShmTransport(RUN, shm)])
    segments = [Path(learner.publish().sources[0].uri) for _ in range(4)]
    assert [segment.exists() for segment in segments] == [False, False, True, True]


def test_stored_as_a_delta_a_version_is_still_whole_in_shared_memory(tmp_path: Path, shm: Path) -> None:
    learner = Learner(tmp_path / "learner", transports=[ShmTransport(RUN, shm)])
    generator = Generator(learner.store, tmp_path / "generator")
    learner.publish()
    manifest = learner.publish()
    assert manifest.encoding == DELTA
    shutil.rmtree(tmp_path / "learner" / "artifacts")
    assert content(generator.stager.stage(manifest).folder) == learner.exports[1]


def test_deltas_onto_a_shared_file_leave_it_as_it_is(tmp_path: Path, shm: Path) -> None:
    learner = Learner(tmp_path / "learner", transports=[ShmTransport(RUN, shm)])
    generator = Generator(learner.store, tmp_path / "generator")
    held = generator.stager.stage(learner.publish())
    learner.publish()
    staged = generator.stager.stage(generator.newest())  # from the store: a delta
    assert content(staged.folder) == learner.exports[1]
    assert content(held.folder) == learner.exports[0]


@pytest.mark.parametrize("what", ["another host", "gone", "damaged"])
def test_shared_memory_that_cannot_be_used_falls_back_to_the_store(tmp_path: Path, shm: Path, what: str) -> None:
    learner = Learner(tmp_path / "learner", transports=[ShmTransport(RUN, shm)])
    generator = Generator(learner.store, tmp_path / "generator")
    learner.publish()
    manifest = learner.publish()
    segment = Path(manifest.sources[0].uri)
    if what == "another host":
        manifest.sources[0].host = "elsewhere"
    elif what == "gone":
        shutil.rmtree(segment)
    else:
        file = segment / "model.safetensors"
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.chmod(0o644)
        file.write_bytes(data)
    assert content(generator.stager.stage(manifest).folder) == learner.exports[1]


def test_what_a_killed_learner_left_is_removed_by_the_next(tmp_path: Path, shm: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from preceptor.learner.adapters.transports import ShmTransport\n"
        "made = ShmTransport(sys.argv[1], Path(sys.argv[2]))\n"
        "made.offer(0, Path(sys.argv[3]))\nprint('ready', flush=True)\ntime.sleep(600)\n"
    )
    staged = Weights().export(tmp_path / "export")
    command = [sys.executable, "-c", code, RUN, str(shm), str(staged)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": SERVICES}) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        left = list(shm.glob(f"{SHM_PREFIX}*"))
        beside = ShmTransport(RUN, shm)
        assert left[0].exists(), "its owner lives"
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    ShmTransport("another-run", shm).close()
    assert not left[0].exists()
    beside.close()
    assert not list(shm.iterdir())


def test_full_shared_memory_is_left_alone(tmp_path: Path, shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = Learner(tmp_path / "learner", transports=[ShmTransport(RUN, shm)])
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    manifest = learner.publish()
    assert [source.transport for source in manifest.sources] == [weights_pb2.WEIGHT_TRANSPORT_STORE]
