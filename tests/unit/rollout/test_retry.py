import pytest
from hypothesis import given
from hypothesis import strategies as st

from preceptor.common.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InternalError,
    InvalidInput,
    NotFound,
    Overloaded,
    PreceptorError,
    Unavailable,
)
from preceptor.rollout.retry import CircuitBreaker, Retrier, RetryPolicy
from preceptor.rollout.types import Deadline


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> bool:
        self.now += seconds
        return False


@pytest.fixture
def clock() -> Clock:
    return Clock()


def failing(error: PreceptorError, times: int) -> tuple[list[float], object]:
    timeouts: list[float] = []

    def attempt(timeout_s: float) -> str:
        timeouts.append(timeout_s)
        if len(timeouts) <= times:
            raise error
        return "done"

    return timeouts, attempt


@pytest.mark.parametrize("error", [Unavailable("down"), Overloaded("full"), DeadlineExceeded("slow")])
def test_lost_and_busy_servers_are_waited_out(clock: Clock, error: PreceptorError) -> None:
    timeouts, attempt = failing(error, 7)
    retrier = Retrier(RetryPolicy(), clock.pause)
    assert retrier.call(attempt, Deadline.after(100, clock), call_timeout_s=10) == "done"  # type: ignore[arg-type]
    assert len(timeouts) == 8


@pytest.mark.parametrize("error", [InternalError("bug"), FailedPrecondition("other run")])
def test_defects_get_a_few_attempts(clock: Clock, error: PreceptorError) -> None:
    timeouts, attempt = failing(error, 7)
    with pytest.raises(type(error)):
        Retrier(RetryPolicy(few_attempts=3), clock.pause).call(attempt, Deadline.after(100, clock), call_timeout_s=10)  # type: ignore[arg-type]
    assert len(timeouts) == 3


@pytest.mark.parametrize("error", [InvalidInput("wrong"), NotFound("no such model")])
def test_wrong_requests_are_not_repeated(clock: Clock, error: PreceptorError) -> None:
    timeouts, attempt = failing(error, 7)
    with pytest.raises(type(error)):
        Retrier(RetryPolicy(), clock.pause).call(attempt, Deadline.after(100, clock), call_timeout_s=10)  # type: ignore[arg-type]
    assert len(timeouts) == 1


def test_no_attempt_begins_or_lasts_past_the_deadline(clock: Clock) -> None:
    timeouts, attempt = failing(Unavailable("down"), 10**9)
    with pytest.raises(Unavailable, match="down"):
        Retrier(RetryPolicy(), clock.pause).call(attempt, Deadline.after(3, clock), call_timeout_s=2)  # type: ignore[arg-type]
    assert clock.now < 3
    assert max(timeouts) == 2
    assert timeouts[-1] < 2


def test_the_servers_hint_is_honoured(clock: Clock) -> None:
    _, attempt = failing(Overloaded("full", retry_after_s=4.0), 1)
    Retrier(RetryPolicy(), clock.pause).call(attempt, Deadline.after(100, clock), call_timeout_s=10)  # type: ignore[arg-type]
    assert clock.now == 4.0


def test_a_stopping_worker_waits_for_nothing(clock: Clock) -> None:
    timeouts, attempt = failing(Unavailable("down"), 10**9)
    with pytest.raises(Unavailable):
        Retrier(RetryPolicy(), lambda _: True).call(attempt, Deadline.after(100, clock), call_timeout_s=10)  # type: ignore[arg-type]
    assert len(timeouts) == 1


@given(st.integers(1, 50), st.none() | st.floats(0, 100))
def test_delays_grow_to_a_limit_with_jitter(attempts: int, hint_s: float | None) -> None:
    policy = RetryPolicy(initial_s=0.1, factor=2, max_s=5, jitter=0.2)
    nominal = min(0.1 * 2 ** (attempts - 1), 5)
    low, high = 0.8 * nominal, 1.2 * nominal
    assert max(low, hint_s or 0) - 1e-9 <= policy.delay_s(attempts, hint_s) <= max(high, hint_s or 0) + 1e-9


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(initial_s=1, max_s=4, clock=clock)


def test_a_failure_ejects_then_asks_for_a_probe(breaker: CircuitBreaker, clock: Clock) -> None:
    assert breaker.admits
    assert not breaker.needs_probe
    breaker.failed()
    assert not breaker.admits
    assert breaker.wait_s() == 1
    clock.now = 1.0
    assert breaker.admits
    assert breaker.needs_probe
    breaker.begin_probe()
    assert not breaker.admits, "one probe at a time"
    breaker.probe_succeeded()
    assert breaker.admits
    assert not breaker.needs_probe


def test_failures_in_a_row_eject_for_longer_up_to_a_limit(breaker: CircuitBreaker, clock: Clock) -> None:
    waits = []
    for _ in range(4):
        breaker.failed()
        waits.append(breaker.wait_s())
        clock.now += breaker.wait_s()
        breaker.begin_probe()
        breaker.probe_succeeded()
    assert waits == [1, 2, 4, 4]
    breaker.succeeded()
    breaker.failed()
    assert breaker.wait_s() == 1


def test_a_failed_probe_ejects_again(breaker: CircuitBreaker, clock: Clock) -> None:
    breaker.failed()
    clock.now = 1.0
    breaker.begin_probe()
    breaker.failed()
    assert breaker.wait_s() == 2


def test_calls_that_fail_together_count_once(breaker: CircuitBreaker) -> None:
    for _ in range(8):
        breaker.failed()
    assert breaker.wait_s() == 1


def test_a_held_server_is_left_alone_without_a_probe(breaker: CircuitBreaker, clock: Clock) -> None:
    breaker.hold(3)
    assert not breaker.admits
    clock.now = 3.0
    assert breaker.admits
    assert not breaker.needs_probe


def test_a_suspect_is_probed_at_once(breaker: CircuitBreaker) -> None:
    breaker.suspect()
    assert breaker.admits
    assert breaker.needs_probe
