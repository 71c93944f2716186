import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preceptor.common.errors import InvalidInput, NotFound, Overloaded
from preceptor.reward.adapters.function_loading import load_function
from preceptor.reward.adapters.function_scorer import FunctionScorer
from preceptor.reward.types import ScoreItem

ITEMS = [ScoreItem("p", word, f"id-{i}", truncated=i == 1) for i, word in enumerate(["one", "three", "seven"])]


def scorer_of(function: Callable[..., Any], wanted: set[str] | None = None, **options: Any) -> FunctionScorer:
    defaults: dict[str, Any] = {"name": "f", "timeout_s": 5.0, "threads": 1, "max_queue_items": 100}
    return FunctionScorer(function, frozenset(wanted or {"completions"}), **(defaults | options))


async def failures(scorer: FunctionScorer) -> list[tuple[str, str] | None]:
    results = await scorer.score(ITEMS)
    return [(result.failure.reason, result.failure.message) if result.failure else None for result in results]


async def test_a_function_gets_the_lists_it_names() -> None:
    seen: dict[str, Any] = {}

    def function(**lists: Any) -> list[float]:
        seen.update(lists)
        return [1.0, 2.0, 3.0]

    scorer = scorer_of(function, {"prompts", "completions", "prompt_ids", "truncated", "messages"})
    assert [result.score for result in await scorer.score(ITEMS)] == [1.0, 2.0, 3.0]
    assert seen["prompts"] == ["p"] * 3
    assert seen["completions"] == ["one", "three", "seven"]
    assert seen["prompt_ids"] == ["id-0", "id-1", "id-2"]
    assert seen["truncated"] == [False, True, False]
    assert seen["messages"][0] == [{"role": "user", "content": "p"}]


async def test_a_conversation_reads_as_its_lines() -> None:
    item = ScoreItem(({"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}), "x")
    scorer = scorer_of(lambda prompts: [float(prompts == ["user: hi\nassistant: hello"])], {"prompts"})
    assert [result.score for result in await scorer.score([item])] == [1.0]


async def test_mappings_carry_components_and_coroutines_are_awaited() -> None:
    async def function(completions: list[str]) -> list[dict[str, float]]:
        await asyncio.sleep(0)
        return [{"score": 1, "length": len(text)} for text in completions]

    results = await scorer_of(function).score(ITEMS)
    assert [dict(result.components) for result in results] == [{"length": 3.0}, {"length": 5.0}, {"length": 5.0}]


async def test_one_item_that_raises_leaves_the_others_their_scores() -> None:
    def function(completions: list[str]) -> list[float]:
        if "three" in completions:
            raise ValueError("I do not like three")
        return [float(len(text)) for text in completions]

    assert await failures(scorer_of(function)) == [
        None,
        ("FUNCTION_RAISED", "f raised ValueError: I do not like three"),
        None,
    ]


async def test_a_function_that_exits_does_not_end_the_server() -> None:
    def function(completions: list[str]) -> list[float]:
        raise SystemExit(3)

    assert all(reason and reason[0] == "FUNCTION_RAISED" for reason in await failures(scorer_of(function)))


async def test_nan_text_and_wrong_counts_are_named() -> None:
    assert await failures(scorer_of(lambda completions: [float("nan"), "high", 1.0])) == [
        ("NAN_SCORE", "f returned nan, which is not a finite number"),
        ("FUNCTION_BAD_RESULT", "f returned 'high', which is not a number"),
        None,
    ]
    expected = ("FUNCTION_BAD_RESULT", "f returned 2 scores for 3 completions")
    assert await failures(scorer_of(lambda completions: [1.0, 2.0])) == [expected] * 3


async def test_a_call_that_does_not_return_times_out_and_the_next_one_runs() -> None:
    release = threading.Event()

    def function(completions: list[str]) -> list[float]:
        if len(completions) == 3:
            release.wait(30)
        return [1.0] * len(completions)

    scorer = scorer_of(function, timeout_s=0.1)
    assert await failures(scorer) == [("TIMEOUT", "f did not return within 0.1 s")] * 3
    assert [result.score for result in await scorer.score(ITEMS[:1])] == [1.0]
    release.set()


async def test_a_function_that_always_hangs_stops_getting_threads() -> None:
    release = threading.Event()

    def function(completions: list[str]) -> list[float]:
        release.wait(30)
        return [1.0] * len(completions)

    scorer = scorer_of(function, timeout_s=0.01)
    for _ in range(12):
        results = await scorer.score(ITEMS[:1])
        assert results[0].failure is not None
    assert "8 calls never returned" in results[0].failure.message
    assert sum(thread.name == "reward-function" for thread in threading.enumerate()) <= 8
    release.set()


async def test_more_items_than_may_wait_are_refused() -> None:
    with pytest.raises(Overloaded):
        await scorer_of(lambda completions: [0.0] * 3, max_queue_items=2).score(ITEMS)


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_a_file_and_a_module_are_found(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.py", "def score(completions, *, scale=2.0):\n    return [scale] * len(completions)\n")
    function, wanted = load_function(f"{file}:score")
    assert wanted == {"completions"}
    assert function(completions=["x"]) == [2.0]
    with pytest.raises(InvalidInput, match='wants an argument "a"'):
        load_function("operator:add")


@pytest.mark.parametrize(
    ("uri", "error", "text"),
    [
        ("no_such_module_here:f", NotFound, 'no Python module "no_such_module_here"'),
        ("json:no_such_function", NotFound, 'json has no function "no_such_function"'),
        ("/nowhere/f.py:f", NotFound, "no reward function file /nowhere/f.py"),
        ("string:digits", InvalidInput, "is a str, not a function"),
        ("just_a_name", InvalidInput, "neither package.module:function nor path/file.py:function"),
    ],
)
def test_what_cannot_be_found_is_said_in_a_sentence(uri: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        load_function(uri)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("raise RuntimeError('no licence')", "raised RuntimeError while it was imported: no licence"),
        ("def f(:", "raised SyntaxError while it was imported"),
        ("import not_installed_anywhere", "raised ModuleNotFoundError"),
        ("def f(ground_truth): ...", 'wants an argument "ground_truth"'),
    ],
)
def test_a_file_that_is_wrong_is_said_in_a_sentence(tmp_path: Path, source: str, text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        load_function(write(tmp_path / "f.py", source) + ":f")


def test_an_installed_package_offers_functions_as_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "rewards-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rewards\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[preceptor.rewards]\nbrevity = brief_rewards:brevity\nno = brief_rewards:x\n"
    )
    (tmp_path / "brief_rewards.py").write_text(
        "x = 1\ndef brevity(completions): return [-len(c) for c in completions]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    function, wanted = load_function("entrypoint:brevity")
    assert function(completions=["four"]) == [-4]
    assert wanted == {"completions"}
    with pytest.raises(NotFound, match=r"no installed package offers the reward \"longer\".*brevity"):
        load_function("entrypoint:longer")
    with pytest.raises(InvalidInput, match="is a int, not a function"):
        load_function("entrypoint:no")
