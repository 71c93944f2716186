"""Weights that fail to load, half of them already in the model, must leave no trace."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.generation.support import Reference, misshapen_policy, policies

REPOSITORY = Path(__file__).parents[3]


def untied(folder: Path, base: Path, seed: int) -> Path:
    """Saves base with an output head of its own."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, folder)
    weights = load_file(folder / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    weights["lm_head.weight"] = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(seed)) * 0.05
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_a_failed_load_is_rolled_back_and_later_versions_load(tmp_path: Path, tied: bool) -> None:
    first, second = policies(tmp_path, 2)
    if not tied:
        first, second = untied(tmp_path / "untied-0", first, 0), untied(tmp_path / "untied-1", second, 1)
    bad = misshapen_policy(tmp_path / "bad", second)
    run = subprocess.run(
        [sys.executable, "-m", "tests.integration.generation.load_failure", first, bad, second, bad, first],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    result = json.loads(run.stdout.splitlines()[-1])
    served = result["answers"]
    assert result["rolled_back"] == [True, True]
    assert result["long_finish"] in ("stop", "length")
    assert [answer["versions"] for answer in served] == [[0], [0], [2], [2], [4]]
    references = [Reference(first), Reference(second)]
    for answer, which in zip(served, [0, 0, 1, 1, 0], strict=True):
        expected = references[which].logprobs([7, 8, 9, 10], answer["tokens"])
        assert answer["logprobs"] == pytest.approx(expected, abs=1e-4)
