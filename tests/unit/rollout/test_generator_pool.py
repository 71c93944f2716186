import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

import pytest

from preceptor.common.completions import Sampling
from preceptor.common.errors import DeadlineExceeded, InvalidInput, Overloaded, PreceptorError, Unavailable
from preceptor.common.waiting import wait_until
from preceptor.rollout.generator_pool import GeneratorPool
from preceptor.rollout.retry import CircuitBreaker
from preceptor.rollout.types import Deadline, Generator, Job, Prompt

A = Generator("a", "host:1", "run", policy_version=3)
B = Generator("b", "host:2", "run", policy_version=3)
SOON = 5.0


def job(group: str = "run/0", **fields: object) -> Job:
    base = Job("run", group, 1, 0, "p", Prompt(text="x"), 4, Sampling(8), 0, "", Deadline.after(60))
    return replace(base, **fields)  # type: ignore[arg-type]


class Clock:
    """Stands still unless a test moves it."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


class Field:
    """The generators there are, and which of them answer a probe."""

    def __init__(self, *generators: Generator) -> None:
        self.generators: Sequence[Generator] = generators
        self.broken = False
        self.asked = 0
        self.alive = True
        self.probed: list[str] = []

    def discover(self) -> Sequence[Generator]:
        self.asked += 1
        if self.broken:
            raise Unavailable("Redis does not answer")
        return self.generators

    def probe(self, generator: Generator) -> bool:
        self.probed.append(generator.id)
        return self.alive

    def pool(
        self, *, refresh_s: float = 0.01, initial_s: float = 0.05, clock: Callable[[], float] = time.monotonic
    ) -> GeneratorPool:
        breaker: Callable[[], CircuitBreaker] = lambda: CircuitBreaker(initial_s=initial_s, max_s=1.0)  # noqa: E731
        return GeneratorPool(self.discover, self.probe, refresh_s=refresh_s, breaker=breaker, clock=clock)


def use(pool: GeneratorPool, wanted: Job | None = None, error: PreceptorError | None = None) -> str:
    with pool.lease(wanted or job(), 4, Deadline.after(SOON)) as generator:
        if error is not None:
            raise error
        return generator.id


def test_the_least_loaded_generator_gets_the_group() -> None:
    assert use(Field(replace(A, load=9), replace(B, load=2)).pool()) == "b"


def test_what_this_worker_has_in_flight_counts_as_load() -> None:
    pool = Field(replace(A, load=0), replace(B, load=6)).pool()
    with pool.lease(job(), 4, Deadline.after(SOON)) as first:
        assert first.id == "a"
        assert pool.in_flight() == {"a": 4}
        assert use(pool) == "b"
    assert pool.in_flight() == {}


def test_this_worker_never_overfills_a_generator() -> None:
    pool = Field(replace(A, max_requests=6)).pool()
    with pool.lease(job(), 4, Deadline.after(SOON)):
        with (
            pytest.raises(Unavailable, match="fail or are full"),
            pool.lease(job("run/1"), 4, Deadline.after(0.05)),
        ):
            pass
        with pool.lease(job("run/2"), 2, Deadline.after(SOON)):
            assert pool.in_flight() == {"a": 6}
    with pool.lease(job(), 9, Deadline.after(SOON)) as generator:
        assert generator.id == "a", "a group larger than the limit is for the generator to refuse"


def test_a_generator_behind_the_wanted_version_comes_last() -> None:
    pool = Field(replace(A, load=50), replace(B, policy_version=2)).pool()
    assert use(pool, job(min_policy_version=3)) == "a"
    assert use(Field(replace(B, policy_version=2)).pool(), job(min_policy_version=3)) == "b"


def prompt_job(text: str, **fields: object) -> Job:
    return job(prompt=Prompt(text=text), **fields)


def test_all_else_equal_a_prompt_goes_where_its_prefix_is() -> None:
    first, second = Field(A, B).pool(), Field(B, A).pool()
    chosen = {
        text: {
            use(pool, prompt_job(text, group_id=f"run/{i}", attempt=i)) for pool in (first, second) for i in range(3)
        }
        for text in map(str, range(20))
    }
    assert all(len(ids) == 1 for ids in chosen.values()), "the same for every worker, group and attempt"
    assert set.union(*chosen.values()) == {"a", "b"}


def test_prompts_keep_their_place_when_another_generator_joins_or_leaves() -> None:
    three = (A, B, Generator("c", "host:3", "run", policy_version=3))
    before = {text: use(Field(A, B).pool(), prompt_job(text)) for text in map(str, range(30))}
    after = {text: use(Field(*three).pool(), prompt_job(text)) for text in map(str, range(30))}
    assert all(after[text] in (before[text], "c") for text in before)
    assert "c" in after.values()


def test_a_prefix_is_worth_one_group_of_waiting_and_no_more() -> None:
    text = next(text for text in map(str, range(99)) if use(Field(A, B).pool(), prompt_job(text)) == "a")
    assert use(Field(replace(A, load=4), B).pool(), prompt_job(text)) == "a"
    assert use(Field(replace(A, load=5), B).pool(), prompt_job(text)) == "b"


def test_a_slow_generator_gets_less() -> None:
    pool = Field(A, B).pool()
    pool.note_speed(A, tokens=100, seconds=1.0)
    pool.note_speed(B, tokens=100, seconds=4.0)
    with ExitStack() as leases:
        taken = Counter(
            leases.enter_context(pool.lease(prompt_job(f"{i}"), 4, Deadline.after(SOON))).id for i in range(40)
        )
    assert 30 <= taken["a"] <= 34, "about four times as much"


def test_what_was_slow_is_forgotten_with_time() -> None:
    now = Clock()
    pool = Field(replace(A, load=8), replace(B, load=4)).pool(clock=now)
    pool.note_speed(A, tokens=100, seconds=1.0)
    pool.note_speed(B, tokens=100, seconds=9.0)
    assert {use(pool, prompt_job(str(i))) for i in range(9)} == {"a"}
    now.at += 600
    assert (
        use(pool, prompt_job(next(t for t in map(str, range(99)) if use(Field(A, B).pool(), prompt_job(t)) == "b")))
        == "b"
    )


def test_generators_of_another_run_are_never_used() -> None:
    pool = Field(replace(A, run_id="other")).pool()
    with (
        pytest.raises(Unavailable, match=r'no generator serves run "run" \(runs served: other\)') as error,
        pool.lease(job(), 4, Deadline.after(0.05)),
    ):
        pass
    assert error.value.reason == "NO_GENERATOR"


def test_it_waits_for_a_generator_to_appear() -> None:
    field = Field()
    pool = field.pool()
    threading.Timer(0.1, lambda: setattr(field, "generators", [A])).start()
    assert use(pool) == "a"


def test_a_failing_generator_is_avoided_then_probed_and_used_again() -> None:
    field = Field(A, replace(B, load=100))
    pool = field.pool(initial_s=0.2)
    with pytest.raises(Unavailable):
        use(pool, error=Unavailable("connection refused"))
    assert use(pool) == "b"
    assert field.probed == []
    wait_until(lambda: use(pool) == "a", SOON, "a to be used again")
    assert field.probed == ["a"]


def test_a_generator_that_fails_its_probe_stays_out() -> None:
    field = Field(A, replace(B, load=100))
    pool = field.pool(initial_s=0.01)
    field.alive = False
    with pytest.raises(Unavailable):
        use(pool, error=Unavailable("connection refused"))
    wait_until(lambda: use(pool) == "b" and field.probed.count("a") >= 3, SOON, "three probes")


def test_when_all_fail_it_waits_for_one_to_return() -> None:
    field = Field(A)
    pool = field.pool(initial_s=0.05)
    with pytest.raises(Unavailable):
        use(pool, error=Unavailable("connection refused"))
    begun = time.monotonic()
    assert use(pool) == "a"
    assert time.monotonic() - begun >= 0.03


def test_an_overloaded_generator_is_left_alone_for_as_long_as_it_asked() -> None:
    field = Field(A, replace(B, load=100))
    pool = field.pool()
    with pytest.raises(Overloaded):
        use(pool, error=Overloaded("full", retry_after_s=0.1))
    assert use(pool) == "b"
    wait_until(lambda: use(pool) == "a", SOON, "a to be used again")
    assert field.probed == []


def test_a_generator_that_was_too_slow_is_asked_before_it_gets_more() -> None:
    field = Field(A)
    pool = field.pool()
    with pytest.raises(DeadlineExceeded):
        use(pool, error=DeadlineExceeded("slow"))
    assert use(pool) == "a"
    assert field.probed == ["a"]


def test_a_wrong_request_is_not_the_generators_fault() -> None:
    field = Field(A)
    pool = field.pool(initial_s=60)
    with pytest.raises(InvalidInput):
        use(pool, error=InvalidInput("top_p"))
    assert use(pool) == "a"
    assert field.probed == []


def test_without_redis_the_generators_last_known_are_used() -> None:
    field = Field(A)
    now = Clock()
    pool = field.pool(refresh_s=1.0, clock=now)
    assert use(pool) == "a"
    field.broken = True
    now.at += 2.0
    assert use(pool) == "a"
    assert field.asked == 2, "past the refresh they were asked for, in vain"


def test_a_generator_that_left_gets_nothing() -> None:
    field = Field(A, B)
    pool = field.pool(refresh_s=0)
    field.generators = [B]
    assert {use(pool, job(f"run/{i}")) for i in range(10)} == {"b"}


def test_closing_ends_the_waits() -> None:
    pool = Field().pool()
    threading.Timer(0.05, pool.close).start()
    with pytest.raises(Unavailable, match="stops"), pool.lease(job(), 4, Deadline.after(60)):
        pass


def test_many_threads_share_the_generators_evenly_and_leave_nothing_in_flight() -> None:
    pool = Field(A, B).pool()
    used: Counter[str] = Counter()
    barrier = threading.Barrier(16)

    def work(index: int) -> None:
        with pool.lease(job(f"run/{index}"), 4, Deadline.after(SOON)) as generator:
            used[generator.id] += 1
            barrier.wait(SOON)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert used["a"] + used["b"] == 16
    assert abs(used["a"] - used["b"]) <= 2, "even but for a group that keeps to its prefix"
    assert pool.in_flight() == {}
