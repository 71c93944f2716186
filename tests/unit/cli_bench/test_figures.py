"""From what rounds gave to figures, by hand-made rounds."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from preceptor.cli.bench import feedback, generation, reward, weights, weights_chain
from preceptor.cli.bench.feedback_load import Taken
from preceptor.cli.bench.report import Figure
from preceptor.cli.bench.streams import StreamLoad, Streams, measure
from preceptor.cli.bench.weights_stall import Stall


def by_name(figures: Sequence[Figure]) -> dict[str, Figure]:
    named = {figure.name: figure for figure in figures}
    assert len(named) == len(figures)
    return named


def streams(rate: float, first_ms: float, delta: int) -> Streams:
    return Streams(seconds=2.0, tokens=int(2 * rate), first_s=[first_ms / 1e3] * 3, deltas=[1, delta, delta])


def test_generation_compares_rates_and_first_tokens_round_by_round() -> None:
    taken = {
        "stream": [streams(960, 50, 16), streams(480, 90, 16)],
        "unary": [streams(990, 50, 129), streams(495, 90, 129)],
        "bare": [streams(1000, 40, 16), streams(500, 70, 16)],
    }
    first = {"stream": [streams(1, 8, 1), streams(1, 30, 1)], "bare": [streams(1, 5, 1), streams(1, 26, 1)]}
    figures = by_name(generation.figures_of(taken, first))
    assert figures["stream.rate_over_bare"].value == pytest.approx(0.96)
    assert figures["stream.rate_over_bare"].holds
    assert figures["unary.rate_over_bare"].value == pytest.approx(0.99)
    assert figures["stream.delta_tokens.p50"].value == 16
    assert figures["stream.delta_tokens.p50"].holds
    assert figures["first_token.added"].value == pytest.approx(3.5)
    assert figures["first_token.added"].holds
    assert figures["first_token.added_under_load"].value == pytest.approx(15)
    assert figures["bare.rate"].value == 750


def test_deltas_of_one_token_miss_the_goal() -> None:
    taken = {side: [streams(100, 5, 1)] for side in ("stream", "unary", "bare")}
    figures = by_name(generation.figures_of(taken, {side: [streams(1, 5, 1)] for side in ("stream", "bare")}))
    assert figures["stream.delta_tokens.p50"].holds is False


def test_reward_compares_rates_and_idle_latencies() -> None:
    taken = {"server": [88.0, 44.0, 60.0], "direct": [100.0, 50.0, 50.0]}
    idle = {"server": [0.020, 0.030], "direct": [0.012, 0.016]}
    figures = by_name(reward.figures_of(taken, idle))
    assert figures["score.rate_over_direct"].value == pytest.approx(0.88)
    assert figures["score.rate_over_direct"].holds is False
    assert figures["score.rate_over_direct.high"].value == pytest.approx(1.2)
    assert figures["idle.p50_added"].value == pytest.approx(11.0)
    assert figures["idle.p50_added"].holds is False


def test_feedback_compares_medians_of_the_filled_database() -> None:
    empty = [Taken(1.0, [0.010] * 9, [0.020] * 9), Taken(1.0, [0.020] * 9, [0.040] * 9)]
    filled = [Taken(1.0, [0.011] * 9, [0.026] * 9), Taken(1.0, [0.022] * 9, [0.052] * 9)]
    figures = by_name(feedback.figures_of("sqlite", feedback.Measured(empty, filled, [90.0, 30.0])))
    assert figures["sqlite.submissions"].value == 9
    assert figures["sqlite.lease.p50.filled_over_empty"].value == pytest.approx(1.1)
    assert figures["sqlite.lease.p50.filled_over_empty"].holds
    assert figures["sqlite.submit.p50.filled_over_empty"].value == pytest.approx(1.3)
    assert figures["sqlite.submit.p50.filled_over_empty"].holds is False
    assert figures["sqlite.submit.p99"].value == pytest.approx(40)
    assert figures["label_studio.annotations"].value == pytest.approx(60)
    assert figures["sqlite.submissions_over_label_studio"].value == pytest.approx(0.2)
    assert figures["sqlite.submissions_over_label_studio"].holds is False


@pytest.mark.parametrize("at_once", [True, False])
def test_a_load_counts_tokens_deltas_and_first_tokens(at_once: bool) -> None:
    running, most = 0, 0

    async def write(prompt: list[int], load: StreamLoad) -> AsyncIterator[int]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        assert len(prompt) == load.prompt_tokens
        yield 0  # the server's first message carries the prompt alone
        await asyncio.sleep(0.01)
        for count in (1, load.interval, load.tokens - load.interval - 1):
            yield count
        running -= 1

    taken = asyncio.run(measure(write, StreamLoad(4, 20, 7, 16, at_once, seed=3)))
    assert taken.tokens == 80
    assert sorted(taken.deltas) == [1] * 4 + [3] * 4 + [16] * 4
    assert len(taken.first_s) == 4
    assert min(taken.first_s) >= 0.01
    assert most == (4 if at_once else 1)


def test_transports_are_compared_round_by_round_and_the_stall_less_its_copy() -> None:
    rounds = {"shm": 2.0, "memcpy": 3.0, "grpc": 2.0, "tcp": 1.0, "bare_tcp": 0.5, "store": 1.0}
    taken = {name: [seconds, 3 * seconds, seconds] for name, seconds in rounds.items()}
    figures = by_name([*weights._transport_figures(taken, 10**9), *weights._stall_figures(Stall(1, 0.2, 0.06, 0.4, 7))])
    assert figures["shm_over_memcpy"].value == pytest.approx(1.5)
    assert figures["grpc_over_tcp"].value == pytest.approx(0.5)
    assert figures["grpc_over_bare_tcp"].value == pytest.approx(0.25)
    assert figures["grpc_over_bare_tcp"].goal is None
    assert figures["stall_beyond_copy"].value == pytest.approx(140)
    assert figures["stall_beyond_copy"].holds


def test_the_plain_tcp_chain_carries_and_verifies_every_byte() -> None:
    data = memoryview(bytes(range(256)) * 20_000)
    buffer = bytearray(len(data))
    with weights_chain.tcp_sender(data) as port:
        weights_chain.tcp_verified(port, buffer, weights_chain.digest_of(data))
        assert buffer == data
        with pytest.raises(ConnectionError, match="other bytes"):
            weights_chain.tcp_verified(port, buffer, weights_chain.digest_of(data[1:]))
