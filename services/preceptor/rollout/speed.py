"""How slow each generator is, by what it took lately."""

import time
from collections.abc import Callable
from dataclasses import dataclass

_SHARE_OF_THE_NEWEST = 0.3
_HALF_LIFE_S = 30.0


@dataclass(slots=True)
class _Estimate:
    seconds_per_token: float
    noted_s: float


class SpeedBook:
    """Seconds per token of a sequence, by generator address: a moving average that fades into that of all.

    What was slow a while ago is tried again, and a newcomer counts as average. Not thread-safe.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._estimates: dict[str, _Estimate] = {}

    def note(self, address: str, tokens: int, seconds: float) -> None:
        """A call took so long; its longest completion grew by so many tokens."""
        if tokens <= 0 or seconds <= 0:
            return
        newest = seconds / tokens
        known = self._estimates.get(address)
        if known is not None:
            newest = known.seconds_per_token + _SHARE_OF_THE_NEWEST * (newest - known.seconds_per_token)
        self._estimates[address] = _Estimate(newest, self._clock())

    def seconds_per_token(self, address: str) -> float:
        """1 where nothing is known of any generator."""
        if not self._estimates:
            return 1.0
        mean = sum(estimate.seconds_per_token for estimate in self._estimates.values()) / len(self._estimates)
        known = self._estimates.get(address)
        if known is None:
            return mean
        weight = float(0.5 ** ((self._clock() - known.noted_s) / _HALF_LIFE_S))
        return mean + weight * (known.seconds_per_token - mean)

    def forget(self, address: str) -> None:
        self._estimates.pop(address, None)
