"""Which completions the loop page shows: a few of the first policy version and of the newest ones.

Comparisons are listed oldest first, so a reader that wants the newest has to walk the list once; it remembers how far
it came, and a later look reads only what is new.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from preceptor.console.types import Sample

SAMPLES_PER_VERSION = 4
VERSIONS_KEPT = 24
VERSIONS_SHOWN = 3
"""How many of the newest versions, beside the first one."""


@dataclass(slots=True)
class SampleBook:
    """Samples by policy version, bounded, and the token of the page to read next."""

    page_token: str = ""
    _by_version: dict[int, list[Sample]] = field(default_factory=dict)

    def add(self, samples: Sequence[Sample]) -> None:
        """Takes samples; a version's newest ones stay. The first version and the newest are kept."""
        for sample in samples:
            kept = self._by_version.setdefault(sample.policy_version, [])
            if sample not in kept:
                kept.append(sample)
                del kept[:-SAMPLES_PER_VERSION]
        for version in sorted(self._by_version)[1:-VERSIONS_KEPT]:
            del self._by_version[version]

    def pick(self, limit: int) -> tuple[Sample, ...]:
        """At most `limit` samples: those of the newest versions, and of the first one for comparison."""
        versions = sorted(self._by_version, reverse=True)
        if not versions:
            return ()
        first = self._by_version[versions[-1]] if len(versions) > 1 else []
        newest: list[Sample] = []
        for version in (versions[:-1] or versions)[:VERSIONS_SHOWN]:
            newest += self._by_version[version]
        return (*newest[: max(0, limit - len(first))], *first[:limit])
