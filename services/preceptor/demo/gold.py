"""The hidden gold preference of the demo world. Raters and the report know it; no model, service or training run does.

The score of a reply is the sum of

| ingredient | worth |
| --- | --- |
| opening: warm / rude | +1.0 / -1.0 |
| closing: warm / rude | +0.7 / -0.7 |
| topic sentence with the right item / a wrong one | +1.0 / -0.8 |
| action: right for the problem / of another problem / vague | +1.5 / -0.7 / -0.5 |
| each filler sentence | -0.3 |
| each sentence said before | -0.6 |
| each sentence that is none of these | -0.5 |
| words under 14 or over 32 | -0.25 each, at most -2.0 |
| ends with a full sentence / breaks off | +0.5 / -1.0 |

Only the first opening, topic, action and closing count; saying one again in other words counts as a filler. Another
customer's name in a sentence, or another item outside a topic sentence, makes it a stranger ("none of these").
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from preceptor.demo import phrases
from preceptor.demo.world import Case, parse_prompt

WORTH: Mapping[str, float] = MappingProxyType(
    {
        "opening_warm": 1.0,
        "opening_neutral": 0.0,
        "opening_rude": -1.0,
        "closing_warm": 0.7,
        "closing_rude": -0.7,
        "topic_right": 1.0,
        "topic_wrong": -0.8,
        "action_right": 1.5,
        "action_wrong": -0.7,
        "action_vague": -0.5,
        "filler": -0.3,
        "repeated": -0.6,
        "stranger": -0.5,
    }
)
FEWEST_WORDS, MOST_WORDS = 14, 32
WORD_PENALTY, LENGTH_PENALTY_LIMIT = 0.25, 2.0
CLEAN_END, BROKEN_END = 0.5, -1.0
BEST_SCORE = 1.0 + 0.7 + 1.0 + 1.5 + CLEAN_END
# The standard deviation of gold over the corpus, the unit of the raters' noise; a test compares it with the corpus.
REFERENCE_SD = 1.53

_SENTENCE = re.compile(r"[^.!?]+[.!?]?")


@dataclass(frozen=True, slots=True)
class GoldScore:
    """A reply's gold score and what it is made of."""

    total: float
    parts: Mapping[str, float]


def gold_score(prompt: str, completion: str) -> float:
    """The hidden worth of a completion of a demo prompt.

    Raises:
        ValueError: the prompt is none of this world's.
    """
    return explain(parse_prompt(prompt), completion).total


def explain(case: Case, completion: str) -> GoldScore:
    """The score of a completion, ingredient by ingredient."""
    text = completion.strip()
    parts: dict[str, float] = {}
    sentences = [s.strip() for s in _SENTENCE.findall(text) if s.strip()]
    ended = bool(text) and text[-1] in ".!?"
    for name in _labels(case, sentences if ended else sentences[:-1]):
        parts[name] = parts.get(name, 0.0) + WORTH[name]
    parts["length"] = _length_penalty(len(text.split()))
    parts["end"] = CLEAN_END if ended else BROKEN_END
    return GoldScore(sum(parts.values()), MappingProxyType(parts))


def _labels(case: Case, sentences: Iterable[str]) -> list[str]:
    labels: list[str] = []
    seen: set[str] = set()
    kinds: set[str] = set()
    for sentence in sentences:
        if sentence in seen:
            labels.append("repeated")
            continue
        seen.add(sentence)
        label = _catalogue(case.name, case.item).get(sentence) or _case_label(case, sentence)
        kind = label.partition("_")[0]
        if kind in kinds and kind in ("opening", "topic", "action", "closing"):
            label = "filler"
        kinds.add(kind)
        labels.append(label)
    return labels


@lru_cache(maxsize=1024)
def _catalogue(name: str, item: str) -> dict[str, str]:
    """Sentence -> label, for the sentences that must name this customer and item if they name any."""
    by_label = {
        "opening_warm": phrases.WARM_OPENINGS,
        "opening_neutral": phrases.NEUTRAL_OPENINGS,
        "opening_rude": phrases.RUDE_OPENINGS,
        "closing_warm": phrases.WARM_CLOSINGS,
        "closing_rude": phrases.RUDE_CLOSINGS,
        "action_vague": phrases.VAGUE_ACTIONS,
        "filler": phrases.FILLERS,
    }
    return {text.format(name=name, item=item): label for label, texts in by_label.items() for text in texts}


@lru_cache(maxsize=1)
def _actions() -> dict[str, str]:
    return {text: problem for problem, texts in phrases.RIGHT_ACTIONS.items() for text in texts}


@lru_cache(maxsize=1)
def _topics() -> dict[str, tuple[str, str]]:
    return {
        template.format(item=item, problem=problem): (item, problem if "{problem}" in template else "")
        for template in phrases.TOPICS
        for item in phrases.ITEMS
        for problem in phrases.PROBLEMS
    }


def _case_label(case: Case, sentence: str) -> str:
    problem = _actions().get(sentence)
    if problem is not None:
        return "action_right" if problem == case.problem else "action_wrong"
    topic = _topics().get(sentence)
    if topic is None:
        return "stranger"
    item, problem = topic
    return "topic_right" if item == case.item and problem in ("", case.problem) else "topic_wrong"


def _length_penalty(words: int) -> float:
    beyond = max(FEWEST_WORDS - words, words - MOST_WORDS, 0)
    return -min(WORD_PENALTY * beyond, LENGTH_PENALTY_LIMIT)
