import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from preceptor.common.completions import Sampling, VersionSpan
from preceptor.common.errors import InternalError, InvalidInput, Overloaded, PreceptorError, Unavailable
from preceptor.rollout.drafts import StreamedGroup
from preceptor.rollout.generator_pool import GeneratorPool
from preceptor.rollout.retry import CircuitBreaker, Retrier, RetryPolicy
from preceptor.rollout.service import Collector, Limits
from preceptor.rollout.types import (
    Completion,
    Deadline,
    FinishReason,
    Generation,
    Generator,
    Group,
    ItemScore,
    Job,
    Prompt,
    Scoring,
    Stage,
)

GENERATORS = [Generator("a", "host:1", "run"), Generator("b", "host:2", "run", load=50)]


def completion(text: str = "words", finish: FinishReason = FinishReason.STOP, tokens: int = 3) -> Completion:
    return Completion(tuple(range(tokens)), text, (-0.5,) * tokens, finish, (VersionSpan(2, 0, tokens),))


def job(**fields: object) -> Job:
    base = Job("run", "run/7", 2, 7, "p7", Prompt(text="x"), 2, Sampling(8), 2, "rm", Deadline.after(5))
    return replace(base, **fields)  # type: ignore[arg-type]


class World:
    """Generators, a reward service, a stream and a feedback queue that do as told, and remember what they saw."""

    def __init__(self) -> None:
        self.generate_errors: list[PreceptorError] = []
        self.streams: list[Callable[[StreamedGroup], None]] = []  # what arrives before a call ends
        self.score_errors: list[PreceptorError] = []
        self.write: Callable[[int], tuple[Completion, ...]] = lambda n: tuple(completion(f"w{i}") for i in range(n))
        self.scores = [ItemScore(1.0, {"raw": 2.0}), ItemScore(-1.0)]
        self.asked: list[tuple[str, int, tuple[Completion, ...]]] = []
        self.scored: list[tuple[Completion, ...]] = []
        self.delivered: list[Group] = []
        self.offered: list[Group] = []
        self.offer_error: PreceptorError | None = None

    def generate(
        self,
        generator: Generator,
        job: Job,
        *,
        n: int,
        continue_from: tuple[Completion, ...],
        timeout_s: float,
        streamed: StreamedGroup,
    ) -> Generation:
        self.asked.append((generator.id, n, continue_from))
        if self.streams:
            self.streams.pop(0)(streamed)
        if self.generate_errors:
            raise self.generate_errors.pop(0)
        return Generation(generator.id, (5, 6), self.write(n))

    def score(self, job: Job, completions: tuple[Completion, ...], *, timeout_s: float) -> Scoring:
        self.scored.append(completions)
        if self.score_errors:
            raise self.score_errors.pop(0)
        return Scoring(tuple(self.scores), "rm", 4)

    def deliver(self, group: Group, deadline: Deadline) -> None:
        assert not deadline.passed
        self.delivered.append(group)

    def offer(self, group: Group) -> None:
        self.offered.append(group)
        if self.offer_error is not None:
            raise self.offer_error

    def collect(self, wanted: Job) -> Group:
        pool = GeneratorPool(
            lambda: GENERATORS, lambda _: True, refresh_s=0.01, breaker=lambda: CircuitBreaker(initial_s=0.01)
        )
        collector = Collector(
            pool,
            Retrier(RetryPolicy(initial_s=0.001), lambda _: False),
            generate=self.generate,
            score=self.score,
            deliver=self.deliver,
            offer=self.offer,
            worker_id="rollout-0",
            limits=Limits(report_margin_s=0.1),
        )
        group = collector.collect(wanted)
        assert self.delivered == [group]
        return group

    def failure(self, wanted: Job) -> tuple[Stage, str, str, bool]:
        group = self.collect(wanted)
        assert group.failure is not None
        assert group.rollouts == ()
        return group.failure.stage, group.failure.reason, group.failure.message, group.failure.retryable


@pytest.fixture
def world() -> World:
    return World()


def test_a_group_is_written_scored_and_delivered(world: World) -> None:
    group = world.collect(job())
    assert group.failure is None
    assert [rollout.rollout_id for rollout in group.rollouts] == ["run/7/2/0", "run/7/2/1"]
    assert [(r.completion.text, r.score) for r in group.rollouts] == [("w0", 1.0), ("w1", -1.0)]
    assert group.rollouts[0].score_components == {"raw": 2.0}
    assert (group.generator_id, group.prompt_token_ids) == ("a", (5, 6))
    assert (group.reward_model, group.reward_model_version, group.worker_id) == ("rm", 4, "rollout-0")
    assert world.offered == []


def test_an_expired_task_is_reported_and_nothing_is_generated(world: World) -> None:
    stage, reason, _, retryable = world.failure(job(deadline=Deadline.after(-1)))
    assert (stage, reason, retryable) == (Stage.EXPIRED, "EXPIRED", True)
    assert world.asked == []


def test_a_lost_generator_hands_the_group_to_another(world: World) -> None:
    world.generate_errors = [Unavailable("connection reset")]
    assert world.collect(job()).generator_id == "b"


def test_an_overloaded_generator_hands_the_group_to_another(world: World) -> None:
    world.generate_errors = [Overloaded("full", retry_after_s=0.02)]
    assert world.collect(job()).generator_id == "b"


def test_a_refused_request_is_reported_at_once_as_not_worth_repeating(world: World) -> None:
    world.generate_errors = [InvalidInput("top_p must be 1 in RL mode")]
    expected = (Stage.GENERATION, "INVALID_INPUT", "top_p must be 1 in RL mode", False)
    assert world.failure(job()) == expected
    assert len(world.asked) == 1


def test_generators_that_stay_away_are_reported_before_the_deadline(world: World) -> None:
    world.generate_errors = [Unavailable("connection refused")] * 10_000
    stage, reason, message, retryable = world.failure(job(deadline=Deadline.after(0.3)))
    assert (stage, reason, message, retryable) == (Stage.GENERATION, "UNAVAILABLE", "connection refused", True)


def test_completions_handed_back_are_continued_and_the_finished_ones_kept(world: World) -> None:
    half = completion("half", FinishReason.HANDED_BACK, tokens=2)
    answers = [(half, completion("whole")), (completion("half and half", tokens=5),)]
    world.write = lambda n: answers.pop(0)
    group = world.collect(job())
    assert [rollout.completion.text for rollout in group.rollouts] == ["whole", "half and half"]
    assert [(n, continued) for _, n, continued in world.asked] == [(2, ()), (1, (half,))]


def part(
    *tokens: int, spans: tuple[VersionSpan, ...] = (), finish: FinishReason = FinishReason.HANDED_BACK
) -> Completion:
    return Completion(tokens, "", tuple(-float(token) for token in tokens), finish, spans)


def test_what_a_lost_generator_had_streamed_is_continued_and_its_finished_ones_kept(world: World) -> None:
    def arrive(streamed: StreamedGroup) -> None:
        streamed.generator_id, streamed.prompt_token_ids = "a", (5, 6)
        streamed.add(0, part(), ended=False)
        streamed.add(1, part(1, 2, spans=(VersionSpan(2, 0, 2),)), ended=False)
        whole = replace(part(7, spans=(VersionSpan(2, 0, 1),), finish=FinishReason.STOP), text="seven")
        streamed.add(0, whole, ended=True)
        streamed.add(1, part(3, spans=(VersionSpan(2, 0, 2), VersionSpan(3, 2, 3))), ended=False)
        streamed.add(1, part(4), ended=False)  # its version is not known: it is written again

    world.streams = [arrive]
    world.generate_errors = [Unavailable("connection reset")]
    world.write = lambda n: (completion("one to five", tokens=5),)
    group = world.collect(job())
    spans = (VersionSpan(2, 0, 2), VersionSpan(3, 2, 3))
    assert [(n, continued) for _, n, continued in world.asked] == [(2, ()), (1, (part(1, 2, 3, spans=spans),))]
    assert [rollout.completion.text for rollout in group.rollouts] == ["seven", "one to five"]


def test_a_generator_lost_after_its_last_word_costs_nothing(world: World) -> None:
    def arrive(streamed: StreamedGroup) -> None:
        streamed.generator_id, streamed.prompt_token_ids = "a", (5, 6)
        for index in range(2):
            streamed.add(index, completion(f"s{index}"), ended=True)

    world.streams = [arrive]
    world.generate_errors = [Unavailable("connection reset")]
    group = world.collect(job())
    assert len(world.asked) == 1
    assert [rollout.completion.text for rollout in group.rollouts] == ["s0", "s1"]
    assert group.prompt_token_ids == (5, 6)


def test_what_was_begun_is_not_lost_when_the_next_generator_dies_before_it_answers(world: World) -> None:
    half = part(1, 2, spans=(VersionSpan(2, 0, 2),))

    def nothing_but_the_first(streamed: StreamedGroup) -> None:
        streamed.generator_id, streamed.prompt_token_ids = "a", (5, 6)

    world.streams = [lambda streamed: None, nothing_but_the_first]
    world.generate_errors = [Unavailable("connection reset")] * 2
    world.collect(job(continue_from=(half,)))
    assert [continued for _, _, continued in world.asked] == [(half,)] * 3


def test_what_arrived_broken_is_not_continued(world: World) -> None:
    def arrive(streamed: StreamedGroup) -> None:
        streamed.generator_id, streamed.prompt_token_ids = "a", (5, 6)
        streamed.add(0, part(1, spans=(VersionSpan(2, 0, 3),)), ended=False)
        streamed.add(1, replace(part(1, finish=FinishReason.STOP), sampling_logprobs=(math.nan,)), ended=True)

    world.streams = [arrive]
    world.generate_errors = [Unavailable("connection reset")]
    world.collect(job())
    assert [(n, continued) for _, n, continued in world.asked] == [(2, ())] * 2


def test_the_tasks_own_completions_are_continued(world: World) -> None:
    half = completion("half", FinishReason.HANDED_BACK)
    world.collect(job(continue_from=(half,)))
    assert world.asked[0] == ("a", 2, (half,))


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (replace(completion(), sampling_logprobs=(-1.0,)), "3 tokens and 1 sampling_logprobs"),
        (replace(completion(), sampling_logprobs=(-1.0, math.nan, -1.0)), "not finite"),
        (replace(completion(), version_spans=(VersionSpan(2, 0, 2),)), "do not cover its 3 tokens"),
        (replace(completion(), version_spans=(VersionSpan(2, 0, 2), VersionSpan(3, 1, 3))), "do not cover"),
        (replace(completion(), version_spans=(VersionSpan(2, 0, 0), VersionSpan(3, 0, 3))), "do not cover"),
        (completion(tokens=0), "no token"),
    ],
)
def test_a_completion_unfit_for_training_never_reaches_the_stream(world: World, bad: Completion, text: str) -> None:
    world.write = lambda n: (completion(), bad)
    stage, reason, message, _ = world.failure(job())
    assert (stage, reason) == (Stage.GENERATION, "BAD_COMPLETION")
    assert text in message
    assert len(world.asked) == 3


def test_too_few_completions_are_a_failure(world: World) -> None:
    world.write = lambda n: (completion(),)
    assert "wrote 1 completions, not 2" in world.failure(job())[2]


def test_a_reward_service_that_restarts_is_waited_for(world: World) -> None:
    world.score_errors = [
        Unavailable("connection refused"),
        Overloaded("full", retry_after_s=0.001),
        InternalError("?"),
    ]
    assert world.collect(job()).failure is None
    assert len(world.scored) == 4
    assert len(world.asked) == 1, "what was written is not written again"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_fails_the_group_and_is_never_zero(world: World, value: float) -> None:
    world.scores[1] = ItemScore(value)
    stage, reason, message, retryable = world.failure(job())
    assert (stage, reason, retryable) == (Stage.REWARD, "NAN_SCORE", False)
    assert "completion 1" in message


def test_one_items_error_fails_the_group_with_its_text(world: World) -> None:
    world.scores[1] = ItemScore(0.0, reason="FUNCTION_RAISED", message="f raised ValueError: no")
    assert world.failure(job()) == (Stage.REWARD, "FUNCTION_RAISED", "completion 1: f raised ValueError: no", False)


def test_a_timeout_of_the_reward_is_worth_another_attempt(world: World) -> None:
    world.scores[0] = ItemScore(0.0, reason="TIMEOUT", message="late")
    assert world.failure(job())[3] is True


def test_too_few_scores_are_a_failure(world: World) -> None:
    world.scores.pop()
    assert world.failure(job())[2] == "the reward service returned 1 scores for 2 completions"


def test_token_ids_cannot_be_scored_and_are_not_generated(world: World) -> None:
    stage, reason, _, retryable = world.failure(job(prompt=Prompt(token_ids=(1, 2))))
    assert (stage, reason, retryable) == (Stage.REWARD, "TOKEN_IDS_PROMPT", False)
    assert world.asked == []


def test_a_group_is_offered_for_feedback_after_its_delivery(world: World) -> None:
    group = world.collect(job(feedback_project="demo"))
    assert world.offered == [group]


def test_a_failed_group_is_not_offered(world: World) -> None:
    world.scores[0] = ItemScore(math.nan)
    world.failure(job(feedback_project="demo"))
    assert world.offered == []


def test_a_lost_offer_costs_no_rollouts(world: World) -> None:
    world.offer_error = Unavailable("Redis does not answer")
    assert world.collect(job(feedback_project="demo")).failure is None
