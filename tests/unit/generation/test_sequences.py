import asyncio

import pytest

from preceptor.common.completions import Sampling, VersionSpan
from preceptor.common.errors import InternalError, InvalidInput
from preceptor.generation.sequences import SequenceRunner, check_prior
from preceptor.generation.types import Completion, Finish
from preceptor.generation.versions import VersionClock
from tests.unit.generation.scripted import ScriptedSampler, piece


def runner(sampler: ScriptedSampler, version: int = 0) -> tuple[SequenceRunner, VersionClock]:
    clock = VersionClock()
    clock.advance(version)
    return SequenceRunner(sampler, clock, "run"), clock


async def test_the_salt_names_run_and_version_at_admission() -> None:
    sampler = ScriptedSampler(piece("abc", version=4))
    sequences, _ = runner(sampler, 4)
    completion = await sequences.run([1, 2], Sampling(max_tokens=5))
    assert sampler.calls == [([1, 2], Sampling(max_tokens=5), "run/4")]
    assert completion == Completion([0, 1, 2], "abc", [0.0, -1.0, -2.0], Finish.STOP, (VersionSpan(4, 0, 3),))


async def test_what_the_engine_let_go_of_is_admitted_anew_under_the_newest_version() -> None:
    sampler = ScriptedSampler(None, piece("b", version=1))
    sequences, clock = runner(sampler)
    running = asyncio.ensure_future(sequences.run([1], Sampling(max_tokens=5)))
    await asyncio.sleep(0)
    clock.advance(1)
    await sampler.release_all()
    completion = await running
    assert [salt for _, _, salt in sampler.calls] == ["run/0", "run/1"]
    assert completion.spans == (VersionSpan(1, 0, 1),)


async def test_tokens_written_before_a_release_are_kept_and_not_asked_for_again() -> None:
    sampler = ScriptedSampler(piece("ab", "abort", 0), piece("cd", "length", 1))
    sequences, _ = runner(sampler)
    completion = await sequences.run([9], Sampling(max_tokens=4, min_tokens=3))
    assert sampler.calls[1][0] == [9, 0, 1]
    assert sampler.calls[1][1] == Sampling(max_tokens=2, min_tokens=1)
    assert completion.token_ids == [0, 1, 2, 3]
    assert completion.spans == (VersionSpan(0, 0, 2), VersionSpan(1, 2, 4))
    assert completion.finish is Finish.LENGTH


async def test_neighbouring_spans_of_one_version_become_one() -> None:
    sampler = ScriptedSampler(piece("ab", "abort", 3), piece("cd", "stop", 3))
    sequences, _ = runner(sampler, 3)
    assert (await sequences.run([9], Sampling(max_tokens=9))).spans == (VersionSpan(3, 0, 4),)


async def test_a_prior_completion_is_continued_with_its_logprobs_and_spans() -> None:
    prior = Completion([5, 6], "fg", [-0.5, -0.6], Finish.HANDED_BACK, (VersionSpan(1, 0, 2),))
    sampler = ScriptedSampler(piece("h", version=2))
    sequences, _ = runner(sampler, 2)
    completion = await sequences.run([9], Sampling(max_tokens=6), prior)
    assert sampler.calls == [([9, 5, 6], Sampling(max_tokens=4), "run/2")]
    assert completion == Completion(
        [5, 6, 7], "fgh", [-0.5, -0.6, -7.0], Finish.STOP, (VersionSpan(1, 0, 2), VersionSpan(2, 2, 3))
    )


async def test_text_before_a_stop_string_is_the_engines() -> None:
    sampler = ScriptedSampler(piece("ab", decoded=True))
    sequences, _ = runner(sampler)
    prior = Completion([2], "c", [-1.0], Finish.HANDED_BACK, (VersionSpan(0, 0, 1),))
    assert (await sequences.run([9], Sampling(max_tokens=6, stop=("x",)), prior)).text == "cab"


async def test_while_handing_back_a_released_sequence_ends() -> None:
    sampler = ScriptedSampler(piece("ab", "abort"))
    sequences, _ = runner(sampler)
    sequences.handing_back = True
    completion = await sequences.run([9], Sampling(max_tokens=4))
    assert completion.finish is Finish.HANDED_BACK
    assert completion.token_ids == [0, 1]


async def test_a_request_that_the_engine_failed_on_is_an_error_and_not_tried_for_ever() -> None:
    sequences, _ = runner(ScriptedSampler(piece("", "error")))
    with pytest.raises(InternalError):
        await sequences.run([9], Sampling(max_tokens=4))


GOOD = Completion([1, 2], "bc", [-1.0, -1.0], Finish.HANDED_BACK, (VersionSpan(0, 0, 1), VersionSpan(2, 1, 2)))


@pytest.mark.parametrize(
    ("prior", "field"),
    [
        (Completion([1, 2], "", [-1.0], spans=(VersionSpan(0, 0, 2),)), "c.sampling_logprobs"),
        (Completion([1, 2], "", [-1.0, -1.0]), "c.version_spans"),
        (Completion([1, 2], "", [-1.0, -1.0], spans=(VersionSpan(0, 0, 1),)), "c.version_spans"),
        (Completion([1, 2], "", [-1.0, -1.0], spans=(VersionSpan(0, 0, 1), VersionSpan(1, 0, 2))), "c.version_spans"),
        (Completion([1, 2], "", [-1.0, -1.0], spans=(VersionSpan(0, 0, 0), VersionSpan(1, 0, 2))), "c.version_spans"),
        (Completion([1, 200], "", [-1.0, -1.0], spans=(VersionSpan(0, 0, 2),)), "c.token_ids"),
        (Completion([1] * 9, "", [-1.0] * 9, spans=(VersionSpan(0, 0, 9),)), "c"),
    ],
)
def test_a_broken_prior_completion_names_what_is_wrong(prior: Completion, field: str) -> None:
    with pytest.raises(InvalidInput) as error:
        check_prior(prior, Sampling(max_tokens=9), 100, "c")
    assert error.value.field == field


def test_a_sound_prior_completion_passes() -> None:
    check_prior(GOOD, Sampling(max_tokens=9), 100, "c")
    check_prior(Completion(), Sampling(max_tokens=9), 100, "c")


def test_penalties_on_what_was_written_do_not_go_with_a_prior_completion() -> None:
    with pytest.raises(InvalidInput):
        check_prior(GOOD, Sampling(max_tokens=9, presence_penalty=0.5), 100, "c")
