import hashlib
from dataclasses import replace

import pytest

from preceptor.common.completions import Sampling
from preceptor.feedback import canonical
from preceptor.feedback.types import Candidate, Prompt, Retraction, Strength, Turn
from tests.unit.feedback.world import comparison, ranked, vote


def test_digest_is_sha256_of_sorted_compact_ascii_json() -> None:
    assert canonical.dumps({"b": "é\x00", "a": [1, True]}) == '{"a":[1,true],"b":"\\u00e9\\u0000"}'
    assert canonical.digest({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": Prompt("another")},
        {"prompt": Prompt(turns=(Turn("user", "hi"),))},
        {"candidates": comparison().candidates[::-1]},
        {"candidates": (Candidate("a", "answer a", policy_version=3), *comparison().candidates[1:])},
        {"candidates": (Candidate("a", "answer a", sampling=Sampling(8)), *comparison().candidates[1:])},
        {"run_id": "r"},
        {"group_id": "g"},
        {"prompt_id": "p"},
        {"control": True},
        {"gold": True},
        {"repeat_of": "two"},
        {"project_id": "other"},
    ],
)
def test_any_change_of_content_changes_the_comparison_digest(change: dict[str, object]) -> None:
    assert canonical.comparison_digest(replace(comparison(), **change)) != canonical.comparison_digest(comparison())


@pytest.mark.parametrize("change", [{"overlap": 3}, {"priority": 9}, {"comparison_id": "two"}, {"rankings": 4}])
def test_how_a_comparison_is_served_is_no_content(change: dict[str, object]) -> None:
    base = comparison("x", prompt=Prompt("same"))
    assert canonical.comparison_digest(replace(base, **change)) == canonical.comparison_digest(base)


@pytest.mark.parametrize(
    "change",
    [
        {"rater_id": "r2"},
        {"comparison_id": "two"},
        {"body": ranked("ab", "c")},
        {"body": ranked("a", "b", "c", all_bad=True)},
        {"body": ranked("a", "b", "c", strength=Strength.SLIGHT)},
        {"body": ranked("a", "b", "c", comment="x")},
        {"supersedes": "11111111-1111-4111-8111-111111111111"},
    ],
)
def test_any_change_of_the_vote_changes_the_submission_digest(change: dict[str, object]) -> None:
    one = vote("r1")
    assert canonical.submission_digest(replace(one, **change)) != canonical.submission_digest(one)


@pytest.mark.parametrize("change", [{"lease_id": "l"}, {"client": "rest"}, {"event_id": "x"}])
def test_how_a_vote_travelled_is_no_part_of_it(change: dict[str, object]) -> None:
    one = vote("r1")
    assert canonical.submission_digest(replace(one, **change)) == canonical.submission_digest(one)


def test_a_retraction_is_never_taken_for_a_vote() -> None:
    one = Retraction("e", "v", "r1", "why")
    assert canonical.retraction_digest(one) != canonical.submission_digest(vote("r1"))
    assert canonical.retraction_digest(replace(one, reason="")) != canonical.retraction_digest(one)


def test_label_hash_is_over_lines_in_order() -> None:
    whole, parts, other = canonical.LabelHash(), canonical.LabelHash(), canonical.LabelHash()
    whole.update(["a", "b"])
    parts.update(["a"])
    parts.update(["b"])
    other.update(["b", "a"])
    assert whole.hexdigest() == parts.hexdigest() == hashlib.sha256(b"a\nb\n").hexdigest()
    assert whole.hexdigest() != other.hexdigest()
