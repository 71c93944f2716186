"""The artifacts that a conductor's database names, copied out of a store and into another."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import fsspec
from fsspec.core import url_to_fs

from preceptor.common.errors import DataLoss

_CHUNK = 1 << 20


def below(url: str, uris: Iterable[str]) -> tuple[list[str], list[str]]:
    """Of the addresses, the paths within the store at `url` (no path below another), and those that lie elsewhere."""
    base = url.rstrip("/") + "/"
    plain = base.removeprefix("file://")
    inside, outside = set[str](), set[str]()
    for uri in filter(None, uris):
        for prefix in (base, plain):
            if uri.startswith(prefix):
                inside.add(uri.removeprefix(prefix).strip("/"))
                break
        else:
            outside.add(uri)
    kept = [path for path in sorted(inside) if path and not any(path.startswith(f"{other}/") for other in inside)]
    return kept, sorted(outside)


def copy_out(url: str, paths: Iterable[str], folder: Path, on_file: Callable[[str], None]) -> dict[str, Any]:
    """Copies whole folders; what vanishes meanwhile (checkpoints are replaced) is left out and named.

    Returns {files: {path: {size, sha256}}, vanished: [path]}.
    """
    fs, root = url_to_fs(url)
    root = str(root).rstrip("/")
    files: dict[str, Any] = {}
    vanished: list[str] = []
    for path in paths:
        found = fs.find(f"{root}/{path}")
        if not found:
            vanished.append(path)
        for name in found:
            rel = str(name).removeprefix(root).strip("/")
            on_file(rel)
            target = folder / rel
            try:
                files[rel] = _copy(lambda name=name: fs.open(name, "rb"), target)  # type: ignore[misc]
            except FileNotFoundError:
                target.unlink(missing_ok=True)
                vanished.append(rel)
    return {"files": files, "vanished": vanished}


def copy_in(folder: Path, said: dict[str, Any], url: str, on_file: Callable[[str], None]) -> None:
    """Puts the files where they belong in the store at `url`."""
    for rel in said["files"]:
        on_file(rel)
        address = f"{url.rstrip('/')}/{rel}"
        with fsspec.open(address, "wb", auto_mkdir=True) as target, (folder / rel).open("rb") as file:
            while chunk := file.read(_CHUNK):
                target.write(chunk)


def check_artifacts(folder: Path, said: dict[str, Any]) -> None:
    """Raises DataLoss for a file that is not what the manifest says."""
    for rel, expected in said["files"].items():
        path = folder / rel
        if not path.is_file() or path.stat().st_size != expected["size"] or _sha256(path) != expected["sha256"]:
            raise DataLoss(f"{path} is not what was written: the backup is damaged", field=rel)


def _copy(opened: Callable[[], Any], target: Path) -> dict[str, Any]:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with opened() as source, target.open("wb") as file:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            file.write(chunk)
            size += len(chunk)
    return {"size": size, "sha256": digest.hexdigest()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
