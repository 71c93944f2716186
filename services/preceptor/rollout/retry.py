"""When a failed call is worth another try, after how long, and when a generator is left alone for a while."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from preceptor.common.errors import (
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    InternalError,
    Overloaded,
    PreceptorError,
    Unavailable,
)
from preceptor.rollout.types import Deadline

T = TypeVar("T")

_WHILE_THERE_IS_TIME = (Unavailable, Overloaded, DeadlineExceeded)
_A_FEW_TIMES = (InternalError, FailedPrecondition, DataLoss, Cancelled)


def is_retryable(error: PreceptorError) -> bool:
    """Whether the same request may succeed another time."""
    return isinstance(error, (*_WHILE_THERE_IS_TIME, *_A_FEW_TIMES))


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential back-off with jitter. Overload and lost servers are waited out; defects
    (INTERNAL and the like) get `few_attempts`."""

    initial_s: float = 0.1
    factor: float = 2.0
    max_s: float = 2.0
    jitter: float = 0.2
    few_attempts: int = 3

    def allows(self, error: PreceptorError, defects: int) -> bool:
        """Whether to try again after `error`; `defects` counts the attempts that ended in one, this included."""
        if isinstance(error, _WHILE_THERE_IS_TIME):
            return True
        return isinstance(error, _A_FEW_TIMES) and defects < self.few_attempts

    def delay_s(self, attempts: int, hint_s: float | None) -> float:
        """Seconds to wait before attempt `attempts` + 1; never less than the server's own hint."""
        backoff = min(self.initial_s * self.factor ** (attempts - 1), self.max_s)
        return max(backoff * random.uniform(1 - self.jitter, 1 + self.jitter), hint_s or 0.0)


class Retrier:
    """Repeats a call by a policy until a deadline.

    Args:
        pause: waits that many seconds; returns True when the worker stops and nothing shall be waited for any more.
    """

    def __init__(self, policy: RetryPolicy, pause: Callable[[float], bool]) -> None:
        self._policy = policy
        self._pause = pause

    def call(self, attempt: Callable[[float], T], deadline: Deadline, *, call_timeout_s: float) -> T:
        """The result of `attempt(timeout_s)`, which is called at least once.

        Raises the last attempt's PreceptorError when it is not worth another one, or no time is left for it.
        """
        attempts = defects = 0
        while True:
            attempts += 1
            try:
                return attempt(max(min(call_timeout_s, deadline.remaining_s()), 0.001))
            except PreceptorError as error:
                defects += isinstance(error, _A_FEW_TIMES)
                delay_s = self._policy.delay_s(attempts, error.retry_after_s)
                if not self._policy.allows(error, defects) or delay_s >= deadline.remaining_s():
                    raise
                if self._pause(delay_s):
                    raise


class CircuitBreaker:
    """Keeps work away from one server that fails. Not thread-safe: its owner holds a lock.

    closed: work goes through. open: none does, for a time that doubles with each failure in a row. Then one caller may
    probe; the breaker closes when the probe succeeds and opens again, for longer, when it fails. Only finished work
    (`succeeded`) ends the row of failures.
    """

    def __init__(
        self, *, initial_s: float = 0.5, max_s: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._initial_s = initial_s
        self._max_s = max_s
        self._clock = clock
        self._failures = 0
        self._open = False
        self._until = 0.0
        self._probing = False

    @property
    def admits(self) -> bool:
        """Whether a caller may have this server now; when `needs_probe`, only to probe it."""
        return self._clock() >= self._until and not self._probing

    @property
    def needs_probe(self) -> bool:
        return self._open

    def wait_s(self) -> float:
        """Seconds until it may admit again, 0 when it does."""
        return max(0.0, self._until - self._clock())

    def begin_probe(self) -> None:
        self._probing = True

    def probe_succeeded(self) -> None:
        self._probing = self._open = False

    def succeeded(self) -> None:
        self._failures = 0
        self._open = False

    def failed(self) -> None:
        """Opens. Calls that were under way together and fail together count once."""
        if self._open and not self._probing:
            return
        self._failures += 1
        self._probing, self._open = False, True
        self._until = self._clock() + min(self._initial_s * 2 ** (self._failures - 1), self._max_s)

    def suspect(self) -> None:
        """Whoever comes next probes first; nobody has to wait."""
        self._open = True

    def hold(self, seconds: float) -> None:
        """The server asked to be left alone for so long; that is no failure."""
        self._until = max(self._until, self._clock() + seconds)
