"""Weights written as they come."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from preceptor.common.errors import InvalidInput
from preceptor.learner.adapters.policy_writer import write_weights
from tests.support.models import build_policy

_PEAK = """
import resource, sys
from pathlib import Path
import torch
from preceptor.learner.adapters.policy_writer import write_weights

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

def layers():
    for index in range(12):
        yield f"layers.{index}", torch.full((4 * 1024 * 1024,), float(index))

list(layers().__next__()[1][:1])
before = peak()
write_weights(Path(sys.argv[1]), layers())
print(peak() - before)
"""


def test_what_is_written_is_read_back_by_safetensors(tmp_path: Path) -> None:
    given = {
        "a": torch.randn(3, 5),
        "b": torch.randn(4, 6).T,
        "c": torch.arange(7, dtype=torch.int64),
        "d": torch.randn(33).to(torch.bfloat16),
        "empty": torch.empty(0, 4),
        "one": torch.tensor(2.5, dtype=torch.float16),
        "flags": torch.tensor([True, False]),
    }
    assert write_weights(tmp_path, given.items()) == [tmp_path / "model.safetensors"]
    read = load_file(tmp_path / "model.safetensors")
    assert read.keys() == given.keys()
    for name, tensor in given.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


@pytest.mark.parametrize("shard_bytes", [1, 100_000, 10**9])
def test_transformers_loads_one_file_or_many(tmp_path: Path, shard_bytes: int) -> None:
    policy = build_policy(tmp_path / "policy")
    given = load_file(policy / "model.safetensors")
    (policy / "model.safetensors").unlink()
    files = write_weights(policy, given.items(), shard_bytes=shard_bytes)
    assert len(files) == {1: len(given), 100_000: len(files), 10**9: 1}[shard_bytes]
    assert (policy / "model.safetensors.index.json").exists() == (len(files) > 1)
    assert not list(policy.glob(".part*"))
    loaded = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in given.items())


def test_many_long_names_make_another_file(tmp_path: Path) -> None:
    names = [f"layers.{index}.{'x' * 500}" for index in range(800)]
    files = write_weights(tmp_path, ((name, torch.zeros(1)) for name in names))
    assert len(files) > 1
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert sorted(index["weight_map"]) == sorted(names)
    assert index["metadata"]["total_size"] == 4 * len(names)
    assert sorted(name for file in files for name in load_file(file)) == sorted(names)


def test_only_one_tensor_is_in_memory_at_a_time(tmp_path: Path) -> None:
    grown = subprocess.run([sys.executable, "-c", _PEAK, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(grown.stdout) < 3 * 16, "MiB, of 192 that were written"


_A, _COMPLEX = ("a", torch.zeros(1)), ("z", torch.zeros(1, dtype=torch.complex64))


@pytest.mark.parametrize(("given", "field"), [([_A, _A], "a"), ([_COMPLEX], "z"), ([], "tensors")])
def test_what_cannot_be_written_is_named(tmp_path: Path, given: list[tuple[str, torch.Tensor]], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        write_weights(tmp_path, given)
    assert refused.value.field == field


def test_a_failing_source_is_not_swallowed(tmp_path: Path) -> None:
    def broken() -> Iterator[tuple[str, torch.Tensor]]:
        yield "a", torch.zeros(1)
        raise RuntimeError("a rank died")

    with pytest.raises(RuntimeError, match="a rank died"):
        write_weights(tmp_path, broken())
    assert not list(tmp_path.glob("*.safetensors"))
