"""The use case of a rollout worker: one prompt group, written, scored and delivered, or its failure."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from preceptor.common.errors import DeadlineExceeded, InternalError, PreceptorError, Unavailable
from preceptor.common.telemetry import counter, get_logger
from preceptor.rollout.drafts import GroupDraft, StreamedGroup, problem
from preceptor.rollout.generator_pool import GeneratorPool
from preceptor.rollout.retry import Retrier, is_retryable
from preceptor.rollout.types import (
    Completion,
    Deadline,
    Deliver,
    Failure,
    Generate,
    Generation,
    Group,
    Job,
    Offer,
    Rollout,
    Score,
    Scoring,
    Stage,
)

log = get_logger(__name__)
_continued = counter(
    "preceptor_rollout_continued_tokens_total",
    "Tokens of unfinished completions that went to another generator: handed back by one that drained, or reclaimed "
    "from the stream of one that was lost.",
    ("cause",),
)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """`report_margin_s` is kept free before a task's deadline, so that its failure still arrives in time; delivery may
    take `delivery_s` even when the deadline is nearer."""

    generate_timeout_s: float = 300.0
    score_timeout_s: float = 60.0
    report_margin_s: float = 1.0
    delivery_s: float = 10.0


class _StageError(Exception):
    """Carries the failure out of the stage where it happened."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Collector:
    """Collects groups; threads share it."""

    def __init__(
        self,
        pool: GeneratorPool,
        retrier: Retrier,
        *,
        generate: Generate,
        score: Score,
        deliver: Deliver,
        offer: Offer,
        worker_id: str,
        limits: Limits,
    ) -> None:
        self._pool = pool
        self._retrier = retrier
        self._generate = generate
        self._score = score
        self._deliver = deliver
        self._offer = offer
        self._worker_id = worker_id
        self._limits = limits

    def collect(self, job: Job) -> Group:
        """The group as it was appended to the run's stream: n scored rollouts, or a failure.

        Generation and scores are tried again until the job's deadline; what still fails is reported, and never becomes
        a rollout with a score of zero.

        Raises:
          Unavailable: the stream could not be reached; nothing was delivered.
        """
        try:
            group = self._collect(job)
        except _StageError as error:
            group = self.failed(job, error.failure)
        self.deliver(group)
        if group.failure is None and job.feedback_project:
            self._offer_quietly(group)
        return group

    def failed(self, job: Job, failure: Failure) -> Group:
        return Group(job=job, worker_id=self._worker_id, failure=failure)

    def deliver(self, group: Group) -> None:
        self._deliver(group, group.job.deadline.at_least(self._limits.delivery_s))

    def _collect(self, job: Job) -> Group:
        if job.deadline.passed:
            raise _StageError(Failure(Stage.EXPIRED, "EXPIRED", "the deadline had passed when a worker took it", True))
        if job.prompt.token_ids is not None:
            message = "a prompt of token ids cannot be scored: reward models read text; give text or a conversation"
            raise _StageError(Failure(Stage.REWARD, "TOKEN_IDS_PROMPT", message, False))
        deadline = job.deadline.less(min(self._limits.report_margin_s, 0.1 * job.deadline.remaining_s()))
        begun = time.monotonic()
        generation = self._staged(Stage.GENERATION, lambda: self._written(job, deadline))
        written = time.monotonic()
        scoring = self._staged(Stage.REWARD, lambda: self._scored(job, generation.completions, deadline))
        return Group(
            job=job,
            worker_id=self._worker_id,
            rollouts=_rollouts(job, generation, scoring),
            prompt_token_ids=generation.prompt_token_ids,
            reward_model=scoring.reward_model,
            reward_model_version=scoring.reward_model_version,
            generator_id=generation.generator_id,
            generate_seconds=written - begun,
            score_seconds=time.monotonic() - written,
        )

    def _staged(self, stage: Stage, run: Callable[[], T]) -> T:
        try:
            return run()
        except PreceptorError as error:
            failure = Failure(stage, error.reason, error.message, is_retryable(error))
            raise _StageError(failure) from error

    def _written(self, job: Job, deadline: Deadline) -> Generation:
        """n complete completions; what a generator hands back, or had streamed when it was lost, another continues."""
        draft = GroupDraft(job.n, job.continue_from)
        while True:
            self._retrier.call(
                partial(self._write_on, job, draft, deadline),
                deadline,
                call_timeout_s=self._limits.generate_timeout_s,
            )
            if not draft.missing:
                return draft.whole()
            if deadline.passed:
                raise DeadlineExceeded(f"{draft.missing} completions were handed back and the deadline has passed")

    def _write_on(self, job: Job, draft: GroupDraft, deadline: Deadline, timeout_s: float) -> None:
        """Has one generator write what is missing."""
        n, begun, streamed = draft.missing, draft.begun, StreamedGroup()
        if not n:
            return  # the last one was lost after its last word
        with self._pool.lease(job, n, deadline) as generator:
            timeout_s = max(min(timeout_s, deadline.remaining_s()), 0.001)  # the lease may have waited
            started = time.monotonic()
            try:
                generation = self._generate(
                    generator, job, n=n, continue_from=begun, timeout_s=timeout_s, streamed=streamed
                )
            except PreceptorError:
                _continued.labels("reclaimed").inc(draft.salvage(streamed))
                raise
            _check_generation(generation, n)
            grown = [len(c.token_ids) for c in generation.completions]
            grown[: len(begun)] = [new - len(old.token_ids) for new, old in zip(grown, begun, strict=False)]
            self._pool.note_speed(generator, max(grown), time.monotonic() - started)
        _continued.labels("handed_back").inc(draft.take(generation))

    def _scored(self, job: Job, completions: tuple[Completion, ...], deadline: Deadline) -> Scoring:
        def attempt(timeout_s: float) -> Scoring:
            return self._score(job, completions, timeout_s=timeout_s)

        scoring = self._retrier.call(attempt, deadline, call_timeout_s=self._limits.score_timeout_s)
        _check_scoring(scoring, len(completions))
        return scoring

    def _offer_quietly(self, group: Group) -> None:
        """A lost offer costs a comparison; it must not cost the rollouts, which are delivered already."""
        try:
            self._offer(group)
        except Unavailable as error:
            log.warning("the group was not offered for feedback", group_id=group.job.group_id, error=error.message)


def _check_generation(generation: Generation, n: int) -> None:
    if len(generation.completions) != n:
        raise InternalError(f"{generation.generator_id} wrote {len(generation.completions)} completions, not {n}")
    for index, completion in enumerate(generation.completions):
        fault = problem(completion)
        if fault:
            raise InternalError(f"{generation.generator_id}: completion {index} {fault}", reason="BAD_COMPLETION")


def _check_scoring(scoring: Scoring, n: int) -> None:
    if len(scoring.results) != n:
        message = f"the reward service returned {len(scoring.results)} scores for {n} completions"
        raise _StageError(Failure(Stage.REWARD, "INTERNAL", message, True))
    for index, result in enumerate(scoring.results):
        if result.reason:
            message = f"completion {index}: {result.message}"
            raise _StageError(Failure(Stage.REWARD, result.reason, message, result.reason == "TIMEOUT"))
        if not math.isfinite(result.score):
            message = f"completion {index}: the score is {result.score}, which is not a finite number"
            raise _StageError(Failure(Stage.REWARD, "NAN_SCORE", message, False))


def _rollouts(job: Job, generation: Generation, scoring: Scoring) -> tuple[Rollout, ...]:
    pairs = zip(generation.completions, scoring.results, strict=True)
    return tuple(
        Rollout(f"{job.group_id}/{job.attempt}/{index}", completion, result.score, result.components)
        for index, (completion, result) in enumerate(pairs)
    )
