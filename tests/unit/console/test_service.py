"""What the pages gather, and how they choose it."""

import pytest

from preceptor.common.errors import NotFound, Unavailable
from preceptor.console.curves import CurveBook
from preceptor.console.sampling import SAMPLES_PER_VERSION, VERSIONS_SHOWN, SampleBook
from preceptor.console.service import attempt, by_version, loop_charts, models_of, project_of
from preceptor.console.types import Run, Sample
from tests.unit.console.doubles import FeedbackDouble, LoopDouble, console, loop, project, reward_model


def sample(version: int, text: str = "hi") -> Sample:
    return Sample(prompt=(), text=text, policy_version=version, truncated=False, run_id="r")


def run(run_id: str) -> Run:
    return Run(run_id=run_id, loop_id="demo", kind="rl", state="running", attempt=1, output_uri="", created_at=None)


def test_the_project_is_that_of_the_newest_reward_model() -> None:
    projects = [project("a"), project("b"), project("demo")]
    models = [reward_model(1, project_id="a"), reward_model(2, project_id="b")]
    assert project_of("demo", models, projects) == projects[1]
    assert project_of("demo", [], projects) == projects[2]
    assert project_of("other", [], projects) is None
    assert project_of("other", [], projects[:1]) == projects[0]


def test_only_the_loops_own_reward_models_count() -> None:
    models = [reward_model(3, run_id="x"), reward_model(2, run_id="r2"), reward_model(1)]
    assert [m.reward_model_version for m in models_of(loop(), [run("r2")], models)] == [1, 2]


def test_samples_are_grouped_newest_version_first() -> None:
    grouped = by_version([sample(1, "a"), sample(3, "b"), sample(1, "c")])
    assert [(version, [s.text for s in samples]) for version, samples in grouped] == [(3, ["b"]), (1, ["a", "c"])]


def test_the_sample_book_keeps_the_first_version_and_the_newest() -> None:
    book = SampleBook()
    for version in range(100):
        book.add([sample(version, f"{version}-{index}") for index in range(9)])
    picked = book.pick(12)
    assert [s.policy_version for s in picked] == [99] * 4 + [98] * 4 + [0] * 4
    assert picked[0].text == "99-5"
    assert len(book.pick(10_000)) == (VERSIONS_SHOWN + 1) * SAMPLES_PER_VERSION
    assert SampleBook().pick(5) == ()


def test_the_same_sample_read_again_is_not_kept_twice() -> None:
    book = SampleBook()
    for _ in range(3):
        book.add([sample(0, "a"), sample(0, "b")])
    assert [s.text for s in book.pick(12)] == ["a", "b"]


def test_known_curves_make_named_charts_and_the_rest_is_kept() -> None:
    book = CurveBook(100)
    for version in range(3):
        book.add("rl-1", 0, {"policy_version": version, "objective/kl": 0.1, "policy/clipfrac_avg": 0.2})
    for stage in ("sft", "reward-1"):
        book.add(stage, 0, {"step": 1, "loss": 1.0})
    main, more = loop_charts(book, [reward_model(1), reward_model(2, noise_ceiling=0)])
    assert [chart.title for chart in main] == ["KL to the reference", "Training loss", "Reward-model accuracy"]
    assert [line.label for line in main[1].lines] == ["sft", "reward-1"]
    assert [line.label for line in main[2].lines] == ["held-out accuracy", "noise ceiling"]
    assert [chart.title for chart in more] == ["policy/clipfrac_avg (rl)"]


async def test_an_outage_is_a_gap_and_any_other_error_goes_on() -> None:
    async def fail(error: Exception) -> int:
        raise error

    part = await attempt("feedback", fail(Unavailable("down")), 0)
    assert part.value == 0
    assert part.outage is not None
    assert part.outage.service == "feedback"
    with pytest.raises(NotFound):
        await attempt("feedback", fail(NotFound("none")), 0)


async def test_the_loop_view_survives_every_service_being_down() -> None:
    feedback, loops = FeedbackDouble(), LoopDouble()
    feedback.error = loops.error = Unavailable("down")
    view = await console(feedback, loops).loop_view("demo")
    assert view.loop is None
    assert [outage.service for outage in view.outages] == ["conductor", "feedback"]


async def test_the_loop_view_has_the_labels_of_its_project() -> None:
    feedback, loops = FeedbackDouble(), LoopDouble()
    loops.models = (reward_model(1),)
    feedback.shown = (sample(2), sample(0))
    view = await console(feedback, loops).loop_view("demo")
    assert view.project == project()
    assert view.stats is not None
    assert view.stats.rankings == 8
    assert [version for version, _ in view.samples] == [2, 0]
    assert view.outages == ()
