from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from preceptor.feedback.minting import LiveGroup, MintingRules, Refusal, mint
from preceptor.feedback.types import Candidate, Comparison, Prompt, Turn


def group(*texts: str, **fields: object) -> LiveGroup:
    completions = tuple(Candidate("", text, policy_version=i, rollout_id=f"r/0/1/{i}") for i, text in enumerate(texts))
    base = LiveGroup("toy", "r", "r/0", "p0", Prompt("Hi"), completions, control=False)
    return replace(base, **fields)  # type: ignore[arg-type]


def minted(live: LiveGroup, rules: MintingRules = MintingRules()) -> Comparison:  # noqa: B008  frozen
    comparison = mint(live, rules)
    assert isinstance(comparison, Comparison)
    return comparison


def test_provenance_goes_along() -> None:
    comparison = minted(group("a", "b", control=True))
    assert (comparison.project_id, comparison.run_id, comparison.group_id) == ("toy", "r", "r/0")
    assert (comparison.prompt_id, comparison.prompt, comparison.control) == ("p0", Prompt("Hi"), True)
    assert [(c.text, c.policy_version, c.rollout_id) for c in comparison.candidates] == [
        ("a", 0, "r/0/1/0"),
        ("b", 1, "r/0/1/1"),
    ]


def test_identical_texts_are_shown_once_the_first_of_them() -> None:
    comparison = minted(group("a", "b", "a", "b", "c"))
    assert [(c.text, c.policy_version) for c in comparison.candidates] == [("a", 0), ("b", 1), ("c", 4)]


def test_what_cannot_be_ranked_is_refused() -> None:
    assert mint(group("a", "a", "a"), MintingRules()) is Refusal.TOO_FEW_DISTINCT
    assert mint(group("a"), MintingRules()) is Refusal.TOO_FEW_DISTINCT
    assert mint(group(), MintingRules()) is Refusal.NO_COMPLETIONS
    assert mint(group("a", "b", prompt=Prompt()), MintingRules()) is Refusal.UNREADABLE_PROMPT
    assert isinstance(mint(group("a", "b", prompt=Prompt(turns=(Turn("user", "x"),))), MintingRules()), Comparison)


@given(st.lists(st.text(max_size=3), min_size=2, max_size=30), st.integers(2, 9))
def test_at_most_k_distinct_candidates_and_always_the_same(texts: list[str], k: int) -> None:
    live = group(*texts)
    first = mint(live, MintingRules(max_candidates=k))
    assert first == mint(live, MintingRules(max_candidates=k))
    if isinstance(first, Comparison):
        shown = [candidate.text for candidate in first.candidates]
        assert len(shown) == len(set(shown)) == min(k, len(set(texts)))
        assert set(shown) <= set(texts)
    else:
        assert len(set(texts)) < 2


def test_the_draw_among_many_favours_no_place() -> None:
    counts = [0] * 12
    for i in range(2000):
        live = replace(group(*"abcdefghijkl"), group_id=f"r/{i}")
        for candidate in minted(live, MintingRules(max_candidates=3)).candidates:
            counts["abcdefghijkl".index(candidate.text)] += 1
    assert all(400 < count < 600 for count in counts), counts  # 500 expected, 5 sd = 97


def test_ids_depend_on_project_and_group_alone() -> None:
    one = minted(group("a", "b")).comparison_id
    assert minted(group("c", "d")).comparison_id == one
    assert minted(group("a", "b", group_id="r/1")).comparison_id != one
    assert minted(group("a", "b", project_id="other")).comparison_id != one


def test_about_the_configured_share_is_ranked_by_several() -> None:
    rules = MintingRules(overlap_share=0.2, overlap_raters=3)
    overlaps = [minted(replace(group("a", "b"), group_id=f"r/{i}"), rules).overlap for i in range(2000)]
    assert set(overlaps) == {0, 3}
    assert 310 < overlaps.count(3) < 490  # 400 expected, 5 sd = 89
    assert minted(group("a", "b"), MintingRules(overlap_share=0)).overlap == 0
    assert minted(group("a", "b"), MintingRules(overlap_share=1)).overlap == 3
