"""The ranking rules of the page's script, run in the browser that will run them."""

import itertools
import random

import pytest
from playwright.sync_api import Browser, Page

from tests.integration.console.stack import Stack

IDS = ["a", "b", "c", "d"]


@pytest.fixture
def rules(browser: Browser, stack: Stack) -> Page:
    page = browser.new_page(base_url=stack.url)
    page.goto("/")
    page.evaluate("async () => { window.rules = await import('/static/js/ranking.js'); }")
    return page


def call(page: Page, name: str, *arguments: object) -> object:
    return page.evaluate("([name, given]) => window.rules[name](...given)", [name, list(arguments)])


def test_pressing_numbers_in_order_ranks_and_places_the_last_by_itself(rules: Page) -> None:
    groups: object = []
    for name in "bda":
        groups = call(rules, "toggle", groups, name, IDS)
    assert groups == [["b"], ["d"], ["a"], ["c"]]
    assert call(rules, "toggle", groups, "d", IDS) == [["b"], ["a"], ["c"]]


def test_a_tie_joins_the_group_above_and_splits_again(rules: Page) -> None:
    assert call(rules, "toggleTie", [], "a", IDS) == [["a"]]
    assert call(rules, "toggleTie", [["a"]], "b", IDS) == [["a", "b"]]
    assert call(rules, "toggleTie", [["a"], ["b"]], "b", IDS) == [["a", "b"]]
    assert call(rules, "toggleTie", [["a", "b"], ["c"]], "a", IDS) == [["b"], ["a"], ["c"]]
    assert call(rules, "toggleTie", [["a"], ["b"]], "a", IDS) == [["a"], ["b"]]
    assert call(rules, "toggleTie", [["a"], ["b"]], "c", IDS) == [["a"], ["b", "c"], ["d"]]


def test_moving_steps_out_of_ties_and_past_groups(rules: Page) -> None:
    assert call(rules, "move", [["a", "b"], ["c"]], "b", -1) == [["b"], ["a"], ["c"]]
    assert call(rules, "move", [["a", "b"], ["c"]], "a", 1) == [["b"], ["a"], ["c"]]
    assert call(rules, "move", [["a", "b"], ["c"]], "c", -1) == [["c"], ["a", "b"]]
    assert call(rules, "move", [["a"], ["b"]], "a", -1) == [["a"], ["b"]]
    assert call(rules, "move", [["a"]], "x", 1) == [["a"]]


def test_inserting_and_joining_take_the_place_as_it_is_seen(rules: Page) -> None:
    assert call(rules, "insert", [["a"], ["b"], ["c"]], "a", 2) == [["b"], ["a"], ["c"]]
    assert call(rules, "insert", [["a"], ["b"]], "c", 0) == [["c"], ["a"], ["b"]]
    assert call(rules, "insert", [["a"], ["b"]], "a", 2) == [["b"], ["a"]]
    assert call(rules, "join", [["a"], ["b"], ["c"]], "a", 2) == [["b"], ["c", "a"]]
    assert call(rules, "join", [["a", "b"]], "a", 0) == [["a", "b"]]


def test_all_bad_completes_a_ranking_and_nothing_else_does(rules: Page) -> None:
    assert call(rules, "complete", [["b"]], IDS, False) is None
    assert call(rules, "complete", [["b"]], IDS, True) == [["b"], ["a", "c", "d"]]
    assert call(rules, "complete", [IDS], IDS, False) == [IDS]


def test_places_count_ties(rules: Page) -> None:
    groups = [["a", "b"], ["c"], ["d"]]
    assert [call(rules, "placeOf", groups, name) for name in IDS] == ["1st, tied", "1st, tied", "3rd", "4th"]
    assert [call(rules, "ordinal", n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 22, 103, 111)] == [
        "1st",
        "2nd",
        "3rd",
        "4th",
        "11th",
        "12th",
        "13th",
        "21st",
        "22nd",
        "103rd",
        "111th",
    ]


@pytest.mark.parametrize("seed", range(3))
def test_no_sequence_of_moves_loses_or_doubles_a_candidate(rules: Page, seed: int) -> None:
    draw = random.Random(seed)
    steps = [
        [draw.choice(["toggle", "toggleTie", "up", "down", "insert", "join"]), draw.choice(IDS), draw.random()]
        for _ in range(400)
    ]
    states = rules.evaluate(
        """([ids, steps]) => {
          const r = window.rules;
          let groups = [];
          return steps.map(([what, id, share]) => {
            const at = Math.floor(share * (groups.length + 1));
            if (what === "toggle") groups = r.toggle(groups, id, ids);
            else if (what === "toggleTie") groups = r.toggleTie(groups, id, ids);
            else if (what === "insert") groups = r.insert(groups, id, at);
            else if (what === "join") groups = at < groups.length ? r.join(groups, id, at) : groups;
            else groups = r.move(groups, id, what === "up" ? -1 : 1);
            return groups;
          });
        }""",
        [IDS, steps],
    )
    for groups in states:
        flat = list(itertools.chain.from_iterable(groups))
        assert len(flat) == len(set(flat))
        assert set(flat) <= set(IDS)
        assert all(groups)
