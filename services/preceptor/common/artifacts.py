"""Models, checkpoints and manifests: a local folder or any fsspec store, under one address.

Object stores are configured as their fsspec package and fsspec itself are: for S3 by AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, AWS_DEFAULT_REGION or a profile, or by FSSPEC_S3_<OPTION> variables.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from preceptor.common.durable import (
    STAGING_PREFIX,
    copy_tree_durably,
    exchange,
    staging_path,
    sync_dir,
    sync_tree,
    write_durably,
)
from preceptor.common.errors import AlreadyExists, DataLoss, InvalidInput, NotFound
from preceptor.common.remote_store import file_system, remote_errors

# Whoever sees one of these in a store may rely on the rest of the folder: they are uploaded last.
_LAST_FILES = ("manifest.json", "card.json", "LATEST.json")


class ArtifactStore:
    """A store at one address. Paths within it are relative, with "/" and without "..". Threads may share it.

    Args:
        url: "file:///folder", "/folder", or another address that fsspec knows ("s3://bucket/folder").
        cache_dir: where `local` keeps what it downloads; a folder of the user's cache unless given.
    """

    def __init__(self, url: str, *, cache_dir: Path | None = None) -> None:
        self.url = _normalise(url)
        self._root = _local_path(self.url)
        self._cache = cache_dir or Path.home() / ".cache" / "preceptor" / "artifacts"

    def path(self, rel: str) -> str:
        """Returns the full address of a path."""
        return f"{self.url}/{_checked(rel)}"

    def local(self, rel_or_uri: str) -> Path:
        """Returns a local file or folder with the content: itself when it is local, else a cached copy.

        Cached copies are never refreshed: use it for what never changes once it is written (versions, checkpoints).

        Raises:
            NotFound: there is nothing at that address.
        """
        uri = rel_or_uri if "://" in rel_or_uri or rel_or_uri.startswith("/") else self.path(rel_or_uri)
        path = _local_path(_normalise(uri))
        if path is None:
            return self._download(uri)
        if not path.exists():
            raise NotFound(f"no artifact at {uri}", reason="NO_ARTIFACT")
        return path

    def reference(self, rel_or_uri: str) -> str:
        """Returns what to tell another process: the local path of what is local, else the address, which it can fetch.

        Raises:
            NotFound: there is nothing at that address.
        """
        uri = rel_or_uri if "://" in rel_or_uri or rel_or_uri.startswith("/") else self.path(rel_or_uri)
        if _local_path(_normalise(uri)) is not None:
            return str(self.local(uri))
        if not file_system(uri).exists(uri):
            raise NotFound(f"no artifact at {uri}", reason="NO_ARTIFACT")
        return uri

    def put_dir(self, local_dir: Path, rel: str, *, replace: bool = False, move: bool = False) -> str:
        """Stores a folder; readers see all of it or nothing. Durable on return. Returns its address.

        On an object store, files whose presence vouches for the others (manifest.json, card.json) are written last.

        Args:
            local_dir: what to store.
            rel: where.
            replace: whether an existing folder may be replaced; in one step on a local disk.
            move: `local_dir` may be consumed, which spares a copy on the same file system.

        Raises:
            AlreadyExists: `rel` exists and `replace` is false.
        """
        if not replace and self.exists(rel):
            raise AlreadyExists(f"{self.path(rel)} exists already", reason="ARTIFACT_EXISTS")
        if self._root is None:
            self._upload(local_dir, rel, replace)
        else:
            self._put_local_dir(local_dir, self._root / _checked(rel), move)
        return self.path(rel)

    def put_json(self, rel: str, obj: Any) -> None:
        """Writes a JSON file in one durable step, replacing what was there."""
        data = json.dumps(obj, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"
        if self._root is not None:
            write_durably(self._root / _checked(rel), data)
        else:
            with remote_errors(self.path(rel), writing=True):
                self._fs().pipe_file(self.path(rel), data)

    def put_text(self, rel: str, text: str) -> str:
        """Writes a text file in one durable step, replacing what was there. Returns its `reference`."""
        if self._root is not None:
            path = self._root / _checked(rel)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(path, text.encode())
        else:
            with remote_errors(self.path(rel), writing=True):
                self._fs().pipe_file(self.path(rel), text.encode())
        return self.reference(rel)

    def get_json(self, rel: str) -> Any:
        """Returns a JSON file's content. NotFound without one, DataLoss when it is no JSON."""
        with self.open(rel, "rb") as file:
            data = file.read()
        try:
            return json.loads(data)
        except ValueError as error:
            raise DataLoss(f"{self.path(rel)} is not JSON: {error}", reason="BROKEN_JSON") from error

    def exists(self, rel: str) -> bool:
        if self._root is not None:
            return (self._root / _checked(rel)).exists()
        with remote_errors(self.path(rel)):
            return bool(self._fs().exists(self.path(rel)))

    def list(self, rel: str = "") -> list[str]:
        """Returns the names in a folder, sorted; empty when there is none. What is being written is not shown."""
        if self._root is not None:
            folder = self._root / _checked(rel)
            names = [child.name for child in folder.iterdir()] if folder.is_dir() else []
        else:
            fs, uri = self._fs(), self.path(rel).rstrip("/")
            with remote_errors(uri):
                names = [PurePosixPath(found).name for found in fs.ls(uri, detail=False)] if fs.isdir(uri) else []
        return sorted(name for name in names if not name.startswith(STAGING_PREFIX))

    def delete(self, rel: str) -> None:
        """Removes a file or folder; succeeds when there is none. A folder vanishes from its place in one step."""
        if not _checked(rel):
            raise InvalidInput("refusing to delete the whole store", field="rel")
        if self._root is None:
            if self.exists(rel):
                with remote_errors(self.path(rel), writing=True):
                    self._fs().rm(self.path(rel), recursive=True)
            self._forget(rel)
            return
        path = self._root / _checked(rel)
        if not path.exists():
            return
        doomed = path.rename(staging_path(path))
        sync_dir(path.parent)
        if doomed.is_dir():
            shutil.rmtree(doomed)
        else:
            doomed.unlink()

    @contextmanager
    def open(self, rel: str, mode: str = "rb") -> Iterator[IO[Any]]:
        """Opens a file as `open` does; a mode that writes makes the folder. NotFound when reading what is not there."""
        encoding = None if "b" in mode else "utf-8"
        if self._root is None:
            options = {"encoding": encoding} if encoding else {}
            with (
                remote_errors(self.path(rel), writing="r" not in mode),
                self._fs().open(self.path(rel), mode, **options) as file,
            ):
                yield file
            return
        path = self._root / _checked(rel)
        if "r" not in mode:
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            opened = path.open(mode, encoding=encoding)
        except FileNotFoundError as error:
            raise NotFound(f"no artifact at {self.path(rel)}", reason="NO_ARTIFACT") from error
        with opened as file:
            yield file

    def _put_local_dir(self, source: Path, target: Path, move: bool) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = staging_path(target)
        try:
            if move and source.stat().st_dev == target.parent.stat().st_dev:
                sync_tree(source)
                source.rename(staged)
            else:
                copy_tree_durably(source, staged)
            if target.exists():
                exchange(staged, target)  # the old content is removed below
            else:
                staged.rename(target)
            sync_dir(target.parent)
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def _upload(self, source: Path, rel: str, replace: bool) -> None:
        if replace:
            self.delete(rel)
        fs = self._fs()
        files = [path for path in source.rglob("*") if path.is_file()]
        with remote_errors(self.path(rel), writing=True):
            for path in sorted(files, key=lambda path: (path.name in _LAST_FILES, str(path))):
                fs.put_file(str(path), f"{self.path(rel)}/{path.relative_to(source).as_posix()}")

    def _download(self, uri: str) -> Path:
        target = self._cached(uri)
        if target.exists():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=STAGING_PREFIX, dir=target.parent) as folder, remote_errors(uri):
            fs = file_system(uri)
            if not fs.exists(uri):
                raise NotFound(f"no artifact at {uri}", reason="NO_ARTIFACT")
            staged = Path(folder) / "content"
            fs.get(uri.rstrip("/"), str(staged), recursive=fs.isdir(uri))
            if not target.exists():
                staged.rename(target)
        return target

    def _forget(self, rel: str) -> None:
        """Removes the local copy of what was deleted."""
        cached = self._cached(self.path(rel))
        if cached.is_dir():
            shutil.rmtree(cached, ignore_errors=True)
        else:
            cached.unlink(missing_ok=True)

    def _cached(self, uri: str) -> Path:
        parts = urlsplit(uri)
        return self._cache / parts.scheme / parts.netloc / _checked(parts.path.strip("/"))

    def _fs(self) -> Any:
        return file_system(self.url)


def _normalise(url: str) -> str:
    if "://" in url:
        return url.rstrip("/")
    if not url.startswith("/"):
        raise InvalidInput(
            f'"{url}" is no address: give "file:///folder" or "s3://bucket/folder"', field="artifacts_url"
        )
    return Path(url).as_uri()


def _local_path(url: str) -> Path | None:
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme in ("file", "local") else None


def _checked(rel: str) -> str:
    pure = PurePosixPath(rel)
    if pure.is_absolute() or ".." in pure.parts:
        raise InvalidInput(f'"{rel}" leaves the artifact store: give a relative path without ".."', field="path")
    return "" if str(pure) == "." else str(pure)
