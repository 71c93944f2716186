"""Manifests of policy versions: what tensors a model folder holds, checked byte for byte, without torch."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3
from google.protobuf import json_format

from preceptor.api.learner.v1 import weights_pb2
from preceptor.common.durable import write_durably
from preceptor.common.errors import DataLoss, FailedPrecondition, InvalidInput, NotFound

MANIFEST_FILE = "manifest.json"
CHECKSUM_ALGORITHM = "blake3"
_CHUNK_BYTES = 1024 * 1024
_HASHERS = 4  # past that, memory bandwidth is the limit
_MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit
_VOLATILE_CONFIG_KEYS = {"_name_or_path", "transformers_version", "dtype", "torch_dtype"}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor's bytes are: [begin, end) of the file, little-endian, row-major."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    begin: int
    end: int

    @property
    def size_bytes(self) -> int:
        return self.end - self.begin


def read_tensors(model_dir: Path) -> list[StoredTensor]:
    """Returns every tensor of a folder's *.safetensors files, by name.

    Raises:
        NotFound: there is no such file.
        DataLoss: a header is broken, a file is cut short, or two files hold the same name.
    """
    files = sorted(model_dir.glob("*.safetensors"))
    if not files:
        raise NotFound(f"no *.safetensors file in {model_dir}", reason="NO_WEIGHTS")
    found: dict[str, StoredTensor] = {}
    for file in files:
        for tensor in _read_header(file):
            if tensor.name in found:
                raise DataLoss(f"tensor {tensor.name} stands in {found[tensor.name].file.name} and {file.name}")
            found[tensor.name] = tensor
    return [found[name] for name in sorted(found)]


def build_manifest(
    run_id: str,
    version: int,
    model_dir: Path,
    *,
    learner_step: int = 0,
    sources: Iterable[weights_pb2.WeightSource] = (),
) -> weights_pb2.WeightManifest:
    """Returns the manifest of a full version from a Hugging Face folder: config.json and *.safetensors."""
    stored = read_tensors(model_dir)
    tensors = [
        weights_pb2.TensorManifest(
            name=tensor.name, dtype=tensor.dtype, shape=tensor.shape, size_bytes=tensor.size_bytes, checksum=digest
        )
        for tensor, digest in zip(stored, _checksums(stored), strict=True)
    ]
    manifest = weights_pb2.WeightManifest(
        run_id=run_id,
        policy_version=version,
        encoding=weights_pb2.WEIGHT_ENCODING_FULL,
        sources=sources,
        tensors=tensors,
        checksum_algorithm=CHECKSUM_ALGORITHM,
        size_bytes=sum(tensor.size_bytes for tensor in tensors),
        learner_step=learner_step,
        model_digest=model_digest(model_dir),
        content_digest=content_digest(tensors),
        files=list_files(model_dir),
    )
    manifest.published_at.GetCurrentTime()
    return manifest


def verify(model_dir: Path, manifest: weights_pb2.WeightManifest) -> None:
    """Returns when the folder holds exactly what a manifest of a full version says.

    Raises:
        DataLoss: naming the first tensor that is missing, extra, of another shape or dtype, or of other bytes.
        FailedPrecondition: the folder's config.json is of another architecture.
        InvalidInput: the manifest itself contradicts itself or uses an unknown checksum.
    """
    _check_manifest(manifest)
    if manifest.model_digest and model_digest(model_dir) != manifest.model_digest:
        raise FailedPrecondition(
            f"config.json in {model_dir} is not the model of policy version {manifest.policy_version}",
            reason="OTHER_MODEL",
        )
    stored = {tensor.name: tensor for tensor in read_tensors(model_dir)}
    found: list[StoredTensor] = []
    for expected in manifest.tensors:
        tensor = stored.pop(expected.name, None)
        if tensor is None:
            raise _mismatch(manifest, expected.name, "is missing")
        if (tensor.dtype, tensor.shape) != (expected.dtype, tuple(expected.shape)):
            got, want = f"{tensor.dtype}{list(tensor.shape)}", f"{expected.dtype}{list(expected.shape)}"
            raise _mismatch(manifest, expected.name, f"is {got}, the manifest says {want}")
        found.append(tensor)
    if stored:
        raise _mismatch(manifest, min(stored), "is not in the manifest")
    for expected, digest in zip(manifest.tensors, _checksums(found), strict=True):
        if digest != expected.checksum:
            raise _mismatch(manifest, expected.name, "has other bytes than the manifest's checksum")


def list_files(folder: Path) -> list[weights_pb2.WeightFile]:
    """Returns the files of a version's folder, weights first. Those that hold no tensors carry a checksum."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != MANIFEST_FILE)
    names.sort(key=lambda name: not name.endswith(".safetensors"))
    return [
        weights_pb2.WeightFile(
            name=name,
            size_bytes=(folder / name).stat().st_size,
            checksum=b"" if name.endswith(".safetensors") else file_checksum(folder / name),
        )
        for name in names
    ]


def verify_files(folder: Path, manifest: weights_pb2.WeightManifest) -> None:
    """Returns when the manifest's files are in the folder, of their sizes and checksums; DataLoss otherwise."""
    for file in manifest.files:
        path = folder / file.name
        if not path.is_file() or path.stat().st_size != file.size_bytes:
            raise _mismatch(manifest, file.name, kind="file", what=f"is not a file of {file.size_bytes} bytes")
        if file.checksum and file_checksum(path) != file.checksum:
            raise _mismatch(manifest, file.name, kind="file", what="has other bytes than the manifest's checksum")


def checksum(tensor: StoredTensor) -> bytes:
    """Returns the BLAKE3 digest (32 bytes) of a tensor's stored bytes."""
    return _digest(tensor.file, tensor.begin, tensor.end)


def file_checksum(path: Path) -> bytes:
    """Returns the BLAKE3 digest (32 bytes) of a whole file."""
    return _digest(path, 0, path.stat().st_size)


def model_digest(model_dir: Path) -> str:
    """Returns the BLAKE3 hex digest of config.json, less the keys that change between savings of one architecture."""
    try:
        config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFound(f"no config.json in {model_dir}", reason="NO_MODEL_CONFIG") from error
    except ValueError as error:
        raise DataLoss(f"config.json in {model_dir} is not JSON: {error}") from error
    kept = {key: value for key, value in config.items() if key not in _VOLATILE_CONFIG_KEYS}
    return blake3(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def content_digest(tensors: Iterable[weights_pb2.TensorManifest]) -> str:
    """Returns the BLAKE3 hex digest over names, dtypes, shapes and checksums, in the order of the names."""
    digest = blake3()
    for tensor in sorted(tensors, key=lambda item: item.name):
        line = json.dumps([tensor.name, tensor.dtype, list(tensor.shape), tensor.checksum.hex()])
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def write_manifest(manifest: weights_pb2.WeightManifest, model_dir: Path) -> Path:
    """Writes manifest.json beside the weights, durably. Returns its path."""
    path = model_dir / MANIFEST_FILE
    write_durably(path, json_format.MessageToJson(manifest, indent=1).encode())
    return path


def read_manifest(model_dir: Path) -> weights_pb2.WeightManifest:
    """Returns the manifest of a folder.

    Raises:
        NotFound: there is none.
        DataLoss: it is broken, or its digest does not fit its tensors.
    """
    path = model_dir / MANIFEST_FILE
    try:
        manifest = parse_manifest(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFound(f"no {MANIFEST_FILE} in {model_dir}", reason="NO_MANIFEST") from error
    except (InvalidInput, UnicodeDecodeError) as error:
        raise DataLoss(f"{path} is broken: {error}", reason="BROKEN_MANIFEST") from error
    return manifest


def parse_manifest(text: str) -> weights_pb2.WeightManifest:
    """Returns the manifest that proto JSON describes, its digest checked; InvalidInput otherwise."""
    try:
        manifest = json_format.Parse(text, weights_pb2.WeightManifest(), ignore_unknown_fields=True)
    except json_format.ParseError as error:
        raise InvalidInput(f"not a manifest: {error}", reason="BROKEN_MANIFEST") from error
    _check_manifest(manifest)
    return manifest


def _check_manifest(manifest: weights_pb2.WeightManifest) -> None:
    if manifest.checksum_algorithm != CHECKSUM_ALGORITHM:
        raise InvalidInput(
            f'checksum algorithm "{manifest.checksum_algorithm}" is unknown: use "{CHECKSUM_ALGORITHM}"',
            field="checksum_algorithm",
        )
    if manifest.content_digest != content_digest(manifest.tensors):
        raise InvalidInput("content_digest does not fit the tensors listed", field="content_digest")


def _mismatch(manifest: weights_pb2.WeightManifest, name: str, what: str, kind: str = "tensor") -> DataLoss:
    return DataLoss(
        f"policy version {manifest.policy_version} of {manifest.run_id}: {kind} {name} {what}",
        reason="CORRUPT_WEIGHTS",
        field=name,
    )


def _read_header(file: Path) -> Iterator[StoredTensor]:
    # https://github.com/huggingface/safetensors#format: u64 header length, JSON header, tensor bytes.
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = struct.unpack("<Q", stream.read(8).ljust(8, b"\0"))[0]
        if not 0 < length <= min(_MAX_HEADER_BYTES, size - 8):
            raise DataLoss(f"{file} has no safetensors header: it is empty, cut short or another format")
        try:
            header = json.loads(stream.read(length))
            entries = [(name, entry) for name, entry in header.items() if name != "__metadata__"]
            yield from (_stored(file, name, entry, 8 + length, size) for name, entry in entries)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataLoss(f"the safetensors header of {file} is broken: {error}") from error


def _stored(file: Path, name: str, entry: Any, base: int, size: int) -> StoredTensor:
    begin, end = entry["data_offsets"]
    if not 0 <= begin <= end <= size - base:
        raise DataLoss(f"{file} is cut short: tensor {name} ends at byte {base + end} of {size}", field=name)
    return StoredTensor(name, str(entry["dtype"]), tuple(map(int, entry["shape"])), file, base + begin, base + end)


def _checksums(tensors: list[StoredTensor]) -> list[bytes]:
    with ThreadPoolExecutor(min(_HASHERS, len(os.sched_getaffinity(0)))) as pool:
        return list(pool.map(checksum, tensors))


def _digest(path: Path, begin: int, end: int) -> bytes:
    digest, buffer = blake3(), bytearray(min(_CHUNK_BYTES, end - begin))
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        file.seek(begin)
        while begin < end:
            got = file.readinto(view[: min(_CHUNK_BYTES, end - begin)])
            if not got:
                raise DataLoss("the file became shorter while it was read")
            digest.update(view[:got])
            begin += got
    return digest.digest()
