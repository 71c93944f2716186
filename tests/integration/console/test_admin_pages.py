"""The admin pages in a browser, over the real services."""

import random
import uuid
from datetime import UTC, datetime, timedelta

from playwright.sync_api import BrowserContext, expect

from preceptor.api.common.v1 import text_pb2
from preceptor.api.feedback.v1 import feedback_pb2 as pb
from preceptor.api.feedback.v1 import feedback_service_pb2 as service_pb
from tests.integration.console.stack import Stack, Visit


def ranked_project(stack: Stack, comparisons: int = 40) -> str:
    """Three raters ranked the same comparisons; juniper answers at random."""
    rng = random.Random(2)
    project_id = stack.make_project(0)
    now = datetime.now(UTC)
    made = [
        pb.Comparison(
            comparison_id=f"{project_id}/s{i}",
            project_id=project_id,
            overlap=3,
            prompt=text_pb2.Prompt(text=f"Question {i}?"),
            candidates=[pb.Candidate(candidate_id=one, text=f"{one} {i}") for one in "abc"],
        )
        for i in range(comparisons)
    ]
    stack.client.create_comparisons(service_pb.CreateComparisonsRequest(comparisons=made))
    for comparison in made:
        for rater in ("amber-1", "birch-2", "juniper-3"):
            order = "abc" if rater != "juniper-3" else rng.sample("abc", 3)
            request = service_pb.SubmitRankingRequest(
                event_id=str(uuid.uuid4()),
                comparison_id=comparison.comparison_id,
                rater_id=rater,
                body=pb.RankingBody(tie_groups=[pb.TieGroup(candidate_ids=[one]) for one in order]),
            )
            request.submitted_at.FromDatetime(now)
            request.shown_at.FromDatetime(now - timedelta(seconds=rng.lognormvariate(3, 0.3)))
            stack.client.submit_ranking(request)
    return project_id


def test_an_admin_finds_the_careless_rater_pauses_them_and_they_read_why(
    stack: Stack, context: BrowserContext, visit: Visit
) -> None:
    project_id = ranked_project(stack)
    stack.add_comparisons(project_id, 2)
    page = context.new_page()
    page.goto("/admin")
    page.get_by_role("link", name=f"Project {project_id}").click()
    row = page.locator("tr[data-rater=juniper-3]")
    expect(row).to_contain_text("careless")
    expect(page.locator("tr[data-rater=amber-1]")).not_to_contain_text("careless")
    page.screenshot(path=stack.folder / "admin-raters.png", full_page=True)
    row.get_by_role("button", name="Pause juniper-3").click()
    page.get_by_label("Why? The rater reads this.").fill("Please read the guidelines again.")
    page.get_by_role("button", name="Pause", exact=True).click()
    expect(row).to_contain_text("paused")

    rater = visit(project_id, "juniper-3")
    expect(rater.locator("#waiting-title")).to_have_text("You are paused in this project")
    expect(rater.locator("#waiting-text")).to_contain_text("Please read the guidelines again.")

    row.get_by_role("button", name="Let juniper-3 go on").click()
    expect(row).to_contain_text("active")
    rater.reload()
    expect(rater.locator("#task")).to_be_visible()


def test_settings_and_guidelines_are_changed_on_the_page(stack: Stack, context: BrowserContext) -> None:
    project_id = stack.make_project(1)
    page = context.new_page()
    page.goto(f"/admin/{project_id}")
    page.get_by_label("Share of gold items").fill("0.1")
    page.get_by_label("Guidelines (Markdown").fill("Be **brief**.")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#settings-state")).to_have_text("Saved.")
    stored = stack.client.get_project(service_pb.GetProjectRequest(project_id=project_id)).project
    assert (stored.settings.gold_rate, stored.guidelines, stored.guideline_version) == (0.1, "Be **brief**.", 2)
    page.get_by_label("Share of gold items").fill("0.9")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#settings-state")).to_contain_text("settings.gold_rate")
