"""How completions are drawn, and which policy version wrote which of their tokens: as every service keeps it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sampling:
    """As in the proto SamplingParameters; None = not asked for, the engine's default holds."""

    max_tokens: int
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_tokens: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class VersionSpan:
    """Completion tokens [begin, end) whose forward passes ran on one version."""

    policy_version: int
    begin: int
    end: int
