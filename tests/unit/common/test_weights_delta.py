"""The sparse delta: exact for any bits, small for what training does, and never believed when it is broken."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from preceptor.common.errors import DataLoss, FailedPrecondition
from preceptor.common.weights_delta import (
    BLOCK_ELEMENTS,
    DELTA_FILE,
    apply_delta,
    apply_tensor,
    encode_tensor,
    write_delta,
)
from preceptor.common.weights_manifest import read_tensors

WIDTHS = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8, "U8": 1, "BOOL": 1}


def encoded(old: np.ndarray, new: np.ndarray, dtype: str) -> np.ndarray:
    return np.frombuffer(b"".join(encode_tensor(old, new, dtype)), np.uint8)


def applied(blob: np.ndarray, old: np.ndarray, dtype: str) -> np.ndarray:
    target = old.copy()
    apply_tensor(blob, target, dtype)
    return target


@given(
    dtype=st.sampled_from(sorted(WIDTHS)),
    elements=st.integers(0, 3000),
    share=st.sampled_from([0.0, 0.001, 0.03, 0.3, 0.6, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_bits_come_back_exactly(dtype: str, elements: int, share: float, seed: int) -> None:
    rng, width = np.random.default_rng(seed), WIDTHS[dtype]
    # Random bits: NaN payloads, infinities, denormals and both zeros among them.
    old = rng.integers(0, 256, (elements, width), dtype=np.uint8)
    new = np.where(rng.random((elements, 1)) < share, rng.integers(0, 256, (elements, width), dtype=np.uint8), old)
    blob = encoded(old.reshape(-1), new.reshape(-1), dtype)
    assert (applied(blob, old.reshape(-1), dtype) == new.reshape(-1)).all()


@pytest.mark.parametrize("gap", [0, 1, 253, 254, 255, 256, 510, 511, 100_000, BLOCK_ELEMENTS - 2, BLOCK_ELEMENTS])
def test_gaps_of_every_size_are_kept(gap: int) -> None:
    old = np.zeros(2 * (BLOCK_ELEMENTS + gap + 3), np.uint8)
    new = old.copy()
    new[0] = new[2 * (gap + 1)] = new[-1] = 1
    assert (applied(encoded(old, new, "BF16"), old, "BF16") == new).all()


def test_nothing_changed_costs_nothing() -> None:
    same = np.arange(4096, dtype=np.uint8)
    assert not len(encoded(same, same.copy(), "BF16"))


def test_unchanged_blocks_before_a_change_cost_a_few_bytes() -> None:
    old = np.zeros(2 * 5 * BLOCK_ELEMENTS, np.uint8)
    new = old.copy()
    new[-1] = 1
    blob = encoded(old, new, "F16")
    assert len(blob) < 200
    assert (applied(blob, old, "F16") == new).all()


@given(seed=st.integers(0, 2**32 - 1), cut=st.booleans())
def test_a_damaged_payload_is_refused(seed: int, cut: bool) -> None:
    rng = np.random.default_rng(seed)
    old = rng.integers(0, 256, 4000, dtype=np.uint8)
    new = np.where(rng.random(4000) < 0.05, old ^ 1, old)
    blob = encoded(old, new, "BF16").copy()
    at = int(rng.integers(9, len(blob)))  # before that is the record's head, which only the manifest vouches for
    blob = blob[:at] if cut else blob
    if not cut:
        blob[at] ^= 1 << int(rng.integers(0, 8))
    try:
        result = applied(blob, old, "BF16")
    except DataLoss:
        return
    assert (result == new).all(), "zstandard has a few bits that mean nothing"


@given(head=st.binary(min_size=9, max_size=9))
def test_a_damaged_head_stays_within_the_tensor(head: bytes) -> None:
    old = np.arange(4000, dtype=np.uint16).view(np.uint8)
    blob = encoded(old, np.where(np.arange(8000) % 40, old, old ^ 1), "BF16").copy()
    blob[:9] = np.frombuffer(head, np.uint8)
    with contextlib.suppress(DataLoss):
        assert len(applied(blob, old, "BF16")) == len(old)


# -- files ----------------------------------------------------------------------------------------------------------


def model(folder: Path, seed: int, change: float = 0.0) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    tensors = {f"layer.{i}": rng.standard_normal((64, 33)).astype(np.float16) for i in range(5)}
    tensors["empty"] = np.empty((0, 4), np.float32)
    tensors["scalar"] = np.array(1.5, np.float32)
    changes = np.random.default_rng(seed)
    for name in list(tensors)[:4]:
        changed = changes.random(tensors[name].shape) < change
        tensors[name] = np.where(changed, np.nextafter(tensors[name], np.float16(9)), tensors[name])
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {t.name: t.file.read_bytes()[t.begin : t.end] for t in read_tensors(folder)}


def delta(tmp_path: Path, base: Path, new: Path) -> Path:
    folder = tmp_path / "delta"
    folder.mkdir()
    assert write_delta(base, new, folder / DELTA_FILE) == (folder / DELTA_FILE).stat().st_size
    return folder / DELTA_FILE


def test_a_folder_becomes_the_newer_one(tmp_path: Path) -> None:
    base, new = model(tmp_path / "a", 1), model(tmp_path / "b", 2, 0.05)
    file = delta(tmp_path, base, new)
    assert file.stat().st_size < 0.3 * (new / "model.safetensors").stat().st_size
    apply_delta(file, base)
    assert content(base) == content(new)


def test_a_delta_past_its_limit_is_not_written(tmp_path: Path) -> None:
    base, new = model(tmp_path / "a", 1), model(tmp_path / "b", 2, 0.9)
    assert write_delta(base, new, tmp_path / DELTA_FILE, limit_bytes=100) is None
    assert not (tmp_path / DELTA_FILE).exists()


def test_a_delta_between_two_models_is_refused(tmp_path: Path) -> None:
    base, other = model(tmp_path / "a", 1), tmp_path / "b"
    other.mkdir()
    save_file({"layer.0": np.zeros((2, 2), np.float16)}, other / "model.safetensors")
    with pytest.raises(FailedPrecondition, match="two versions of one model"):
        write_delta(base, other, tmp_path / DELTA_FILE)


def test_every_cut_of_a_delta_file_is_data_loss(tmp_path: Path) -> None:
    base, new = model(tmp_path / "a", 1), model(tmp_path / "b", 2, 0.05)
    file = delta(tmp_path, base, new)
    whole = file.read_bytes()
    for size in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(DataLoss):
            apply_delta(file, base)
    file.unlink()
    with pytest.raises(DataLoss, match=DELTA_FILE):
        apply_delta(file, base)


def test_a_broken_record_names_its_tensor(tmp_path: Path) -> None:
    base, new = model(tmp_path / "a", 1), model(tmp_path / "b", 2, 0.05)
    file = delta(tmp_path, base, new)
    damaged = next(t for t in read_tensors(file.parent) if t.name == "layer.2")
    data = bytearray(file.read_bytes())
    data[damaged.end - 3] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataLoss) as error:
        apply_delta(file, base)
    assert error.value.field == "layer.2"


def test_a_delta_of_a_tensor_that_the_model_lacks_is_data_loss(tmp_path: Path) -> None:
    base, new = model(tmp_path / "a", 1), model(tmp_path / "b", 2, 0.05)
    file = delta(tmp_path, base, new)
    save_file({"w": np.zeros(3, np.float16)}, base / "model.safetensors")
    with pytest.raises(DataLoss, match=r"layer\.0"):
        apply_delta(file, base)
