"""Votes survive what happens between a browser and a database: each arrives, and counts once."""

from playwright.sync_api import Page, Route, expect

from preceptor.common.waiting import wait_until
from tests.integration.console.stack import Stack, Visit


def rank(page: Page) -> None:
    expect(page.locator("#task")).to_be_visible()
    for key in ("1", "2", "3"):
        page.keyboard.press(key)
    page.keyboard.press("Enter")


def unsent(page: Page) -> int:
    return int(page.evaluate("Object.keys(localStorage).filter(key => key.startsWith('preceptor.unsent.')).length"))


def test_a_vote_made_without_network_is_kept_and_sent_once(visit: Visit, stack: Stack) -> None:
    project_id = stack.make_project(2)
    page = visit(project_id)
    expect(page.locator("#task")).to_be_visible()
    page.context.set_offline(True)
    rank(page)
    expect(page.locator("#banners")).to_contain_text("1 ranking is kept in this browser")
    assert unsent(page) == 1
    assert stack.rankings(project_id) == []
    page.context.set_offline(False)
    expect(page.locator("#task")).to_be_visible()
    expect(page.locator("#banners")).to_be_empty()
    assert len(stack.exported(project_id)) == 1
    assert unsent(page) == 0


def test_a_vote_whose_answer_was_lost_is_sent_again_and_counts_once(visit: Visit, stack: Stack) -> None:
    project_id = stack.make_project(2)
    page = visit(project_id)
    bodies: list[str] = []

    def lose_two_answers(route: Route) -> None:
        bodies.append(route.request.post_data or "")
        if len(bodies) > 2:
            route.continue_()
            return
        route.fetch()
        route.abort("connectionreset")

    page.route("**/api/v1/rankings", lose_two_answers)
    rank(page)
    expect(page.locator("#progress")).to_contain_text("1 ranked by you")
    expect(page.locator("#task")).to_be_visible()
    assert len(bodies) == 3
    assert len(set(bodies)) == 1
    assert len(stack.exported(project_id)) == 1


def test_an_unsent_vote_survives_closing_the_page(visit: Visit, stack: Stack) -> None:
    project_id = stack.make_project(1)
    page = visit(project_id)
    expect(page.locator("#task")).to_be_visible()
    page.route("**/api/v1/rankings", lambda route: route.abort("internetdisconnected"))
    rank(page)
    expect(page.locator("#banners")).to_contain_text("kept in this browser")
    page.close()
    again = visit(project_id, rater="birch-2")
    expect(again.locator("#waiting")).to_contain_text("Nothing to rank right now")
    [ranking] = stack.rankings(project_id)
    assert ranking.rater_id == "amber-1"


def test_a_feedback_service_killed_under_a_vote_loses_nothing(visit: Visit, stack: Stack) -> None:
    project_id = stack.make_project(2)
    page = visit(project_id)
    expect(page.locator("#task")).to_be_visible()
    stack.feedback.kill()
    rank(page)
    expect(page.locator("#banners")).to_contain_text("1 ranking is kept in this browser")
    stack.feedback.start().wait_ready()
    expect(page.locator("#task")).to_be_visible()
    assert len(stack.exported(project_id)) == 1


def test_a_vote_that_is_refused_is_shown_and_not_sent_for_ever(visit: Visit, stack: Stack) -> None:
    project_id = stack.make_project(2)
    page = visit(project_id)
    expect(page.locator("#task")).to_be_visible()
    other = visit(project_id)
    rank(other)
    wait_until(lambda: len(stack.rankings(project_id)) == 1, 20, "the other tab's vote")
    page.keyboard.press("0")
    page.keyboard.press("Enter")
    expect(page.locator("[data-banner=refused]")).to_contain_text("A ranking was not taken")
    expect(page.locator("#task")).to_be_visible()
    assert unsent(page) == 0
    page.get_by_role("button", name="Discard it").click()
    expect(page.locator("#banners")).to_be_empty()
    assert len(stack.exported(project_id)) == 1
