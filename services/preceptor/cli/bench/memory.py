"""The most memory that this process, or its GPU, held since a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_RESET_PEAK = "5"


class MemoryWatch:
    """Begins to watch: what is held now counts as nothing."""

    def __init__(self, device: Any) -> None:
        import torch

        self._cuda: Any = torch.cuda if device.type == "cuda" else None
        if self._cuda is not None:
            self._cuda.reset_peak_memory_stats()
            self._start = self._cuda.memory_allocated()
        else:
            _CLEAR.write_text(_RESET_PEAK)
            self._start = _resident("VmRSS")

    def peak_bytes(self) -> int:
        """The most that was held since, less what was held at the start."""
        peak = self._cuda.max_memory_allocated() if self._cuda is not None else _resident("VmHWM")
        return int(peak) - self._start


def _resident(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024
