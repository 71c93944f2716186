import os
from pathlib import Path

import pytest

from preceptor.generation.adapters.spares import SpareFiles

SIZE = 1000


def folder_with(path: Path, *sizes: int) -> Path:
    path.mkdir()
    for index, size in enumerate(sizes):
        (path / f"model-{index}.safetensors").write_bytes(b"x" * size)
    return path


def inode_made(spares: SpareFiles, path: Path, size: int) -> int:
    descriptor = spares.create(path, size)
    try:
        found = os.fstat(descriptor)
        assert found.st_size == size
        return found.st_ino
    finally:
        os.close(descriptor)


def test_files_of_the_same_size_are_used_again_once(tmp_path: Path) -> None:
    spares, old = SpareFiles(tmp_path), folder_with(tmp_path / "old", SIZE)
    inode = (old / "model-0.safetensors").stat().st_ino
    spares.keep(old)
    assert inode_made(spares, tmp_path / "other", SIZE + 1) != inode
    assert inode_made(spares, tmp_path / "new", SIZE) == inode
    assert inode_made(spares, tmp_path / "newer", SIZE) != inode
    with pytest.raises(FileExistsError):
        spares.create(tmp_path / "new", SIZE)


def test_no_more_than_one_version_is_kept(tmp_path: Path) -> None:
    spares = SpareFiles(tmp_path)
    for name in ("a", "b"):
        spares.keep(folder_with(tmp_path / name, SIZE, SIZE))
    assert len(list((tmp_path / "spares").iterdir())) == 2


def test_what_others_link_to_or_may_not_be_written_is_left(tmp_path: Path) -> None:
    spares, old = SpareFiles(tmp_path), folder_with(tmp_path / "old", SIZE, SIZE)
    os.link(old / "model-0.safetensors", tmp_path / "another-generator")
    (old / "model-1.safetensors").chmod(0o444)
    spares.keep(old)
    assert len(list(old.iterdir())) == 2
    inode_made(spares, tmp_path / "new", SIZE)
    assert (tmp_path / "another-generator").read_bytes() == b"x" * SIZE
