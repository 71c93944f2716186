"""The contracts: generated code in step, style kept, nothing broken."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
BUF = Path(sys.executable).parent / "buf"


def test_generated_code_is_in_step_with_the_protos() -> None:
    result = _run("bash", "scripts/gen_protos.sh", "--check")
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr


def test_buf_lint_passes() -> None:
    result = _run(str(BUF), "lint", "protos")
    assert result.returncode == 0, result.stdout


def test_nothing_breaks_against_the_committed_descriptor_set() -> None:
    """After a compatible change `make protos` renews the set: `buf build protos -o protos/descriptors.binpb`."""
    result = _run(str(BUF), "breaking", "protos", "--against", "protos/descriptors.binpb")
    assert result.returncode == 0, result.stdout


def _run(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
