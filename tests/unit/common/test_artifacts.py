"""The store: all or nothing, durable, and the same on a folder as on an object store."""

import json
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from preceptor.common import durable
from preceptor.common.artifacts import ArtifactStore
from preceptor.common.errors import AlreadyExists, DataLoss, InvalidInput, NotFound


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ArtifactStore]:
    if request.param == "file":
        yield ArtifactStore((tmp_path / "store").as_uri())
        return
    url = f"memory://{uuid.uuid4().hex}"
    yield ArtifactStore(url, cache_dir=tmp_path / "cache")
    memory = fsspec.filesystem("memory", use_listings_cache=False)
    if memory.exists(url):
        memory.rm(url, recursive=True)


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    return _folder(tmp_path / "model", {"manifest.json": "{}", "model.safetensors": "weights", "sub/a.txt": "a"})


def _folder(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def _content(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_a_folder_comes_back_as_it_went_in(store: ArtifactStore, model_dir: Path) -> None:
    uri = store.put_dir(model_dir, "runs/r/policy/00000001")
    assert uri == store.path("runs/r/policy/00000001")
    for address in (uri, "runs/r/policy/00000001"):
        assert _content(store.local(address)) == _content(model_dir)
    assert store.list("runs/r/policy") == ["00000001"]
    assert store.list("runs/r/policy/00000001") == ["manifest.json", "model.safetensors", "sub"]


def test_what_exists_is_not_overwritten_unless_asked(store: ArtifactStore, model_dir: Path, tmp_path: Path) -> None:
    store.put_dir(model_dir, "m")
    other = _folder(tmp_path / "other", {"only.txt": "new"})
    with pytest.raises(AlreadyExists):
        store.put_dir(other, "m")
    assert store.list("m") == ["manifest.json", "model.safetensors", "sub"]
    store.put_dir(other, "m", replace=True)
    assert store.list("m") == ["only.txt"]


def test_json_comes_back_and_replaces_the_old(store: ArtifactStore) -> None:
    for version in (1, 2):
        store.put_json("runs/r/policy/LATEST.json", {"policy_version": version})
    assert store.get_json("runs/r/policy/LATEST.json") == {"policy_version": 2}


def test_json_refuses_nan(store: ArtifactStore) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        store.put_json("x.json", {"score": float("nan")})
    assert not store.exists("x.json")


def test_broken_json_is_data_loss(store: ArtifactStore) -> None:
    with store.open("x.json", "wb") as file:
        file.write(b'{"cut')
    with pytest.raises(DataLoss, match=r"x\.json"):
        store.get_json("x.json")


def test_missing_things_are_not_found(store: ArtifactStore) -> None:
    for attempt in (lambda: store.get_json("no"), lambda: store.local("no"), lambda: store.open("no").__enter__()):
        with pytest.raises(NotFound, match="no artifact at"):
            attempt()
    assert not store.exists("no")
    assert store.list("no") == []


def test_delete_removes_files_and_folders_and_repeats(store: ArtifactStore, model_dir: Path) -> None:
    store.put_dir(model_dir, "a/m")
    store.put_json("a/x.json", 1)
    for _ in range(2):
        store.delete("a/m")
        store.delete("a/x.json")
    assert store.list("a") == []
    with pytest.raises(InvalidInput):
        store.delete("")


def test_text_and_append_modes(store: ArtifactStore) -> None:
    with store.open("log/metrics.jsonl", "w") as file:
        file.write("größe\n")
    with store.open("log/metrics.jsonl", "r") as file:
        assert file.read() == "größe\n"


@pytest.mark.parametrize("rel", ["../x", "a/../../x", "/etc/passwd"])
def test_paths_stay_within_the_store(store: ArtifactStore, rel: str, model_dir: Path) -> None:
    for attempt in (lambda: store.path(rel), lambda: store.exists(rel), lambda: store.put_dir(model_dir, rel)):
        with pytest.raises(InvalidInput, match="leaves the artifact store"):
            attempt()


def test_local_takes_other_addresses_and_plain_paths(store: ArtifactStore, model_dir: Path) -> None:
    assert store.local(str(model_dir)) == model_dir
    assert store.local(model_dir.as_uri()) == model_dir


def test_addresses_with_spaces_work(tmp_path: Path, model_dir: Path) -> None:
    store = ArtifactStore(str(tmp_path / "my artifacts"))
    store.put_dir(model_dir, "m")
    assert _content(store.local(store.path("m"))) == _content(model_dir)


def test_a_store_needs_an_address() -> None:
    with pytest.raises(InvalidInput, match="is no address"):
        ArtifactStore("relative/folder")


def test_move_consumes_the_source(artifacts: ArtifactStore, model_dir: Path) -> None:
    before = _content(model_dir)
    artifacts.put_dir(model_dir, "m", move=True)
    assert _content(artifacts.local("m")) == before
    assert not model_dir.exists()


def test_a_failed_put_leaves_nothing(
    artifacts: ArtifactStore, model_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "sync_tree", no_space)
    with pytest.raises(OSError, match="No space"):
        artifacts.put_dir(model_dir, "runs/m")
    assert not artifacts.exists("runs/m")
    assert list((tmp_path / "artifacts" / "runs").iterdir()) == []


def test_an_unfinished_put_is_not_listed(artifacts: ArtifactStore, tmp_path: Path) -> None:
    _folder(tmp_path / "artifacts" / "runs" / f"{durable.STAGING_PREFIX}m-1", {"part": ""})
    assert artifacts.list("runs") == []


def test_files_and_folders_are_synced_before_the_name_appears(
    artifacts: ArtifactStore, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def spy_fsync(descriptor: int) -> None:
        events.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def spy_rename(self: Path, target: Path) -> Path:
        events.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(Path, "rename", spy_rename)
    artifacts.put_dir(model_dir, "runs/m")
    before, after = events[: events.index("rename")], events[events.index("rename") + 1 :]
    assert {"model.safetensors", "manifest.json", "a.txt", "sub"} <= set(before)
    assert any(name.startswith(durable.STAGING_PREFIX) for name in before)
    assert after == ["runs"]


def test_readers_of_json_never_see_a_half_written_file(artifacts: ArtifactStore) -> None:
    artifacts.put_json("LATEST.json", {"policy_version": 0, "padding": "x" * 20_000})
    stop = threading.Event()
    seen: list[int] = []

    def read() -> None:
        while not stop.is_set():
            seen.append(artifacts.get_json("LATEST.json")["policy_version"])

    reader = threading.Thread(target=read)
    reader.start()
    for version in range(100):
        artifacts.put_json("LATEST.json", {"policy_version": version, "padding": "x" * 20_000})
    stop.set()
    reader.join()
    assert seen == sorted(seen)


def test_on_an_object_store_the_manifest_is_written_last(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    memory = fsspec.filesystem("memory", use_listings_cache=False)
    put_file = memory.put_file

    def spy(local: str, remote: str, **options: Any) -> Any:
        written.append(os.path.basename(remote))
        return put_file(local, remote, **options)

    monkeypatch.setattr(memory, "put_file", spy)
    ArtifactStore(f"memory://{uuid.uuid4().hex}").put_dir(model_dir, "m")
    assert written[-1] == "manifest.json"
    assert len(written) == 3


def test_a_download_is_cached(tmp_path: Path, model_dir: Path) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    store = ArtifactStore(url, cache_dir=tmp_path / "cache")
    store.put_dir(model_dir, "m")
    first = store.local("m")
    fsspec.filesystem("memory").rm(f"{url}/m", recursive=True)
    assert store.local("m") == first


def test_replacing_a_folder_is_one_step_for_readers(artifacts: ArtifactStore, tmp_path: Path) -> None:
    artifacts.put_dir(_folder(tmp_path / "v", {"n.json": "0"}), "c")
    stop, missed = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            try:
                json.loads((tmp_path / "artifacts" / "c" / "n.json").read_text())
            except FileNotFoundError as error:
                missed.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for version in range(50):
        (tmp_path / "v" / "n.json").write_text(str(version))
        artifacts.put_dir(tmp_path / "v", "c", replace=True)
    stop.set()
    reader.join()
    assert artifacts.get_json("c/n.json") == 49
    assert artifacts.list() == ["c"]
    assert missed == []
