import asyncio
from typing import Any

import pytest

from preceptor.common.completions import Sampling, VersionSpan
from preceptor.common.errors import FailedPrecondition, InvalidInput, Overloaded, Unavailable
from preceptor.common.telemetry import BusyClock
from preceptor.common.waiting import wait_until_aio
from preceptor.generation.admission import Admission
from preceptor.generation.engine import EngineDead, Piece
from preceptor.generation.service import Drained, Generation, Identity
from preceptor.generation.types import Command, Completion, Finish, State, TokenIds
from preceptor.generation.versions import VersionClock
from tests.unit.generation.scripted import ScriptedSampler, piece


class Rig:
    """A Generation on a scripted engine, serving version 0."""

    def __init__(self, *answers: Any, max_requests: int = 8) -> None:
        self.sampler = ScriptedSampler(*answers)
        self.clock = VersionClock()
        self.admission = Admission(max_requests, BusyClock("generation"))
        self.generation = Generation(
            Identity("g0", "run-a"),
            self.sampler,
            self.clock,
            self.admission,
            busy=BusyClock("generation"),
            max_num_seqs=2,
            max_wait_s=5,
            updates=lambda: (),
        )

    def serve(self) -> "Rig":
        self.clock.advance(0)
        self.generation.enter(State.SERVING, "serving")
        return self


def command(**fields: Any) -> Command:
    given = {"request_id": "r", "run_id": "", "prompt": TokenIds([1, 2]), "sampling": Sampling(max_tokens=8)}
    return Command(**{**given, **fields})


async def test_a_group_is_n_completions_of_one_prompt() -> None:
    rig = Rig(piece("a"), piece("b", "length"), piece("c")).serve()
    outcome = await rig.generation.generate(command(n=3))
    assert [one.text for one in outcome.completions] == ["a", "b", "c"]
    assert outcome.admitted_policy_version == 0
    assert outcome.prompt_token_ids == [1, 2]
    assert rig.generation.status().generated_tokens == 3


async def test_members_of_a_seeded_group_have_seeds_of_their_own() -> None:
    rig = Rig(piece("a"), piece("b")).serve()
    await rig.generation.generate(command(n=2, sampling=Sampling(max_tokens=8, seed=2**63 - 1)))
    assert [asked.seed for _, asked, _ in rig.sampler.calls] == [2**63 - 1, 0]


async def test_a_group_fails_as_a_whole_and_cancels_the_rest() -> None:
    rig = Rig(None, EngineDead()).serve()
    with pytest.raises(EngineDead):
        await rig.generation.generate(command(n=2))
    assert rig.sampler.cancelled == 1
    assert rig.admission.active == 0


async def test_a_caller_that_goes_away_cancels_its_sequences() -> None:
    rig = Rig().serve()
    call = asyncio.ensure_future(rig.generation.generate(command(n=3)))
    await wait_until_aio(lambda: len(rig.sampler.calls) == 3, 5, "the engine to be asked", interval_s=0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert rig.sampler.cancelled == 3
    assert rig.admission.active == 0


async def test_past_the_bound_calls_are_refused_with_a_hint() -> None:
    rig = Rig(max_requests=4).serve()
    running = asyncio.ensure_future(rig.generation.generate(command(n=3)))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as error:
        await rig.generation.generate(command(n=2))
    assert error.value.retry_after_s
    status = rig.generation.status()
    assert (status.running, status.waiting, status.max_requests) == (2, 1, 4)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_before_it_serves_calls_are_unavailable() -> None:
    rig = Rig()
    rig.generation.enter(State.LOADING, "loading")
    with pytest.raises(Unavailable, match="loading"):
        await rig.generation.generate(command())
    assert rig.generation.status().policy_version == -1


@pytest.mark.parametrize("run_id", ["run-b", "run-a2"])
async def test_another_run_is_refused(run_id: str) -> None:
    with pytest.raises(FailedPrecondition) as error:
        await Rig().serve().generation.generate(command(run_id=run_id))
    assert error.value.field == "run_id"


async def test_min_policy_version_is_waited_for_and_names_itself_when_late() -> None:
    rig = Rig(piece("a", version=2)).serve()
    call = asyncio.ensure_future(rig.generation.generate(command(min_policy_version=2)))
    await asyncio.sleep(0.01)
    rig.clock.advance(1)
    await asyncio.sleep(0.01)
    assert not rig.sampler.calls
    rig.clock.advance(2)
    assert (await call).admitted_policy_version == 2
    with pytest.raises(FailedPrecondition) as error:
        await rig.generation.generate(command(min_policy_version=9, deadline_s=0.3))
    assert error.value.field == "min_policy_version"


async def test_more_to_continue_than_completions_is_refused() -> None:
    prior = Completion([1], "b", [-1.0], Finish.HANDED_BACK, (VersionSpan(0, 0, 1),))
    with pytest.raises(InvalidInput) as error:
        await Rig().serve().generation.generate(command(continue_from=(prior, prior)))
    assert error.value.field == "continue_from"


async def test_a_continuation_that_fills_the_context_is_refused() -> None:
    prior = Completion([1] * 62, "", [-1.0] * 62, Finish.HANDED_BACK, (VersionSpan(0, 0, 62),))
    with pytest.raises(InvalidInput) as error:
        await Rig().serve().generation.generate(command(continue_from=(prior,), sampling=Sampling(max_tokens=63)))
    assert error.value.field == "continue_from[0]"


async def test_a_stream_ends_with_finish_and_spans() -> None:
    rig = Rig(piece("ab", "abort", 0), piece("c", "stop", 0)).serve()
    deltas = [delta async for delta in rig.generation.stream(command())]
    assert [list(delta.completion.token_ids) for delta in deltas] == [[], [0, 1], [2]]
    assert deltas[0].prompt_token_ids == [1, 2]
    assert [delta.completion.finish for delta in deltas] == [Finish.NOT_YET, Finish.NOT_YET, Finish.STOP]
    assert deltas[1].completion.spans == (VersionSpan(0, 0, 2),)
    assert deltas[-1].completion.spans == (VersionSpan(0, 0, 3),)


async def test_a_streams_deltas_carry_the_spans_of_all_tokens_so_far() -> None:
    pieces = (
        Piece([0, 1], None, [-1.0, -1.0], None, (VersionSpan(0, 0, 2),)),
        Piece([2], None, [-2.0], None),  # the engine does not know yet
        Piece([3], None, [-3.0], "length", (VersionSpan(0, 0, 3), VersionSpan(1, 3, 4))),
    )
    prior = Completion([9], "j", [-9.0], Finish.HANDED_BACK, (VersionSpan(0, 0, 1),))
    rig = Rig(pieces).serve()
    deltas = [delta async for delta in rig.generation.stream(command(continue_from=(prior,), text_at_end=True))]
    assert [delta.completion.spans for delta in deltas] == [
        (VersionSpan(0, 0, 1),),
        (VersionSpan(0, 0, 3),),
        (),
        (VersionSpan(0, 0, 4), VersionSpan(1, 4, 5)),
    ]
    assert [delta.completion.text for delta in deltas] == ["j", "", "", "jabcd"]
    assert deltas[-1].completion.finish is Finish.LENGTH


async def test_a_streamed_group_tells_its_completions_apart() -> None:
    prior = Completion([9], "j", [-9.0], Finish.HANDED_BACK, (VersionSpan(0, 0, 1),))
    rig = Rig(piece("ab"), piece("c"), piece("d", "length")).serve()
    deltas = [delta async for delta in rig.generation.stream(command(n=3, continue_from=(prior, prior)))]
    tokens: dict[int, list[int]] = {}
    for delta in deltas:
        tokens.setdefault(delta.index, []).extend(delta.completion.token_ids)
    assert tokens == {0: [9, 0, 1], 1: [9, 2], 2: [3]}
    assert [delta.prompt_token_ids for delta in deltas] == [[1, 2]] + [()] * (len(deltas) - 1)
    assert {delta.index: delta.completion.finish for delta in deltas} == {
        0: Finish.STOP, 1: Finish.STOP, 2: Finish.LENGTH,
    }  # fmt: skip
    assert rig.admission.active == 0


async def test_a_streamed_group_hands_over_what_it_has_before_it_fails() -> None:
    begun = Piece([0, 1], None, [-1.0, -1.0], None, (VersionSpan(0, 0, 2),))
    rig = Rig(piece("c"), (begun, EngineDead())).serve()
    seen = []
    with pytest.raises(EngineDead):  # noqa: PT012  what came before the error is what matters
        async for delta in rig.generation.stream(command(n=2)):
            written = delta.completion
            seen.append((delta.index, list(written.token_ids), written.finish))
    assert seen == [(0, [], Finish.NOT_YET), (0, [2], Finish.STOP), (1, [0, 1], Finish.NOT_YET)]


@pytest.mark.parametrize(("asked", "engine"), [(0, 16), (1, 1), (40, 40)])
async def test_a_stream_hands_over_as_many_tokens_at_a_time_as_asked(asked: int, engine: int) -> None:
    rig = Rig(piece("ab")).serve()
    assert [delta async for delta in rig.generation.stream(command(delta_tokens=asked))]
    assert rig.sampler.piece_tokens == [engine]


@pytest.mark.parametrize("asked", [-1, 1025])
async def test_a_stream_with_deltas_of_no_sensible_size_is_refused(asked: int) -> None:
    with pytest.raises(InvalidInput) as error:
        await anext(Rig().serve().generation.stream(command(delta_tokens=asked)))
    assert error.value.field == "delta_tokens"


async def test_leaving_a_stream_cancels_its_sequence() -> None:
    rig = Rig().serve()
    stream = rig.generation.stream(command())
    await anext(stream)
    reading = asyncio.ensure_future(anext(stream))
    await wait_until_aio(lambda: rig.sampler.calls, 5, "the engine to be asked", interval_s=0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert rig.sampler.cancelled == 1
    assert rig.admission.active == 0


async def test_draining_refuses_new_calls_and_lets_running_ones_end() -> None:
    rig = Rig(None, None).serve()
    running = asyncio.ensure_future(rig.generation.generate(command(n=2)))
    waiting = asyncio.ensure_future(rig.generation.generate(command(min_policy_version=5)))
    await asyncio.sleep(0.01)
    draining = asyncio.ensure_future(rig.generation.drain(1.0))
    await asyncio.sleep(0.01)
    with pytest.raises(Unavailable, match="draining"):
        await rig.generation.generate(command())
    with pytest.raises(Unavailable):
        await waiting
    outcome = await running
    assert {one.finish for one in outcome.completions} == {Finish.HANDED_BACK}
    assert await draining == Drained(finished=0, handed_back=2)
    assert rig.generation.status().state is State.DRAINING


async def test_draining_what_is_idle_returns_at_once_and_twice() -> None:
    rig = Rig(piece("a")).serve()
    await rig.generation.generate(command())
    assert await rig.generation.drain(60) == Drained(0, 0)
    assert await rig.generation.drain(60) == Drained(0, 0)
    rig.generation.enter(State.SERVING, "again?")
    assert rig.generation.status().state is State.DRAINING
