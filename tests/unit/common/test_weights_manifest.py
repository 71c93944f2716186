"""Manifests: every way a folder can differ from them is named, and no torch is needed to tell."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preceptor.api.learner.v1 import weights_pb2
from preceptor.common.errors import DataLoss, FailedPrecondition, InvalidInput, NotFound, PreceptorError
from preceptor.common.weights_manifest import (
    MANIFEST_FILE,
    build_manifest,
    content_digest,
    parse_manifest,
    read_manifest,
    read_tensors,
    verify,
    write_manifest,
)

Tensors = dict[str, tuple[str, list[int], bytes]]
TENSORS: Tensors = {
    "embed.weight": ("F32", [2, 3], bytes(range(24))),
    "norm.weight": ("BF16", [4], bytes(range(100, 108))),
    "scalar": ("F32", [], b"\x00\x00\x80\x3f"),
}


def save(path: Path, tensors: Tensors) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"hidden_size": 3, "transformers_version": "5.19.0"}')
    save(folder / "model.safetensors", TENSORS)
    return folder


@pytest.fixture
def manifest(model_dir: Path) -> weights_pb2.WeightManifest:
    return build_manifest("run-1", 7, model_dir, learner_step=70)


def test_a_manifest_lists_names_dtypes_shapes_and_sizes(manifest: weights_pb2.WeightManifest) -> None:
    listed = [(t.name, t.dtype, list(t.shape), t.size_bytes) for t in manifest.tensors]
    assert listed == [("embed.weight", "F32", [2, 3], 24), ("norm.weight", "BF16", [4], 8), ("scalar", "F32", [], 4)]
    assert (manifest.run_id, manifest.policy_version, manifest.learner_step) == ("run-1", 7, 70)
    assert manifest.size_bytes == 36
    assert all(len(tensor.checksum) == 32 for tensor in manifest.tensors)


def test_a_manifest_survives_its_file(manifest: weights_pb2.WeightManifest, model_dir: Path) -> None:
    write_manifest(manifest, model_dir)
    assert read_manifest(model_dir) == manifest
    verify(model_dir, read_manifest(model_dir))


def test_two_savings_of_the_same_weights_have_one_digest(model_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"transformers_version": "5.18.0", "hidden_size": 3}')
    save(other / "model-00001-of-00002.safetensors", {"scalar": TENSORS["scalar"]})
    save(other / "model-00002-of-00002.safetensors", {k: v for k, v in TENSORS.items() if k != "scalar"})
    one, two = build_manifest("r", 1, model_dir), build_manifest("r", 1, other)
    assert one.content_digest == two.content_digest
    assert one.model_digest == two.model_digest
    verify(other, one)


def _changed(name: str, change: Callable[[tuple[str, list[int], bytes]], tuple[str, list[int], bytes]]) -> Tensors:
    return {**TENSORS, name: change(TENSORS[name])}


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        (_changed("norm.weight", lambda t: (t[0], t[1], t[2][:-1] + b"!")), "norm.weight has other bytes"),
        (
            _changed("norm.weight", lambda t: ("F16", t[1], t[2])),
            r"norm.weight is F16\[4\], the manifest says BF16\[4\]",
        ),
        (_changed("norm.weight", lambda t: (t[0], [2, 2], t[2])), r"norm.weight is BF16\[2, 2\]"),
        ({k: v for k, v in TENSORS.items() if k != "scalar"}, "scalar is missing"),
        ({**TENSORS, "extra": TENSORS["scalar"]}, "extra is not in the manifest"),
    ],
)
def test_a_difference_is_data_loss_naming_the_tensor(
    manifest: weights_pb2.WeightManifest, model_dir: Path, tensors: Tensors, complaint: str
) -> None:
    save(model_dir / "model.safetensors", tensors)
    with pytest.raises(DataLoss, match=complaint):
        verify(model_dir, manifest)


def test_a_bit_flipped_anywhere_in_the_data_is_found(manifest: weights_pb2.WeightManifest, model_dir: Path) -> None:
    path = model_dir / "model.safetensors"
    good = path.read_bytes()
    for position in range(len(good) - 36, len(good)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        with pytest.raises(DataLoss, match="has other bytes"):
            verify(model_dir, manifest)


def test_another_architecture_is_refused(manifest: weights_pb2.WeightManifest, model_dir: Path) -> None:
    (model_dir / "config.json").write_text('{"hidden_size": 4}')
    with pytest.raises(FailedPrecondition, match="is not the model of policy version 7"):
        verify(model_dir, manifest)


def test_a_tampered_manifest_is_refused(manifest: weights_pb2.WeightManifest, model_dir: Path) -> None:
    manifest.tensors[0].checksum = b"\0" * 32
    with pytest.raises(InvalidInput, match="content_digest"):
        verify(model_dir, manifest)
    write_manifest(manifest, model_dir)
    with pytest.raises(DataLoss, match=r"manifest\.json is broken"):
        read_manifest(model_dir)


def test_an_unknown_checksum_is_refused(manifest: weights_pb2.WeightManifest, model_dir: Path) -> None:
    manifest.checksum_algorithm = "md5"
    with pytest.raises(InvalidInput, match='"md5" is unknown: use "blake3"'):
        verify(model_dir, manifest)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"policyVersion": "x"}', "null"])
def test_a_broken_manifest_is_named(text: str, model_dir: Path) -> None:
    with pytest.raises(InvalidInput):
        parse_manifest(text)
    (model_dir / MANIFEST_FILE).write_text(text)
    with pytest.raises(DataLoss, match=r"manifest\.json"):
        read_manifest(model_dir)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"safetensors"):
        read_tensors(tmp_path)
    with pytest.raises(NotFound, match=r"manifest\.json"):
        read_manifest(tmp_path)
    save(tmp_path / "model.safetensors", TENSORS)
    with pytest.raises(NotFound, match=r"config\.json"):
        build_manifest("r", 1, tmp_path)


def test_a_name_in_two_files_is_refused(model_dir: Path) -> None:
    save(model_dir / "second.safetensors", {"scalar": TENSORS["scalar"]})
    with pytest.raises(DataLoss, match=r"scalar stands in model\.safetensors and second\.safetensors"):
        read_tensors(model_dir)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 400), noise=st.binary(max_size=16), at=st.integers(0, 300))
def test_no_damage_to_a_file_raises_anything_but_our_errors(model_dir: Path, cut: int, noise: bytes, at: int) -> None:
    path = model_dir / "damaged.safetensors"
    save(path, {"a": TENSORS["embed.weight"]})
    good = path.read_bytes()
    damaged = (good[:at] + noise + good[at + len(noise) :])[: max(0, len(good) - cut)]
    path.write_bytes(damaged)
    (model_dir / "model.safetensors").unlink(missing_ok=True)
    try:
        tensors = read_tensors(model_dir)
    except PreceptorError:
        return
    assert all(tensor.end <= len(damaged) for tensor in tensors)


def test_the_order_of_tensors_does_not_change_the_digest(manifest: weights_pb2.WeightManifest) -> None:
    assert content_digest(list(reversed(manifest.tensors))) == manifest.content_digest


def test_what_transformers_saves_is_read(tmp_path: Path) -> None:
    from safetensors import safe_open

    from tests.support.models import build_policy

    folder = build_policy(tmp_path / "policy")
    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        expected = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert {tensor.name: tensor.shape for tensor in read_tensors(folder)} == expected
    verify(folder, build_manifest("r", 0, folder))
