"""The demo's grammar: reproducible, with room to improve, and copied from the prompt."""

import random
import statistics

import pytest

from preceptor.demo import gold, world


def test_the_same_seed_writes_the_same_corpus_and_another_seed_another() -> None:
    cases = world.all_cases()
    first = list(world.corpus(cases, 200, seed=3))
    assert first == list(world.corpus(cases, 200, seed=3))
    assert first != list(world.corpus(cases, 200, seed=4))


def test_held_out_cases_are_never_trained_on() -> None:
    train, held_out = world.split_cases(seed=1, held_out=128)
    assert len(held_out) == 128
    assert not set(train) & set(held_out)
    assert set(train) | set(held_out) == set(world.all_cases())
    assert world.split_cases(seed=1, held_out=128) == (train, held_out)


@pytest.mark.parametrize("held_out", [0, 1200, -1])
def test_a_split_without_either_part_is_refused(held_out: int) -> None:
    with pytest.raises(ValueError, match="held_out must be between 1 and 1199"):
        world.split_cases(seed=0, held_out=held_out)


def test_every_prompt_reads_back_as_its_case() -> None:
    for case in world.all_cases():
        assert world.parse_prompt(case.prompt()) == case


@pytest.mark.parametrize("text", ["", "Hello", "Anna: My boat leaks.\nReply:", "Anna: My kettle sings.\nReply:"])
def test_another_text_is_no_prompt(text: str) -> None:
    with pytest.raises(ValueError, match="not a prompt of the demo world"):
        world.parse_prompt(text)


def test_prompt_ids_are_unique() -> None:
    cases = world.all_cases()
    assert len({case.prompt_id for case in cases}) == len(cases)


def scores(seed: int) -> list[float]:
    cases, _ = world.split_cases(seed, 128)
    return [gold.explain(case, reply).total for case, reply in world.corpus(cases, 6000, seed)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_best_reply_lies_three_sd_above_the_corpus(seed: int) -> None:
    found = scores(seed)
    headroom = (gold.BEST_SCORE - statistics.fmean(found)) / statistics.pstdev(found)
    assert headroom > 3.0


def test_the_raters_unit_is_the_corpus_sd() -> None:
    assert statistics.pstdev(scores(0)) == pytest.approx(gold.REFERENCE_SD, rel=0.05)


def test_each_good_ingredient_stands_in_about_a_quarter_of_the_corpus() -> None:
    cases, _ = world.split_cases(0, 128)
    rows = list(world.corpus(cases, 6000, 0))
    for ingredient in ("opening_warm", "topic_right", "action_right", "closing_warm"):
        share = sum(ingredient in gold.explain(case, reply).parts for case, reply in rows) / len(rows)
        assert 0.15 < share < 0.30, ingredient


def test_topic_sentences_name_the_right_item_nine_times_in_ten() -> None:
    cases, _ = world.split_cases(0, 128)
    parts = [gold.explain(case, reply).parts for case, reply in world.corpus(cases, 6000, 0)]
    right = sum("topic_right" in p for p in parts)
    wrong = sum("topic_wrong" in p for p in parts)
    assert right / (right + wrong) == pytest.approx(world.RIGHT_ITEM_SHARE, abs=0.02)


def test_the_best_reply_reaches_the_best_score_or_loses_only_to_length() -> None:
    rng = random.Random(0)
    for case in world.all_cases()[::7]:
        explained = gold.explain(case, world.best_reply(case, rng))
        assert explained.total - explained.parts["length"] == pytest.approx(gold.BEST_SCORE)
