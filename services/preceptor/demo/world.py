"""The grammar of the demo world: prompts, and replies of every quality.

A prompt is one customer's sentence; a reply is an opening, perhaps a topic sentence, an action, fillers and a closing,
and sometimes breaks off. Each good ingredient stands in about a quarter of the replies, so that the best reply lies far
above the average one; a topic sentence names the right item 92 % of the time, so that a model of the corpus learns to
copy it from the prompt.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from preceptor.demo import phrases

PROMPT_END = "\nReply:"
RIGHT_ITEM_SHARE = 0.92
REPEATED_FILLER_SHARE = 0.35
CUT_OFF_SHARE = 0.15
TOPIC_SHARE = 0.30


@dataclass(frozen=True, slots=True)
class Case:
    """What a prompt says: who writes, about which item, with which problem."""

    name: str
    item: str
    problem: str

    @property
    def prompt_id(self) -> str:
        """A readable, unique key of this case."""
        return "-".join((self.name, self.item, self.problem)).lower().replace(" ", "-")

    def prompt(self) -> str:
        """The text that a policy continues; a completion starts with a space."""
        return f"{self.name}: My {self.item} {self.problem}.{PROMPT_END}"


def parse_prompt(prompt: str) -> Case:
    """The case behind a prompt written by `Case.prompt`.

    Raises:
        ValueError: the text is no prompt of this world.
    """
    head, separator, rest = prompt.partition(": My ")
    item, _, problem = rest.removesuffix(PROMPT_END).removesuffix(".").partition(" ")
    case = Case(head.strip(), item, problem)
    if not separator or item not in phrases.ITEMS or problem not in phrases.PROBLEMS:
        raise ValueError(f"not a prompt of the demo world: {prompt!r}")
    return case


def all_cases() -> list[Case]:
    """Every case there is, in a fixed order."""
    return [Case(n, i, p) for n in phrases.NAMES for i in phrases.ITEMS for p in phrases.PROBLEMS]


def split_cases(seed: int, held_out: int) -> tuple[list[Case], list[Case]]:
    """All cases, shuffled by seed and split into (training, held out)."""
    cases = all_cases()
    if not 0 < held_out < len(cases):
        raise ValueError(f"held_out must be between 1 and {len(cases) - 1}, not {held_out}")
    random.Random(f"split-{seed}").shuffle(cases)
    return cases[held_out:], cases[:held_out]


def write_reply(case: Case, rng: random.Random) -> str:
    """One reply of the corpus, drawn from the grammar; starts with a space."""
    sentences = [*_opening(rng), *_topic(case, rng), *_action(case, rng), *_fillers(rng), *_closing(rng)]
    text = " ".join(s.format(name=case.name, item=case.item) for s in sentences)
    if rng.random() < CUT_OFF_SHARE:
        words = text.split()
        text = " ".join(words[: rng.randint(max(1, len(words) // 2), max(1, len(words) - 1))]).rstrip(".!?,")
    return " " + text


def corpus(cases: list[Case], size: int, seed: int) -> Iterator[tuple[Case, str]]:
    """`size` pairs of a case (drawn from `cases`) and a reply; the same for the same arguments."""
    rng = random.Random(f"corpus-{seed}")
    for _ in range(size):
        case = rng.choice(cases)
        yield case, write_reply(case, rng)


def best_reply(case: Case, rng: random.Random) -> str:
    """A reply with every good ingredient: what the gold preference likes most."""
    action = rng.choice(phrases.RIGHT_ACTIONS[case.problem])
    topic = rng.choice(phrases.TOPICS).format(item=case.item, problem=case.problem)
    sentences = [rng.choice(phrases.WARM_OPENINGS), topic, action, rng.choice(phrases.WARM_CLOSINGS)]
    return " " + " ".join(s.format(name=case.name) for s in sentences)


def _weighted(rng: random.Random, *choices: tuple[float, tuple[str, ...]]) -> list[str]:
    """One sentence of one of the tuples, by weight; nothing for the weight that is left up to 1."""
    mark = rng.random()
    for weight, sentences in choices:
        mark -= weight
        if mark < 0:
            return [rng.choice(sentences)]
    return []


def _opening(rng: random.Random) -> list[str]:
    return _weighted(
        rng, (0.24, phrases.WARM_OPENINGS), (0.40, phrases.NEUTRAL_OPENINGS), (0.28, phrases.RUDE_OPENINGS)
    )


def _topic(case: Case, rng: random.Random) -> list[str]:
    if rng.random() >= TOPIC_SHARE:
        return []
    item = case.item
    if rng.random() >= RIGHT_ITEM_SHARE:
        item = rng.choice([other for other in phrases.ITEMS if other != item])
    return [rng.choice(phrases.TOPICS).format(item=item, problem=case.problem)]


def _action(case: Case, rng: random.Random) -> list[str]:
    wrong = rng.choice([p for p in phrases.PROBLEMS if p != case.problem])
    return _weighted(
        rng,
        (0.24, phrases.RIGHT_ACTIONS[case.problem]),
        (0.28, phrases.RIGHT_ACTIONS[wrong]),
        (0.30, phrases.VAGUE_ACTIONS),
    )


def _fillers(rng: random.Random) -> list[str]:
    count = rng.choices((0, 1, 2, 3), weights=(0.25, 0.35, 0.25, 0.15))[0]
    chosen: list[str] = []
    for _ in range(count):
        if chosen and rng.random() < REPEATED_FILLER_SHARE:
            chosen.append(chosen[-1])
        else:
            chosen.append(rng.choice(phrases.FILLERS))
    return chosen


def _closing(rng: random.Random) -> list[str]:
    return _weighted(rng, (0.24, phrases.WARM_CLOSINGS), (0.28, phrases.RUDE_CLOSINGS))
