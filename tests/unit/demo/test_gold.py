"""The hidden preference, ingredient by ingredient, with values worked out by hand."""

import pytest

from preceptor.demo.gold import BEST_SCORE, explain, gold_score
from preceptor.demo.world import Case

CASE = Case("Anna", "kettle", "leaks")
PROMPT = CASE.prompt()
WARM = "Dear Anna, thank you for telling us."
TOPIC = "I see that your kettle leaks."
RIGHT = "Please replace the rubber seal."
CLOSE = "Have a lovely day, Anna!"
FILLER = "Many people buy this model."


def parts(*sentences: str) -> dict[str, float]:
    return dict(explain(CASE, " " + " ".join(sentences)).parts)


def test_a_reply_with_every_good_ingredient_has_the_best_score() -> None:
    assert gold_score(PROMPT, f" {WARM} {TOPIC} {RIGHT} {CLOSE}") == pytest.approx(BEST_SCORE) == pytest.approx(4.7)


@pytest.mark.parametrize(
    ("sentence", "label", "worth"),
    [
        (WARM, "opening_warm", 1.0),
        ("You again.", "opening_rude", -1.0),
        ("Message about a kettle received.", "opening_neutral", 0.0),
        (TOPIC, "topic_right", 1.0),
        ("I see that your lamp leaks.", "topic_wrong", -0.8),
        ("I see that your kettle arrived broken.", "topic_wrong", -0.8),
        (RIGHT, "action_right", 1.5),
        ("Please tighten the screws below.", "action_wrong", -0.7),
        ("Someone may look at it later.", "action_vague", -0.5),
        (CLOSE, "closing_warm", 0.7),
        ("Do not write again.", "closing_rude", -0.7),
        (FILLER, "filler", -0.3),
        ("Bananas are yellow.", "stranger", -0.5),
        ("Dear Ben, thank you for telling us.", "stranger", -0.5),
        ("Message about a lamp received.", "stranger", -0.5),
    ],
)
def test_each_ingredient_has_its_worth(sentence: str, label: str, worth: float) -> None:
    assert parts(sentence)[label] == pytest.approx(worth)


def test_a_sentence_said_again_costs_each_time() -> None:
    assert parts(RIGHT, RIGHT, RIGHT)["repeated"] == pytest.approx(-1.2)


def test_a_second_action_in_other_words_counts_as_a_filler() -> None:
    found = parts(RIGHT, "A fresh seal will stop the drip.")
    assert found["action_right"] == pytest.approx(1.5)
    assert found["filler"] == pytest.approx(-0.3)


@pytest.mark.parametrize(
    ("words", "penalty"), [(14, 0.0), (32, 0.0), (13, -0.25), (34, -0.5), (1, -2.0), (60, -2.0), (0, -2.0)]
)
def test_length_costs_a_quarter_per_word_outside_14_to_32(words: int, penalty: float) -> None:
    assert explain(CASE, " ".join(["word"] * words)).parts["length"] == pytest.approx(penalty)


@pytest.mark.parametrize(("text", "end"), [(RIGHT, 0.5), ("Please replace the", -1.0), ("", -1.0), ("?", 0.5)])
def test_a_reply_must_end_with_a_full_sentence(text: str, end: float) -> None:
    assert explain(CASE, text).parts["end"] == end


def test_a_sentence_that_breaks_off_earns_nothing() -> None:
    assert "action_right" not in parts(WARM, "Please replace the rubber seal")


def test_another_worlds_prompt_is_an_error() -> None:
    with pytest.raises(ValueError, match="not a prompt"):
        gold_score("What is 2 + 2?", "4")
