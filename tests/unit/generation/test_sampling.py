import math

import pytest

from preceptor.common.completions import Sampling
from preceptor.common.errors import FailedPrecondition, InvalidInput
from preceptor.generation import sampling
from preceptor.generation.types import Limits

LIMITS = Limits(max_model_len=64, vocab_size=100, seeds=True)


def check(asked: Sampling, *, rl: bool = False, limits: Limits = LIMITS) -> None:
    sampling.check(asked, rl=rl, limits=limits)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", -3),
        ("temperature", -0.1),
        ("temperature", 0.001),
        ("temperature", math.inf),
        ("temperature", math.nan),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("top_k", -2),
        ("top_k", 101),
        ("min_tokens", 5),
        ("min_tokens", -1),
        ("presence_penalty", 2.5),
        ("frequency_penalty", math.nan),
        ("repetition_penalty", 0.0),
        ("seed", -1),
        ("seed", 2**63),
    ],
)
def test_values_outside_their_range_name_the_field(field: str, value: float) -> None:
    with pytest.raises(InvalidInput) as error:
        check(Sampling(**{"max_tokens": 4, field: value}))
    assert error.value.field == f"sampling.{field}"


@pytest.mark.parametrize(
    "asked",
    [
        Sampling(max_tokens=1),
        Sampling(max_tokens=4, temperature=0.0, top_p=0.5, top_k=100, min_tokens=4, seed=2**63 - 1),
        Sampling(max_tokens=4, presence_penalty=-2.0, frequency_penalty=2.0, repetition_penalty=1.3, stop=("a",)),
    ],
)
def test_general_mode_takes_what_is_in_range(asked: Sampling) -> None:
    check(asked)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 0.0),
        ("top_p", 0.99),
        ("top_k", 10),
        ("min_tokens", 1),
        ("presence_penalty", 0.1),
        ("frequency_penalty", -0.1),
        ("repetition_penalty", 1.1),
    ],
)
def test_rl_mode_refuses_what_bends_the_distribution(field: str, value: float) -> None:
    with pytest.raises(InvalidInput) as error:
        check(Sampling(**{"max_tokens": 4, field: value}), rl=True)
    assert error.value.field == f"sampling.{field}"
    assert error.value.reason == "BENDS_THE_DISTRIBUTION"


def test_rl_mode_takes_neutral_values_temperature_stop_and_seed() -> None:
    neutral = Sampling(
        max_tokens=4,
        temperature=0.7,
        top_p=1.0,
        top_k=0,
        min_tokens=0,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        repetition_penalty=1.0,
        stop=("\n",),
        seed=3,
    )
    check(neutral, rl=True)


def test_a_seed_is_refused_where_the_engine_would_die_of_it() -> None:
    with pytest.raises(FailedPrecondition) as error:
        check(Sampling(max_tokens=4, seed=1), limits=Limits(64, 100, seeds=False))
    assert error.value.field == "sampling.seed"


@pytest.mark.parametrize(
    ("stop", "field"),
    [(("",), "sampling.stop[0]"), (("a", "b" * 257), "sampling.stop[1]"), (("a",) * 17, "sampling.stop")],
)
def test_stop_strings_are_bounded(stop: tuple[str, ...], field: str) -> None:
    with pytest.raises(InvalidInput) as error:
        check(Sampling(max_tokens=4, stop=stop))
    assert error.value.field == field


@pytest.mark.parametrize("n", [0, -1, sampling.MAX_N + 1])
def test_n_is_bounded(n: int) -> None:
    with pytest.raises(InvalidInput) as error:
        sampling.check_n(n)
    assert error.value.field == "n"
