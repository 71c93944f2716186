"""Which generator gets the next group."""

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from preceptor.common.errors import DeadlineExceeded, InvalidInput, Overloaded, PreceptorError, Unavailable
from preceptor.common.telemetry import counter, get_logger
from preceptor.rollout.retry import CircuitBreaker
from preceptor.rollout.speed import SpeedBook
from preceptor.rollout.types import Deadline, Generator, Job

log = get_logger(__name__)
_ejections = counter("preceptor_rollout_generator_ejections_total", "Times that a failing generator was left alone.")

Discover = Callable[[], Sequence[Generator]]
Probe = Callable[[Generator], bool]


class GeneratorPool:
    """Hands out the healthy generator of a run that will be done first. Threads share it.

    A whole group goes to one generator. Generators that have reached the wanted policy version come first; among them
    the one with the least work ahead, in seconds: sequences (announced, or this worker's own if those are more) times
    the seconds per token that it took lately. Each prompt has a favourite, the same for every worker and attempt, whose
    prefix cache may hold it: it gets the group unless it is more than this one group behind the least loaded. Whoever
    fails is ejected for a growing time, and probed before it gets work again. While Redis is away the generators last
    known are used.

    Args:
        discover: the live generators; raises Unavailable when they cannot be asked for.
        probe: whether a generator that failed serves again; cheap, and raises nothing.
        refresh_s: how old the list of generators may grow.
    """

    def __init__(
        self,
        discover: Discover,
        probe: Probe,
        *,
        refresh_s: float = 1.0,
        breaker: Callable[[], CircuitBreaker] = CircuitBreaker,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._discover = discover
        self._probe = probe
        self._refresh_s = refresh_s
        self._new_breaker = breaker
        self._clock = clock
        self._changed = threading.Condition()
        self._known: tuple[Generator, ...] = ()
        self._refresh_at = float("-inf")
        self._in_flight: Counter[str] = Counter()
        self._breakers: dict[str, CircuitBreaker] = {}
        self._speeds = SpeedBook(clock)
        self._closed = False

    @contextmanager
    def lease(self, job: Job, sequences: int, deadline: Deadline) -> Iterator[Generator]:
        """The generator to use for so many sequences; how the block ends tells the pool how the generator is.

        Raises:
          Unavailable: no generator of the run could be had until the deadline, or the pool was closed.
        """
        generator = self._acquire(job, sequences, deadline)
        try:
            yield generator
        except Overloaded as error:
            seconds = error.retry_after_s or 1.0
            self._settle(generator, lambda breaker: breaker.hold(seconds))
            raise
        except DeadlineExceeded:
            self._settle(generator, CircuitBreaker.suspect)  # slow, or dead: the next one asks first
            raise
        except InvalidInput:
            raise  # the request's fault
        except PreceptorError as error:
            _ejections.inc()
            log.warning("generator ejected for a while", generator=generator.id, error=error.message)
            self._settle(generator, CircuitBreaker.failed)
            raise
        else:
            self._settle(generator, CircuitBreaker.succeeded)
        finally:
            self._release(generator, sequences)

    def note_speed(self, generator: Generator, tokens: int, seconds: float) -> None:
        """A call took so long; its longest completion grew by so many tokens."""
        with self._changed:
            self._speeds.note(generator.address, tokens, seconds)

    def in_flight(self) -> dict[str, int]:
        """Sequences this worker waits for, by generator id."""
        with self._changed:
            addresses = {generator.address: generator.id for generator in self._known}
            return {addresses.get(key, key): count for key, count in self._in_flight.items() if count}

    def close(self) -> None:
        """Whoever waits for a generator gets Unavailable at once."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _acquire(self, job: Job, sequences: int, deadline: Deadline) -> Generator:
        while True:
            self._refresh()
            with self._changed:
                generator = self._choose(job, sequences)
                if generator is None:
                    self._wait_or_raise(job, deadline)
                    continue
                self._in_flight[generator.address] += sequences
                if not self._breaker(generator).needs_probe:
                    return generator
                self._breaker(generator).begin_probe()
            if self._probed(generator):
                return generator
            self._release(generator, sequences)

    def _choose(self, job: Job, sequences: int) -> Generator | None:
        candidates = [g for g in self._of_run(job.run_id) if self._breaker(g).admits and self._has_room(g, sequences)]
        candidates = [g for g in candidates if g.policy_version >= job.min_policy_version] or candidates
        if not candidates:
            return None
        affinities = _affinities(job, candidates)
        favourite = max(candidates, key=affinities.__getitem__)
        soonest = min(candidates, key=lambda g: (self._done_s(g, sequences), affinities[g]))
        behind_s = self._done_s(favourite, sequences) - self._done_s(soonest, sequences)
        one_group_s = sequences * self._speeds.seconds_per_token(favourite.address)
        return favourite if behind_s <= one_group_s else soonest

    def _done_s(self, generator: Generator, sequences: int) -> float:
        """Work ahead of a generator that gets these sequences too; a measure for comparing, not a forecast."""
        ahead = max(generator.load, self._in_flight[generator.address])
        return (ahead + sequences) * self._speeds.seconds_per_token(generator.address)

    def _has_room(self, generator: Generator, sequences: int) -> bool:
        """False where this worker alone would overfill it; what other workers send shows as RESOURCE_EXHAUSTED."""
        held = self._in_flight[generator.address]
        return not generator.max_requests or not held or held + sequences <= generator.max_requests

    def _wait_or_raise(self, job: Job, deadline: Deadline) -> None:
        """Waits until something may have changed. Holds the condition's lock."""
        if self._closed:
            raise Unavailable("the rollout worker stops", reason="WORKER_STOPPING")
        generators = self._of_run(job.run_id)
        if deadline.passed:
            raise Unavailable(_nobody(job.run_id, generators, self._known), reason="NO_GENERATOR")
        waits = [self._breaker(generator).wait_s() for generator in generators]
        soonest = min((wait for wait in waits if wait > 0), default=self._refresh_s)
        self._changed.wait(max(min(soonest, self._refresh_s, deadline.remaining_s()), 0.001))

    def _of_run(self, run_id: str) -> list[Generator]:
        return [generator for generator in self._known if generator.run_id == run_id]

    def _breaker(self, generator: Generator) -> CircuitBreaker:
        return self._breakers.setdefault(generator.address, self._new_breaker())

    def _probed(self, generator: Generator) -> bool:
        alive = self._probe(generator)
        self._settle(generator, CircuitBreaker.probe_succeeded if alive else CircuitBreaker.failed)
        return alive

    def _settle(self, generator: Generator, tell: Callable[[CircuitBreaker], None]) -> None:
        with self._changed:
            tell(self._breaker(generator))
            self._changed.notify_all()

    def _release(self, generator: Generator, sequences: int) -> None:
        with self._changed:
            self._in_flight[generator.address] -= sequences
            self._changed.notify_all()

    def _refresh(self) -> None:
        with self._changed:
            if self._clock() < self._refresh_at:
                return
            self._refresh_at = self._clock() + self._refresh_s  # one thread asks, the others go on with what is known
        try:
            known = tuple(self._discover())
        except Unavailable as error:
            log.warning("generators cannot be discovered; using those last known", error=error.message)
            return
        with self._changed:
            self._known = known
            self._forget_absent()
            self._changed.notify_all()

    def _forget_absent(self) -> None:
        present = {generator.address for generator in self._known}
        for address in [address for address in self._breakers if address not in present]:
            if not self._in_flight[address]:
                del self._breakers[address], self._in_flight[address]
                self._speeds.forget(address)


def _affinities(job: Job, generators: Sequence[Generator]) -> dict[Generator, bytes]:
    """Rendezvous hashing: whichever generators come and go, each prompt keeps its order among the others."""
    prompt = hashlib.blake2b(repr((job.run_id, job.prompt)).encode(), digest_size=16).digest()
    return {g: hashlib.blake2b(g.id.encode(), key=prompt, digest_size=8).digest() for g in generators}


def _nobody(run_id: str, of_run: Sequence[Generator], known: Sequence[Generator]) -> str:
    if of_run:
        return f'all {len(of_run)} generators of run "{run_id}" fail or are full'
    others = ", ".join(sorted({generator.run_id for generator in known})) or "none"
    return f'no generator serves run "{run_id}" (runs served: {others})'
