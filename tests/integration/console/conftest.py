"""The stack, and a real browser."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.integration.console.stack import Stack, Visit
from tests.support.redis import RedisProcess

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TIMEOUT_MS = 20_000
expect.set_options(timeout=TIMEOUT_MS)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, redis_process: RedisProcess) -> Iterator[Stack]:
    """Feedback service, conductor and console as processes. A test that kills one starts it again."""
    made = Stack(tmp_path_factory.mktemp("console"), redis_process.url)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser per module: while Playwright's sync interface is open an event loop runs in this thread, and no asyncio
    test of another module could run."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    assert path, "these tests drive a browser: apt-get install chromium"
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def context(browser: Browser, stack: Stack) -> Iterator[BrowserContext]:
    made = browser.new_context(base_url=stack.url, viewport={"width": 1280, "height": 860})
    made.set_default_timeout(TIMEOUT_MS)
    yield made
    made.close()


@pytest.fixture
def visit(context: BrowserContext) -> Visit:
    """Opens the labelling page as a rater; a script error of the page fails the test at once."""

    def open_page(project_id: str, rater: str = "amber-1") -> Page:
        page = context.new_page()
        page.on("pageerror", fail)
        page.goto("/")
        page.get_by_label("Your name here").fill(rater)
        page.locator(f"input[value={project_id}]").check()
        page.get_by_role("button", name="Start ranking").click()
        page.wait_for_url(f"**/rank/{project_id}")
        return page

    return open_page


def fail(error: Any) -> None:
    raise AssertionError(f"the page's script failed: {error}")
