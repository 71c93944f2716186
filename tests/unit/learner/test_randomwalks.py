"""The random-walks benchmark: its graph, its reward, its configs."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from preceptor.learner.data.prompts import load_prompts
from preceptor.learner.data.supervised import load_supervised
from preceptor.learner.models.loading import load_tokenizer
from preceptor.learner.run_configs import SftConfig
from preceptor.learner.run_configs.rl import RlConfig
from tests.benchmarks.randomwalks import generate
from tests.benchmarks.randomwalks.reward import (
    GOAL,
    MAX_LENGTH,
    graph,
    letter,
    optimality,
    path_optimality,
    shortest_lengths,
    starts,
)

FOLDER = Path(generate.__file__).parent


def shortest_path(start: int) -> str:
    """A shortest path by steepest descent."""
    path = [start]
    while path[-1] != GOAL:
        path.append(min(np.flatnonzero(graph()[path[-1]]).tolist(), key=lambda n: shortest_lengths().get(n, 99)))
    return "".join(map(letter, path))


def test_a_shortest_path_is_worth_one_from_every_start():
    for start in starts():
        path = shortest_path(ord(start) - ord("a"))
        assert len(path) == shortest_lengths()[ord(start) - ord("a")]
        assert path_optimality(path) == 1.0


def test_a_detour_is_worth_less_and_a_broken_path_nothing():
    # one step further for every cycle that the walk takes before it arrives
    walks = [walk for walk in generate.random_walks() if walk[0] in starts() and walk.endswith("a")]
    values = [path_optimality(walk) for walk in walks]
    assert sum(0 < value < 1 for value in values) > 0
    for walk, value in zip(walks, values, strict=True):
        best = shortest_lengths()[ord(walk[0]) - ord("a")]
        assert value == pytest.approx((MAX_LENGTH - len(walk)) / (MAX_LENGTH - best))
    good = shortest_path(ord(starts()[-1]) - ord("a"))
    jump = next(letter(n) for n in range(1, 21) if not graph()[ord(good[0]) - ord("a"), n])
    assert path_optimality(good[0] + jump + "a") == 0.0
    assert path_optimality(good[:-1]) == 0.0
    assert path_optimality("") == 0.0
    assert path_optimality(good[0] + "?!") == 0.0


def test_what_follows_the_goal_does_not_matter():
    good = shortest_path(ord(starts()[0]) - ord("a"))
    assert path_optimality(good + "zzz") == path_optimality(good) == 1.0


def test_the_reward_function_has_the_services_signature():
    good = shortest_path(ord(starts()[0]) - ord("a"))
    rewards = optimality(
        prompts=[good[0], good[0]], completions=[good[1:], "?"], prompt_ids=["x", "x"], truncated=[False, True]
    )
    assert rewards == [1.0, 0.0]


def test_the_data_are_the_same_for_the_same_seed_and_can_be_read(tmp_path: Path):
    generate.write(tmp_path / "one")
    generate.write(tmp_path / "two")
    for name in ("sft.jsonl", "prompts.jsonl", "tokenizer/tokenizer.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    tokenizer = load_tokenizer(tmp_path / "one" / "tokenizer")
    rows = load_supervised([str(tmp_path / "one" / "sft.jsonl")], tokenizer, max_length=16).rows
    assert len(rows) == generate.WALKS
    assert all(len(row.token_ids) <= MAX_LENGTH + 1 and row.token_ids[-1] == tokenizer.eos_token_id for row in rows)
    assert [record.prompt for record in load_prompts(tmp_path / "one" / "prompts.jsonl")] == starts()


def test_random_walks_leave_headroom():
    mean = np.mean([path_optimality(walk) for walk in generate.random_walks()])
    assert 0.2 < mean < 0.5


def test_the_shipped_configs_load():
    sft = SftConfig.model_validate(yaml.safe_load((FOLDER / "sft.yaml").read_text()))
    rl = RlConfig.model_validate(yaml.safe_load((FOLDER / "rl.yaml").read_text()))
    assert sft.model.init is not None
    assert rl.ppo.batch_size == rl.batch_size == 128
    assert rl.ppo.critic == "policy"
