"""What GenerationService does, whatever carries the calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

from preceptor.common.completions import Sampling
from preceptor.common.errors import FailedPrecondition, InvalidInput
from preceptor.common.tasks import cancel_and_wait
from preceptor.common.telemetry import BusyClock
from preceptor.generation import metrics, prompts, sampling
from preceptor.generation.admission import Admission
from preceptor.generation.engine import Sampler
from preceptor.generation.sequences import SequenceRunner, Streaming, check_prior
from preceptor.generation.types import Command, Completion, Delta, Finish, Outcome, State, Status, WeightUpdateRecord
from preceptor.generation.versions import VersionClock

_HAND_BACK_SHARE = 0.15  # of the drain time, kept for handing back and answering
_HAND_BACK_MAX_S = 5.0


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this generator is and what it serves."""

    generator_id: str
    run_id: str  # "" for a plain model folder


@dataclass(frozen=True, slots=True)
class Drained:
    finished: int
    handed_back: int


class Generation:
    """Draws completions and says how things stand.

    Args:
        identity: of this generator.
        sampler: the engine.
        clock: the version in force.
        admission: the bound on work.
        busy: time with work in progress.
        max_num_seqs: completions that the engine writes at the same time.
        max_wait_s: for min_policy_version, when a call has no deadline.
        delta_tokens: of a stream, when a call asks for no other number.
        updates: the newest weight updates, newest last.
    """

    def __init__(
        self,
        identity: Identity,
        sampler: Sampler,
        clock: VersionClock,
        admission: Admission,
        *,
        busy: BusyClock,
        max_num_seqs: int,
        max_wait_s: float,
        delta_tokens: int = 16,
        updates: Callable[[], Sequence[WeightUpdateRecord]],
    ) -> None:
        self.identity = identity
        self.state = State.WAITING_FOR_WEIGHTS
        self.message = "starting"
        self._sampler = sampler
        self._clock = clock
        self._admission = admission
        self._busy = busy
        self._max_num_seqs = max_num_seqs
        self._max_wait_s = max_wait_s
        self._delta_tokens = delta_tokens
        self._updates = updates
        self._sequences = SequenceRunner(sampler, clock, identity.run_id or "model")
        self._tokens = 0
        self._completed = dict.fromkeys(Finish, 0)

    def enter(self, state: State, message: str) -> None:
        """Changes the state shown to callers; SERVING admits them."""
        if self.state is State.DRAINING and state is not State.FAILED:
            return
        self.state, self.message = state, message
        if state is State.SERVING:
            self._admission.open()
        else:
            self._admission.close(f"it is {state.value}")

    async def generate(self, command: Command) -> Outcome:
        """Returns n completions of one prompt; all or none.

        Raises:
            InvalidInput, FailedPrecondition, Overloaded, Unavailable: see the RPC.
        """
        self._check_run(command)
        sampling.check_n(command.n)
        with self._admission.hold(command.n):
            prompt = await self._admit(command)
            version = self._clock.version
            started = time.monotonic()
            tasks = [self._sequences.run(prompt, *self._share(command, index)) for index in range(command.n)]
            completions = await _all_or_none(tasks)
            metrics.SECONDS.observe(time.monotonic() - started)
        for completion, prior in zip(completions, _priors(command), strict=True):
            self._count(completion, prior)
        return Outcome(command.request_id, version, prompt, tuple(completions))

    async def stream(self, command: Command) -> AsyncIterator[Delta]:
        """Yields n completions of one prompt as they are written; all or none end well, and what has come is good.

        A completion's tokens come in order, what is continued at once, then the first, then at least
        `command.delta_tokens` at a time.

        Raises:
            InvalidInput, FailedPrecondition, Overloaded, Unavailable: see the RPC.
        """
        self._check_run(command)
        sampling.check_n(command.n)
        sampling.check_delta_tokens(command.delta_tokens)
        with self._admission.hold(command.n):
            prompt = await self._admit(command)
            version = self._clock.version
            deltas: asyncio.Queue[Delta | None] = asyncio.Queue()  # bounded by n max_tokens
            tasks = [self._followed(command, index, prompt, version, deltas) for index in range(command.n)]
            writing = asyncio.ensure_future(_all_or_none(tasks))
            try:
                for index, prior in enumerate(_priors(command)):
                    if prior is not None or index == 0:
                        yield Delta(prior or Completion(), version, () if index else prompt, index)
                async for delta in _until_done(deltas, writing):
                    yield delta
                completions = writing.result()
            finally:
                await cancel_and_wait(writing)
        for completion, prior in zip(completions, _priors(command), strict=True):
            self._count(completion, prior)

    def _followed(
        self, command: Command, index: int, prompt: Sequence[int], version: int, deltas: asyncio.Queue[Delta | None]
    ) -> Coroutine[Any, Any, Completion]:
        """Writes the group's completion `index`; its deltas go to the queue."""
        streaming = Streaming(
            lambda tokens: deltas.put_nowait(Delta(tokens, version, index=index)),
            command.delta_tokens or self._delta_tokens,
            command.text_at_end,
        )
        return self._sequences.run(prompt, *self._share(command, index), streaming)

    async def drain(self, timeout_s: float) -> Drained:
        """Admits nothing more; returns once everything has ended, by itself or handed back. Draining twice succeeds."""
        before = dict(self._completed)
        self.enter(State.DRAINING, "finishing what runs")
        self._clock.leave()
        patience_s = timeout_s - min(_HAND_BACK_MAX_S, timeout_s * _HAND_BACK_SHARE)
        try:
            await asyncio.wait_for(self._admission.idle(), patience_s)
        except TimeoutError:
            self.message = "handing back what runs"
            self._sequences.handing_back = True
            await self._sampler.release_all()
            await asyncio.wait_for(self._admission.idle(), timeout_s - patience_s)
        counts = {finish: self._completed[finish] - before[finish] for finish in Finish}
        handed_back = counts.pop(Finish.HANDED_BACK)
        self.message = "drained"
        return Drained(sum(counts.values()), handed_back)

    def status(self) -> Status:
        """Returns how things stand, in every state."""
        loaded = self.state in (State.SERVING, State.DRAINING) and self._clock.version >= 0
        active = self._admission.active
        return Status(
            generator_id=self.identity.generator_id,
            run_id=self.identity.run_id,
            state=self.state,
            policy_version=self._clock.version,
            running=min(active, self._max_num_seqs),
            waiting=max(0, active - self._max_num_seqs),
            max_requests=self._admission.max_requests,
            max_model_len=self._sampler.limits.max_model_len if loaded else 0,
            generated_tokens=self._tokens,
            message=self.message,
            busy_s=self._busy.total_s,
            recent_updates=tuple(self._updates()),
        )

    def _check_run(self, command: Command) -> None:
        if command.run_id and command.run_id != self.identity.run_id:
            serves = f'run "{self.identity.run_id}"' if self.identity.run_id else "a model folder, no run"
            raise FailedPrecondition(
                f'run_id is "{command.run_id}", and this generator serves {serves}',
                field="run_id",
                reason="OTHER_RUN",
                metadata={"run_id": self.identity.run_id},
            )

    async def _admit(self, command: Command) -> Sequence[int]:
        """Returns the prompt's ids once the command is valid and its version is in force."""
        limits = self._sampler.limits
        sampling.check(command.sampling, rl=command.rl, limits=limits)
        prompt = prompts.tokenize(command.prompt, self._sampler.codec, limits)
        if len(command.continue_from) > command.n:
            raise InvalidInput(
                f"continue_from has {len(command.continue_from)} completions and n is {command.n}: at most n",
                field="continue_from",
            )
        for index, prior in enumerate(command.continue_from):
            check_prior(prior, command.sampling, limits.vocab_size, f"continue_from[{index}]")
            if len(prompt) + len(prior.token_ids) >= limits.max_model_len:
                raise InvalidInput(
                    f"continue_from[{index}] and the prompt fill the context of {limits.max_model_len} tokens",
                    field=f"continue_from[{index}]",
                )
        await self._clock.reach(command.min_policy_version, command.deadline_s or self._max_wait_s)
        metrics.PROMPT_TOKENS.inc(len(prompt))
        return prompt

    def _share(self, command: Command, index: int) -> tuple[Sampling, Completion | None]:
        """Returns the parameters of the group's completion `index`: with one seed for all, all would be the same."""
        one = command.sampling
        if one.seed is not None:
            one = replace(one, seed=(one.seed + index) % 2**63)
        return one, _priors(command)[index]

    def _count(self, completion: Completion, prior: Completion | None) -> None:
        written = len(completion.token_ids) - (len(prior.token_ids) if prior else 0)
        self._tokens += written
        self._completed[completion.finish] += 1
        metrics.TOKENS.inc(written)
        metrics.COMPLETIONS.labels(completion.finish.name.lower()).inc()


def _priors(command: Command) -> list[Completion | None]:
    return [*command.continue_from, *[None] * (command.n - len(command.continue_from))]


async def _all_or_none(coroutines: Sequence[Coroutine[Any, Any, Completion]]) -> list[Completion]:
    """Returns every result; the first failure, or the caller's going away, cancels the rest."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await cancel_and_wait(*tasks)


async def _until_done(
    queue: asyncio.Queue[Delta | None], writing: asyncio.Task[list[Completion]]
) -> AsyncIterator[Delta]:
    """Yields what is queued until `writing` is done and nothing is left; raises what it raises."""
    writing.add_done_callback(lambda _: queue.put_nowait(None))
    while (item := await queue.get()) is not None:
        yield item
    writing.result()
