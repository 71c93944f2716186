"""How much of anything one request or project may hold."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TextLimits:
    """In bytes of UTF-8."""

    prompt: int = 256 * 1024
    candidate: int = 128 * 1024
    guidelines: int = 256 * 1024
    comment: int = 8 * 1024
    label: int = 1024  # titles, reasons, names of clients


@dataclass(frozen=True, slots=True)
class Limits:
    text: TextLimits = field(default_factory=TextLimits)
    max_open_comparisons: int = 100_000  # per project
    default_lease_s: float = 300.0
    max_lease_s: float = 86_400.0
