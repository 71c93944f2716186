import pytest
from hypothesis import given
from hypothesis import strategies as st

from preceptor.cli.stack.cores import format_cores, plan_cores


def parse(cores: str) -> list[int]:
    found = []
    for part in cores.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


@pytest.mark.parametrize(
    ("cores", "generators", "learner", "engines"),
    [
        ([0, 1], 1, "1", ["0"]),
        ([0, 1, 2, 3], 2, "2-3", ["0", "1"]),
        ([0, 1, 2, 3], 1, "2-3", ["0-1"]),
        ([4, 5, 6, 7, 8, 9, 10, 11], 2, "8-11", ["4,6", "5,7"]),
    ],
)
def test_learner_gets_half_and_generators_divide_the_rest(cores, generators, learner, engines):
    plan = plan_cores(cores, generators)
    assert plan.learner.cores == learner
    assert [share.cores for share in plan.generators] == engines


def test_one_core_is_shared_by_all():
    plan = plan_cores([3], 2)
    assert {plan.learner.cores, *(share.cores for share in plan.generators)} == {"3"}


@given(st.sets(st.integers(0, 127), min_size=2, max_size=64), st.integers(1, 8))
def test_no_generator_shares_a_core_with_the_learner(cores, generators):
    plan = plan_cores(sorted(cores), generators)
    learner = set(parse(plan.learner.cores))
    assert learner
    for share in plan.generators:
        assert not learner & set(parse(share.cores))
        assert share.threads == len(parse(share.cores)) >= 1


@given(st.sets(st.integers(0, 200), min_size=1))
def test_core_lists_read_back_as_they_were(cores):
    assert parse(format_cores(list(cores))) == sorted(cores)
