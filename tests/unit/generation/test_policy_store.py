import json
import shutil
from pathlib import Path

import pytest

from preceptor.api.learner.v1 import weights_pb2
from preceptor.common import weights_manifest
from preceptor.common.artifacts import ArtifactStore
from preceptor.common.errors import DataLoss, FailedPrecondition, NotFound
from preceptor.generation.adapters.fetchers import StoreFetcher
from preceptor.generation.adapters.policy_store import PolicyStore
from preceptor.generation.adapters.spares import SpareFiles
from preceptor.generation.adapters.stager import PolicyStager

RUN = "run-a"


def model(folder: Path, *, fill: float = 0.5, columns: int = 4, name: str = "w", hidden: int = 4) -> Path:
    import numpy
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": hidden}))
    (folder / "tokenizer.json").write_text("{}")
    save_file({name: numpy.full((3, columns), fill, dtype=numpy.float32)}, folder / "model.safetensors")
    return folder


def publish(store: ArtifactStore, version: int, source: Path) -> None:
    staged = source.parent / f"staged-{version}"
    shutil.copytree(source, staged)
    weights_manifest.write_manifest(weights_manifest.build_manifest(RUN, version, staged), staged)
    store.put_dir(staged, f"runs/{RUN}/policy/{version:08d}")
    store.put_json(f"runs/{RUN}/policy/LATEST.json", {"policy_version": version})


@pytest.fixture
def source(artifacts: ArtifactStore) -> PolicyStore:
    return PolicyStore(artifacts, RUN)


@pytest.fixture
def stager(artifacts: ArtifactStore, source: PolicyStore, tmp_path: Path) -> PolicyStager:
    folder = tmp_path / "host"
    folder.mkdir()
    return PolicyStager(
        RUN, [StoreFetcher(artifacts, folder / "downloads")], folder, source.manifest, SpareFiles(folder)
    )


def test_there_is_no_version_before_the_first(source: PolicyStore) -> None:
    assert source.newest_version() is None
    with pytest.raises(NotFound):
        source.manifest(0)


def test_a_published_version_is_staged_whole(
    source: PolicyStore, stager: PolicyStager, artifacts: ArtifactStore, tmp_path: Path
) -> None:
    publish(artifacts, 2, model(tmp_path / "m"))
    assert source.newest_version() == 2
    staged = stager.stage(source.manifest(2))
    assert staged.policy_version == 2
    assert {file.name for file in staged.folder.iterdir()} >= {"config.json", "tokenizer.json", "model.safetensors"}
    artifacts.delete(f"runs/{RUN}/policy/00000002")
    assert (staged.folder / "model.safetensors").exists(), "the copy is our own"
    stager.discard([staged])
    assert not staged.folder.exists()


def test_one_wrong_byte_names_the_tensor_and_leaves_no_copy(
    source: PolicyStore, stager: PolicyStager, artifacts: ArtifactStore, tmp_path: Path
) -> None:
    publish(artifacts, 1, model(tmp_path / "m"))
    file = artifacts.local(f"runs/{RUN}/policy/00000001") / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataLoss) as error:
        stager.stage(source.manifest(1))
    assert error.value.field == "w"
    assert not list((tmp_path / "host").iterdir())


@pytest.mark.parametrize("other", [{"columns": 5}, {"name": "v"}, {"hidden": 8}])
def test_a_version_of_another_model_is_refused(
    source: PolicyStore, stager: PolicyStager, artifacts: ArtifactStore, tmp_path: Path, other: dict[str, int]
) -> None:
    publish(artifacts, 0, model(tmp_path / "m"))
    stager.stage(source.manifest(0))
    publish(artifacts, 1, model(tmp_path / "n", **other))
    with pytest.raises(FailedPrecondition, match="policy version 1"):
        stager.stage(source.manifest(1))


def test_deltas_to_nothing_other_runs_and_unknown_transports_are_refused(stager: PolicyStager) -> None:
    full, delta = weights_pb2.WEIGHT_ENCODING_FULL, weights_pb2.WEIGHT_ENCODING_SPARSE_DELTA
    for manifest, field in [
        (weights_pb2.WeightManifest(run_id="other", encoding=full), "manifest.run_id"),
        (
            weights_pb2.WeightManifest(run_id=RUN, encoding=delta),
            "manifest.encoding",
        ),
        (weights_pb2.WeightManifest(run_id=RUN, encoding=full), "manifest.sources"),
    ]:
        with pytest.raises(FailedPrecondition) as error:
            stager.stage(manifest)
        assert error.value.field == field


def test_a_manifest_in_the_wrong_place_is_data_loss(
    source: PolicyStore, artifacts: ArtifactStore, tmp_path: Path
) -> None:
    publish(artifacts, 1, model(tmp_path / "m"))
    shutil.copytree(artifacts.local(f"runs/{RUN}/policy/00000001"), tmp_path / "moved")
    artifacts.put_dir(tmp_path / "moved", f"runs/{RUN}/policy/00000005")
    with pytest.raises(DataLoss, match="version 1"):
        source.manifest(5)


def test_a_broken_pointer_is_data_loss(source: PolicyStore, artifacts: ArtifactStore) -> None:
    artifacts.put_json(f"runs/{RUN}/policy/LATEST.json", {"version": 3})
    with pytest.raises(DataLoss, match="policy_version"):
        source.newest_version()
