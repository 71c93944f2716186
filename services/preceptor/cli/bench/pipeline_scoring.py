"""The reward function of `preceptor bench pipeline`: next to nothing, since scoring is not what it measures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def distinct_characters(*, completions: Sequence[str], **_: Any) -> list[float]:
    """The share of a completion's characters that are distinct."""
    return [len(set(text)) / max(1, len(text)) for text in completions]
