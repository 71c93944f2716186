"""A person ranks in a real browser, against a real feedback service."""

import re

from playwright.sync_api import BrowserContext, Page, expect

from preceptor.api.feedback.v1 import feedback_pb2 as pb
from preceptor.common.waiting import wait_until
from tests.integration.console.stack import Stack, Visit


def task(page: Page) -> None:
    expect(page.locator("#task")).to_be_visible()


def groups(ranking: pb.Ranking) -> list[set[str]]:
    return [set(group.candidate_ids) for group in ranking.body.tie_groups]


def submit_and_wait(page: Page, stack: Stack, project_id: str, votes: int) -> pb.Ranking:
    """Presses Enter; returns the newest vote once there are `votes`."""
    page.keyboard.press("Enter")
    wait_until(lambda: len(stack.rankings(project_id)) == votes, 20, f"{votes} votes in the store")
    return stack.rankings(project_id)[0]


def test_a_person_ranks_with_the_keyboard_and_the_vote_counts_once(visit: Visit, stack: Stack) -> None:
    project_id = stack.make_project(2)
    page = visit(project_id)
    task(page)
    shown = page.locator("#candidates > li").evaluate_all("items => items.map(item => item.dataset.candidate)")
    for key in ("3", "1", "Shift+Digit2", "s", "s", "s"):
        page.keyboard.press(key)
    expect(page.locator("#candidates .place")).to_have_text(["2nd, tied", "2nd, tied", "1st", "4th"])
    ranking = submit_and_wait(page, stack, project_id, 1)
    assert groups(ranking) == [{shown[2]}, {shown[0], shown[1]}, {shown[3]}]
    assert ranking.body.strength == pb.PREFERENCE_STRENGTH_STRONG
    assert list(ranking.shown_order) == shown
    assert (ranking.rater_id, ranking.client, ranking.late) == ("amber-1", "console/1", False)
    assert 0 <= ranking.submitted_at.ToSeconds() - ranking.shown_at.ToSeconds() < 60
    expect(page.locator("#progress")).to_contain_text("1 ranked by you")
    task(page)
    assert stack.exported(project_id) == [ranking.event_id]


def test_ranking_by_dragging(visit: Visit, stack: Stack) -> None:
    project_id = stack.make_project(1)
    page = visit(project_id)
    task(page)
    drag(page, "#candidates [data-grip]", 1, "#tiers", 0.5)
    expect(page.locator(".tier")).to_have_count(1)
    drag(page, "#candidates [data-grip]", 0, ".tier:nth-child(1)", 0.05)
    drag(page, "#candidates [data-grip]", 3, ".tier:nth-child(2)", 0.5)
    drag(page, "#candidates [data-grip]", 2, ".tier:nth-child(2)", 0.97)
    chips = page.locator(".tier").evaluate_all(
        "rows => rows.map(row => [...row.querySelectorAll('.grip')].map(grip => grip.textContent))"
    )
    assert chips == [["1"], ["2", "4"], ["3"]]
    page.locator("#tiers").get_by_role("button", name="Move completion 3 up").click()
    submit_and_wait(page, stack, project_id, 1)
    shown = list(stack.rankings(project_id)[0].shown_order)
    assert groups(stack.rankings(project_id)[0]) == [{shown[0]}, {shown[2]}, {shown[1], shown[3]}]


def drag(page: Page, source: str, index: int, target: str, share: float) -> None:
    """Drags the grip onto the target, `share` of its height from its top."""
    begin, end = page.locator(source).nth(index).bounding_box(), page.locator(target).bounding_box()
    assert begin is not None
    assert end is not None
    page.mouse.move(begin["x"] + 10, begin["y"] + 10)
    page.mouse.down()
    page.mouse.move(end["x"] + 60, end["y"] + end["height"] / 2, steps=4)
    page.mouse.move(end["x"] + 60, end["y"] + end["height"] * share, steps=2)
    page.mouse.up()


def test_clicking_then_enter_submits_and_does_not_press_the_button_again(visit: Visit, stack: Stack) -> None:
    project_id = stack.make_project(1, texts=("good", "bad"))
    page = visit(project_id)
    task(page)
    page.get_by_role("button", name="Rank first: completion 2").click()
    ranking = submit_and_wait(page, stack, project_id, 1)
    shown = list(ranking.shown_order)
    assert groups(ranking) == [{shown[1]}, {shown[0]}]


def test_an_incomplete_ranking_is_not_sent_and_says_what_is_missing(visit: Visit, stack: Stack) -> None:
    project_id = stack.make_project(1)
    page = visit(project_id)
    task(page)
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    expect(page.locator("#banners")).to_contain_text("completion 1, 3 and 4 have no place")
    assert stack.rankings(project_id) == []


def test_all_bad_alone_is_an_answer(visit: Visit, stack: Stack) -> None:
    project_id = stack.make_project(1, texts=("bad", "worse"))
    page = visit(project_id)
    task(page)
    page.keyboard.press("b")
    ranking = submit_and_wait(page, stack, project_id, 1)
    assert ranking.body.all_bad
    assert len(groups(ranking)) == 1


def test_typing_every_number_in_a_row_ranks_them_all(visit: Visit, stack: Stack) -> None:
    page = visit(stack.make_project(1))
    task(page)
    for key in "2134":
        page.keyboard.press(key)
    expect(page.locator("#candidates .place")).to_have_text(["2nd", "1st", "3rd", "4th"])
    page.keyboard.press("4")
    expect(page.locator("#candidates .place")).to_have_text(["2nd", "1st", "3rd", "not ranked"])


def test_undo_takes_back_step_by_step(visit: Visit, stack: Stack) -> None:
    page = visit(stack.make_project(1))
    task(page)
    for key in ("0", "b", "Control+z", "u"):
        page.keyboard.press(key)
    expect(page.locator(".tier")).to_have_count(0)
    expect(page.get_by_label("None of them is acceptable")).not_to_be_checked()
    expect(page.locator("#undo")).to_be_disabled()


def test_a_draft_survives_a_reload(visit: Visit, stack: Stack) -> None:
    project_id = stack.make_project(3)
    page = visit(project_id)
    task(page)
    prompt = page.locator("#prompt").inner_text()
    page.keyboard.press("4")
    page.keyboard.press("2")
    page.keyboard.press("s")
    page.keyboard.press("c")
    page.keyboard.type("close call 1 2 3")
    page.reload()
    task(page)
    assert page.locator("#prompt").inner_text() == prompt
    expect(page.locator("#candidates .place")).to_have_text(["not ranked", "2nd", "not ranked", "1st"])
    expect(page.locator("#comment")).to_have_value("close call 1 2 3")
    page.keyboard.press("1")
    ranking = submit_and_wait(page, stack, project_id, 1)
    assert (ranking.body.comment, ranking.body.strength) == ("close call 1 2 3", pb.PREFERENCE_STRENGTH_SLIGHT)
    task(page)
    expect(page.locator(".tier")).to_have_count(0)
    assert page.evaluate("Object.keys(localStorage)") == []


def test_skipping_and_reporting_move_on_and_leave_no_vote(visit: Visit, stack: Stack) -> None:
    project_id = stack.make_project(2)
    page = visit(project_id)
    task(page)
    first = page.locator("#prompt").inner_text()
    page.keyboard.press("x")
    page.get_by_label("Why?").select_option("language")
    page.get_by_label(re.compile("Report it")).check()
    page.get_by_role("button", name="Skip it").click()
    expect(page.locator("#prompt")).not_to_have_text(first)
    task(page)
    page.keyboard.press("x")
    page.keyboard.press("Escape")
    task(page)
    page.keyboard.press("x")
    page.get_by_role("button", name="Skip it").click()
    expect(page.locator("#waiting")).to_contain_text("Nothing to rank right now")
    assert stack.rankings(project_id) == []


def test_a_vote_can_be_changed_and_withdrawn(visit: Visit, stack: Stack) -> None:
    project_id = stack.make_project(1)
    page = visit(project_id)
    task(page)
    for key in ("1", "2", "3"):
        page.keyboard.press(key)
    first = submit_and_wait(page, stack, project_id, 1)
    page.get_by_role("button", name="Change the last one").click()
    task(page)
    expect(page.locator("#candidates .place")).to_have_text(["1st", "2nd", "3rd", "4th"])
    page.keyboard.press("0")
    page.keyboard.press("Enter")
    wait_until(lambda: stack.rankings(project_id)[0].event_id != first.event_id, 20, "the changed vote")
    [changed] = stack.rankings(project_id)
    assert (changed.supersedes, len(groups(changed))) == (first.event_id, 1)
    page.get_by_text("Your recent rankings").click()
    page.get_by_role("button", name=re.compile("Withdraw")).click()
    wait_until(lambda: stack.rankings(project_id) == [], 20, "the vote to be withdrawn")
    expect(page.locator("#history-list")).to_contain_text("not ranked anything")


def test_new_work_appears_by_itself(visit: Visit, stack: Stack) -> None:
    project_id = stack.make_project(0)
    page = visit(project_id)
    expect(page.locator("#waiting")).to_contain_text("Nothing to rank right now")
    stack.add_comparisons(project_id, 1)
    task(page)


def test_axes_are_rated_beside_the_order(visit: Visit, stack: Stack) -> None:
    project_id = stack.make_project(1, texts=("one", "two"), axes=("helpful", "harmless"))
    page = visit(project_id)
    task(page)
    page.get_by_label("harmless").nth(1).select_option("6")
    page.locator("#prompt").click()
    page.keyboard.press("1")
    ranking = submit_and_wait(page, stack, project_id, 1)
    [rating] = ranking.body.axis_ratings
    assert (rating.axis, rating.candidate_id, rating.value) == ("harmless", ranking.shown_order[1], 6)


def test_the_lease_is_kept_alive_while_the_page_is_open(context: BrowserContext, visit: Visit, stack: Stack) -> None:
    project_id = stack.make_project(1)
    context.clock.install()
    page = visit(project_id)
    task(page)
    with page.expect_response("**/api/v1/leases/*/extend") as extended:
        page.clock.run_for(110_000)
    assert extended.value.status == 200
    assert extended.value.json()["expires_in_seconds"] > 200


def test_the_page_fits_a_phone_and_every_control_has_a_name(
    context: BrowserContext, visit: Visit, stack: Stack
) -> None:
    page = visit(stack.make_project(1, texts=("x" * 400, "word " * 200)))
    page.set_viewport_size({"width": 360, "height": 740})
    task(page)
    page.keyboard.press("1")
    for path in (None, "/", "/loops", "/system", "/api", "/loops/demo-loop"):
        if path:
            page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path or "the labelling page"
        nameless = page.locator("button, a, input, select, textarea").evaluate_all(
            """nodes => nodes.filter(node => !(node.getAttribute("aria-label") || node.textContent.trim()
                 || (node.labels && node.labels.length))).map(node => node.outerHTML)"""
        )
        assert nameless == []


def test_the_whole_page_works_without_a_mouse(visit: Visit, stack: Stack) -> None:
    project_id = stack.make_project(1, texts=("one", "two"))
    page = visit(project_id)
    task(page)
    expect(page.locator("#prompt")).to_be_focused()
    for _ in range(2):
        page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Rank first: completion 1")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#candidates .place")).to_have_text(["1st", "2nd"])
    expect(page.locator("#announce")).to_have_text("1, then 2. All ranked; Enter submits.")
    page.locator("#submit").focus()
    submit_and_wait(page, stack, project_id, 1)
