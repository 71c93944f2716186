"""The loop page in a real browser: live, and honest when something is down."""

import math

from playwright.sync_api import BrowserContext, expect

from preceptor.common.discovery import KIND_GENERATION, Registry
from preceptor.conductor.types import LoopState
from tests.integration.console.stack import LOOP, Stack


def add_steps(stack: Stack, first: int, last: int) -> None:
    for step in range(first, last + 1):
        values = {
            "policy_version": step,
            "objective/kl": 0.3 * math.sqrt(step),
            "objective/scores": 1.5 * (1 - math.exp(-step / 12)),
            "gold": 2 * (1 - math.exp(-step / 15)),
            "policy/clipfrac_avg": 0.1,
        }
        stack.loops.add_event(LOOP, "metric", "rl-1", f"step {step}", values)


def test_the_loop_page_shows_live_curves_models_and_processes(context: BrowserContext, stack: Stack) -> None:
    add_steps(stack, 1, 12)
    registry = Registry(stack.redis_url)
    registry.announce(
        KIND_GENERATION, "generation-0", {"address": "127.0.0.1:7100", "run_id": "demo-rl", "policy_version": 12}, 60
    )
    page = context.new_page()
    page.goto("/loops")
    page.get_by_role("link", name="demo-loop").click()
    for title in ("Gold score", "Proxy reward", "KL to the reference", "Reward-model accuracy"):
        expect(page.get_by_role("heading", name=title)).to_be_visible()
    expect(page.locator(".stage.running")).to_contain_text("step 18 of 40")
    expect(page.get_by_role("region", name="Table of reward models")).to_contain_text("v2 serving")
    expect(page.get_by_role("region", name="Table of services")).to_contain_text("run demo-rl, policy version 12")
    expect(page.locator("figure").filter(has_text="KL to the reference").get_by_role("img")).to_have_accessible_name(
        "KL to the reference. KL: 0.3 at policy version 1, 1.04 at policy version 12"
    )
    add_steps(stack, 13, 20)
    expect(page.locator("figure").filter(has_text="KL to the reference").locator(".legend strong")).to_have_text("1.34")
    registry.withdraw(KIND_GENERATION, "generation-0")
    expect(page.get_by_role("region", name="Table of services")).not_to_contain_text("demo-rl")
    registry.close()


def test_the_loop_page_goes_on_without_the_feedback_service(context: BrowserContext, stack: Stack) -> None:
    stack.feedback.kill()
    page = context.new_page()
    page.goto("/loops/demo-loop")
    expect(page.locator(".banner")).to_contain_text("The feedback service does not answer")
    expect(page.locator(".banner")).to_contain_text("preceptor up")
    expect(page.get_by_role("heading", name="Stages")).to_be_visible()
    stack.feedback.start().wait_ready()
    expect(page.locator(".banner")).to_have_count(0)


def test_the_loop_page_says_so_when_the_conductor_is_gone_and_recovers(context: BrowserContext, stack: Stack) -> None:
    page = context.new_page()
    page.goto("/loops/demo-loop")
    expect(page.get_by_role("heading", name="Stages")).to_be_visible()
    stack.conductor.kill()
    expect(page.locator(".banner")).to_contain_text("The conductor service does not answer")
    expect(page.get_by_role("row", name="conductor down")).to_be_visible()
    page.goto("/loops")
    expect(page.locator(".banner")).to_contain_text("The conductor service does not answer")
    make_finished(stack)
    stack.conductor.start().wait_ready()
    expect(page.get_by_role("link", name="demo-loop")).to_be_visible()


def make_finished(stack: Stack) -> None:
    """So that the conductor, started again, does not try to run the loop of these tests."""
    stack.loops.finish_loop(LOOP, LoopState.STOPPED)
