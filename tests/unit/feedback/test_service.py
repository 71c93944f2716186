from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from preceptor.common.errors import AlreadyExists, FailedPrecondition, InvalidInput, NotFound, Overloaded
from preceptor.feedback.limits import Limits, TextLimits
from preceptor.feedback.types import Candidate, Comparison, ComparisonState, Project, Prompt, Retraction, Turn
from tests.unit.feedback.world import PROJECT, World, comparison, new_id


@pytest.fixture
def small(tmp_path: Path) -> Iterator[World]:
    """Limits that a test can reach."""
    limits = Limits(TextLimits(prompt=100, candidate=50, guidelines=80, comment=20, label=10), max_open_comparisons=3)
    world = World(f"sqlite:///{tmp_path / 'small.sqlite'}", limits)
    world.project()
    yield world
    world.close()


def count(world: World) -> int:
    return len(world.feedback.list_comparisons(PROJECT, None, "", 0, 1000).items)


# Projects


def test_a_project_is_made_once(world: World) -> None:
    made = world.project(title="Toy", guidelines="Be kind.", default_overlap=2, axes=("helpful",))
    assert (made.guideline_version, made.created_at) == (1, world.now)
    world.after(10)
    assert world.project(title="Toy", guidelines="Be kind.", default_overlap=2, axes=("helpful",)) == made
    assert world.feedback.get_project(PROJECT) == made


@pytest.mark.parametrize(
    "change", [{"title": "x"}, {"guidelines": "x"}, {"default_overlap": 3}, {"axes": ("a", "b")}, {"axes": ("b", "a")}]
)
def test_another_project_of_the_same_id_is_a_conflict(world: World, change: dict[str, object]) -> None:
    base = Project(PROJECT, "Toy", "Be kind.", axes=("b", "a") if change.get("axes") == ("a", "b") else ("a", "b"))
    made = world.feedback.create_project(base)
    with pytest.raises(AlreadyExists) as caught:
        world.feedback.create_project(replace(base, **change))
    assert caught.value.field == "project.project_id"
    assert world.feedback.get_project(PROJECT) == made


def test_guidelines_change_as_the_next_version(world: World) -> None:
    world.project(title="Toy", guidelines="one")
    second = world.project(title="Toy", guidelines="two", guideline_version=2)
    assert (second.guidelines, second.guideline_version) == ("two", 2)
    assert world.feedback.get_project(PROJECT) == second
    assert world.project(title="Toy", guidelines="two", guideline_version=2) == second  # repeated
    for stale in (
        {"title": "Toy", "guidelines": "three", "guideline_version": 2},
        {"title": "Toy", "guidelines": "three", "guideline_version": 4},
        {"title": "Other", "guidelines": "three", "guideline_version": 3},
    ):
        with pytest.raises(AlreadyExists, match="guideline version 2"):
            world.project(**stale)


@pytest.mark.parametrize(
    ("project", "field"),
    [
        (Project(""), "project.project_id"),
        (Project("Upper"), "project.project_id"),
        (Project("x" * 64), "project.project_id"),
        (Project("p", default_overlap=101), "project.default_overlap"),
        (Project("p", default_overlap=-1), "project.default_overlap"),
        (Project("p", axes=("ok", "Not ok")), "project.axes[1]"),
        (Project("p", axes=("ok", "ok")), "project.axes"),
        (Project("p", axes=tuple(f"a{i}" for i in range(21))), "project.axes"),
        (Project("p", title="x" * 11), "project.title"),
        (Project("p", guidelines="x" * 81), "project.guidelines"),
        (Project("p", guidelines="nul\x00"), "project.guidelines"),
        (Project("p", guideline_version=2), "project.guideline_version"),
    ],
)
def test_malformed_projects(small: World, project: Project, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        small.feedback.create_project(project)
    assert caught.value.field == field
    assert [p.project_id for p in small.feedback.list_projects("", 0).items] == [PROJECT]


def test_projects_are_listed_in_pages(world: World) -> None:
    for name in ("b", "a", "c"):
        world.project(name)
    first = world.feedback.list_projects("", 2)
    assert ([p.project_id for p in first.items], first.next_key) == (["a", "b"], "b")
    rest = world.feedback.list_projects("b", 2)
    assert ([p.project_id for p in rest.items], rest.next_key) == (["c"], None)


# Comparisons


def test_comparisons_come_back_as_they_were_sent(world: World) -> None:
    world.project(default_overlap=2)
    sent = comparison(
        "one",
        prompt=Prompt(turns=(Turn("system", "Be brief."), Turn("user", "é\x00"))),
        candidates=(Candidate("x", ""), Candidate("y", "nul \x00", policy_version=3, rollout_id="r/1", truncated=True)),
        priority=-3,
        run_id="r",
        group_id="r/1",
        prompt_id="p1",
        control=True,
        gold=True,
    )
    world.add(sent)
    stored = world.feedback.get_comparison("one")
    assert (stored.overlap, stored.state, stored.rankings) == (2, ComparisonState.OPEN, 0)
    assert stored.created_at == world.now
    assert replace(stored, overlap=0, created_at=None, digest="") == sent


def test_repeating_comparisons_changes_nothing(world: World) -> None:
    world.project()
    batch = [comparison("one"), comparison("two")]
    assert world.feedback.create_comparisons(batch).created == 2
    again = world.feedback.create_comparisons([comparison("three"), *batch, comparison("three")])
    assert (again.comparison_ids, again.created) == (("three", "one", "two", "three"), 1)


def test_an_id_with_another_content_refuses_the_whole_batch(world: World) -> None:
    world.project()
    world.add(comparison("one"))
    with pytest.raises(AlreadyExists, match="'one'") as caught:
        world.add(comparison("new"), comparison("one", k=4))
    assert caught.value.field == "comparisons[1].comparison_id"
    with pytest.raises(AlreadyExists) as caught:
        world.add(comparison("new"), comparison("new", k=4))
    assert caught.value.field == "comparisons[1].comparison_id"
    assert count(world) == 1


def test_ids_are_derived_from_content_where_none_are_given(world: World) -> None:
    world.project()
    plain = Comparison("", PROJECT, Prompt("Hi"), (Candidate("", "x"), Candidate("", "y")))
    made = world.feedback.create_comparisons([plain, replace(plain, prompt=Prompt("Ho")), plain])
    assert made.comparison_ids[0] == made.comparison_ids[2] != made.comparison_ids[1]
    assert made.created == 2
    assert world.feedback.get_comparison(made.comparison_ids[0]).candidate_ids == ("c1", "c2")


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"candidates": comparison(k=2).candidates[:1]}, "candidates", "1 candidates; 2 to 9"),
        ({"candidates": tuple(Candidate(str(i), "x") for i in range(10))}, "candidates", "10 candidates; 2 to 9"),
        ({"candidates": (Candidate("a", "x"), Candidate("a", "y"))}, "candidates[1].candidate_id", "there twice"),
        ({"candidates": (Candidate("a", "x"), Candidate("", "y"))}, "candidates[1].candidate_id", "missing"),
        ({"candidates": (Candidate("a", "x"), Candidate("b", "é" * 26))}, "candidates[1].text", "52 bytes; at most 50"),
        ({"prompt": Prompt()}, "prompt", "people cannot read token ids"),
        ({"prompt": Prompt("x" * 101)}, "prompt", "101 bytes; at most 100"),
        ({"prompt": Prompt(turns=(Turn("u", "x" * 100),))}, "prompt", "101 bytes"),
        ({"prompt": Prompt(turns=(Turn("u", ""),) * 201)}, "prompt.conversation", "201 messages"),
        ({"overlap": 101}, "overlap", "101 is outside 1..100"),
        ({"overlap": -1}, "overlap", "outside"),
        ({"priority": 1_000_001}, "priority", "outside"),
        ({"comparison_id": "a b"}, "comparison_id", "not allowed"),
        ({"comparison_id": "x" * 201}, "comparison_id", "not allowed"),
        ({"project_id": "A"}, "project_id", "not allowed"),
        ({"run_id": "x" * 11}, "run_id", "11 bytes"),
        ({"group_id": "\x00"}, "group_id", "NUL"),
        ({"repeat_of": "one"}, "repeat_of", "cannot repeat itself"),
    ],
)
def test_malformed_comparisons_are_refused_whole(
    small: World, change: dict[str, object], field: str, says: str
) -> None:
    good = comparison("good", k=2)
    bad = replace(comparison("one", k=2), **change)
    with pytest.raises(InvalidInput) as caught:
        small.add(good, bad)
    assert caught.value.field == f"comparisons[1].{field}"
    assert says in caught.value.message
    assert count(small) == 0


def test_a_batch_has_bounds(world: World) -> None:
    world.project()
    for batch in ([], [comparison(f"c{i}") for i in range(1001)]):
        with pytest.raises(InvalidInput, match="1 to 1000 are allowed"):
            world.feedback.create_comparisons(batch)


def test_references_must_exist(world: World) -> None:
    world.project()
    world.project("other")
    with pytest.raises(NotFound, match="nowhere"):
        world.add(comparison("one", project_id="nowhere"))
    with pytest.raises(NotFound) as caught:
        world.add(comparison("one", repeat_of="ghost"))
    assert caught.value.field == "comparisons[0].repeat_of"
    world.add(comparison("one"), comparison("two", repeat_of="one"))
    with pytest.raises(InvalidInput, match="another project"):
        world.add(comparison("three", project_id="other", repeat_of="one"))


def test_a_full_backlog_is_refused_with_a_hint_and_opens_again(small: World) -> None:
    small.add(comparison("1"), comparison("2"))
    with pytest.raises(Overloaded, match="3 open comparisons") as caught:
        small.add(comparison("3"), comparison("4"))
    assert caught.value.retry_after_s == 60
    small.add(comparison("3"))
    small.add(comparison("3"))  # repeating adds nothing, so it is fine
    small.submit("r1", "1")
    small.add(comparison("4"))


def test_comparisons_are_listed_by_state_and_run(world: World) -> None:
    world.project()
    world.add(comparison("one", run_id="x"), comparison("two", run_id="y"), comparison("three", run_id="x"))
    world.submit("r1", "one")

    def ids(state: ComparisonState | None, run_id: str, after: int = 0, size: int = 0) -> tuple[list[str], object]:
        page = world.feedback.list_comparisons(PROJECT, state, run_id, after, size)
        return [c.comparison_id for c in page.items], page.next_key

    assert ids(None, "") == (["one", "two", "three"], None)
    assert ids(None, "x") == (["one", "three"], None)
    assert ids(ComparisonState.OPEN, "x") == (["three"], None)
    assert ids(ComparisonState.COMPLETE, "") == (["one"], None)
    assert ids(None, "", 0, 2) == (["one", "two"], 2)
    assert ids(None, "", 2, 2) == (["three"], None)
    for size in (-1, 1001):
        with pytest.raises(InvalidInput, match=r"outside 0..1000"):
            ids(None, "", 0, size)


# What is read


def test_a_snapshot_never_changes(world: World) -> None:
    world.project()
    world.add(comparison("one", overlap=3), comparison("two"))
    empty = world.feedback.create_snapshot(PROJECT)
    assert (empty.label_high_water_mark, empty.rankings, empty.comparisons) == (0, 0, 0)
    first = world.submit("r1", "one")
    world.submit("r2", "one", order="bca")
    world.submit("r1", "two")
    before = world.feedback.create_snapshot(PROJECT)
    assert (before.label_high_water_mark, before.rankings, before.comparisons) == (3, 3, 2)
    exported = world.feedback.export_page(PROJECT, 3, 0)

    world.submit("r1", "one", order="cba", supersedes=first.event_id)
    second = world.submit("r3", "one")
    world.votes.retract(Retraction(new_id(), second.event_id, "r3"))
    now = world.feedback.create_snapshot(PROJECT)
    assert (now.label_high_water_mark, now.rankings) == (6, 3)
    assert now.label_hash != before.label_hash
    assert world.feedback.create_snapshot(PROJECT, 3) == before
    assert [i.ranking for i in world.feedback.export_page(PROJECT, 3, 0)] == [i.ranking for i in exported]
    assert [i.ranking.sequence for i in world.feedback.export_page(PROJECT, 5, 0)] == [2, 3, 4, 5]
    assert [i.ranking.sequence for i in world.feedback.export_page(PROJECT, 6, 2)] == [3, 4]


def test_equal_labels_have_equal_hashes_in_another_database(world: World, small: World) -> None:
    world.project()
    event = new_id()
    for each in (small, world):
        each.add(comparison("one"))
    small.submit("r1", "one", event_id=event)
    world.submit("r1", "one", event_id=event)
    assert world.feedback.create_snapshot(PROJECT).label_hash == small.feedback.create_snapshot(PROJECT).label_hash


def test_a_mark_beyond_the_newest_label_is_refused(world: World) -> None:
    world.project()
    with pytest.raises(FailedPrecondition, match="beyond the newest label, 0") as caught:
        world.feedback.create_snapshot(PROJECT, 1)
    assert caught.value.field == "label_high_water_mark"
    with pytest.raises(InvalidInput, match="negative"):
        world.feedback.create_snapshot(PROJECT, -1)
    with pytest.raises(InvalidInput, match="negative"):
        world.feedback.export_page(PROJECT, 0, -1)


def test_marks_of_projects_are_apart(world: World) -> None:
    world.project()
    world.project("other")
    world.add(comparison("one"), comparison("two", project_id="other"))
    world.submit("r1", "one")
    world.submit("r1", "two")
    assert world.feedback.create_snapshot(PROJECT).label_high_water_mark == 1
    assert world.feedback.create_snapshot("other").label_high_water_mark == 2


def test_stats(world: World) -> None:
    world.project()
    world.add(comparison("one"), comparison("two", overlap=2), comparison("three"), comparison("four"))
    offers = [world.must_lease("r1") for _ in range(1)]
    world.after(10)
    first = world.submit("r1", "one", lease_id=offers[0].lease.lease_id)
    world.submit("r1", "one", order="cba", supersedes=first.event_id)
    lease = world.must_lease("r2").lease
    world.after(4)
    second = world.submit("r2", lease.comparison_id, lease_id=lease.lease_id)
    world.submit("r2", "four")
    world.votes.retract(Retraction(new_id(), second.event_id, "r2"))
    world.must_lease("r3", 60)
    world.must_lease("r4", 10)
    world.after(20)
    stats = world.feedback.stats(PROJECT)
    assert (stats.comparisons_open, stats.comparisons_complete) == (2, 2)
    assert (stats.rankings, stats.leases_active, stats.label_high_water_mark) == (2, 1, 5)
    assert [(r.rater_id, r.rankings) for r in stats.raters] == [("r1", 1), ("r2", 1)]
    assert [r.median_seconds for r in stats.raters] == [10.0, 2.0]


def test_rankings_are_listed_newest_first(world: World) -> None:
    world.project()
    world.add(comparison("one", overlap=5), comparison("two"))
    first = world.submit("r1", "one")
    world.submit("r2", "one")
    world.submit("r1", "two")
    world.submit("r1", "one", order="cba", supersedes=first.event_id)

    def listed(rater: str, before: int | None = None, size: int = 0) -> tuple[list[int], object]:
        page = world.feedback.list_rankings(PROJECT, rater, before, size)
        return [ranking.sequence for ranking in page.items], page.next_key

    assert listed("") == ([4, 3, 2], None)
    assert listed("r1") == ([4, 3], None)
    assert listed("", None, 2) == ([4, 3], 3)
    assert listed("", 3, 2) == ([2], None)


@pytest.mark.parametrize("call", ["stats", "create_snapshot", "get_project"])
def test_reads_of_an_unknown_project(world: World, call: str) -> None:
    with pytest.raises(NotFound) as caught:
        getattr(world.feedback, call)("nowhere")
    assert caught.value.field == "project_id"
