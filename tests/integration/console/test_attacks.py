"""What a model or another site might try, in a real browser."""

import http.server
import threading
from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, expect

from tests.integration.console.stack import Stack, Visit

PAYLOADS = (
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "<svg onload='window.hacked = 1'><a href='javascript:window.hacked=1'>x</a></svg>",
    "</p></li><iframe srcdoc='<script>parent.hacked = 1</script>'></iframe>",
    '{{ 7 * 7 }}" onmouseover="window.hacked = 1',
)
GUIDELINES = (
    "<script>window.hacked = 1</script> <img src=x onerror=window.hacked=1> [click](javascript:window.hacked=1)"
)


def test_completions_that_are_attacks_stay_text(visit: Visit, stack: Stack) -> None:
    project_id = stack.make_project(1, texts=PAYLOADS, guidelines=GUIDELINES)
    page = visit(project_id)
    blocked: list[str] = []
    page.on("console", lambda message: blocked.append(message.text) if "Content Security" in message.text else None)
    expect(page.locator("#task")).to_be_visible()
    page.keyboard.press("g")
    texts = page.locator("#candidates .text").all_inner_texts()
    assert sorted(texts) == sorted(PAYLOADS)
    page.keyboard.press("0")
    expect(page.locator(".chip")).to_have_count(len(PAYLOADS))
    for candidate in page.locator("#candidates .text").all():
        candidate.hover()
    inside = page.locator("#candidates, #tiers, #guidelines").locator("script, img, svg, iframe, a")
    assert inside.count() == 0
    assert page.evaluate("window.hacked") is None
    assert blocked == []


def test_inline_script_would_not_run_even_if_it_got_in(visit: Visit, stack: Stack) -> None:
    page = visit(stack.make_project(1))
    tries = (
        "document.body.innerHTML += '<img src=x onerror=window.hacked=1>'",
        "document.body.setAttribute('onclick', 'window.hacked = 1')",
        "document.createElement('script').text = 'window.hacked = 1'",
    )
    for script in tries:
        outcome = page.evaluate(
            f"() => {{ try {{ {script}; return 'taken'; }} catch (error) {{ return error.name; }} }}"
        )
        assert outcome == "TypeError", script
    assert page.evaluate("window.hacked") is None


ATTACK_PAGE = b"""<!doctype html><title>evil</title><script type="module">
const target = new URLSearchParams(location.search).get("target");
const body = new URLSearchParams(location.search).get("body");
const tries = [
  ["POST", "text/plain", {}], ["POST", "application/x-www-form-urlencoded", {}],
  ["POST", "application/json", {"X-Preceptor-Client": "evil/1"}], ["PUT", "text/plain", {}],
];
const results = [];
for (const mode of ["no-cors", "cors"]) {
  for (const [method, type, headers] of tries) {
    try {
      const options = {method, mode, body, credentials: "include", headers: {"Content-Type": type, ...headers}};
      const answer = await fetch(target + "/api/v1/rankings", options);
      results.push(answer.type === "opaque" ? "opaque" : String(answer.status));
    } catch { results.push("blocked"); }
  }
}
try { await fetch(target + "/api/v1/projects"); results.push("read"); } catch { results.push("unreadable"); }
window.results = results;
</script>"""


class _EvilHandler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(ATTACK_PAGE)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def evil_url() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _EvilHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_another_site_can_neither_vote_nor_read(
    context: BrowserContext, visit: Visit, stack: Stack, evil_url: str
) -> None:
    project_id = stack.make_project(1, texts=("a", "b"))
    page = visit(project_id)
    expect(page.locator("#task")).to_be_visible()
    page.keyboard.press("1")
    vote = page.evaluate(
        """async () => {
          const { project } = document.getElementById("workspace").dataset;
          const offer = await (await fetch(`/api/v1/projects/${project}/leases`,
            {method: "POST", headers: {"Content-Type": "application/json", "X-Preceptor-Client": "t/1"},
             body: JSON.stringify({rater_id: "amber-1"})})).json();
          return JSON.stringify({event_id: crypto.randomUUID(), comparison_id: offer.lease.comparison.comparison_id,
            rater_id: "amber-1", tie_groups: [["c0"], ["c1"]]});
        }"""
    )
    attack = context.new_page()
    attack.goto(f"{evil_url}/?target={stack.url}&body={vote}")
    attack.wait_for_function("window.results")
    results = attack.evaluate("window.results")
    assert "read" not in results
    assert set(results) <= {"opaque", "blocked", "unreadable"}
    assert stack.rankings(project_id) == []


def test_another_site_cannot_frame_the_console(context: BrowserContext, stack: Stack, evil_url: str) -> None:
    page = context.new_page()
    page.goto(evil_url)
    page.evaluate(
        """async target => { const frame = document.createElement("iframe"); frame.src = target;
             const loaded = new Promise(resolve => frame.addEventListener("load", resolve));
             document.body.append(frame); await loaded; }""",
        stack.url,
    )
    inner = page.frames[1]
    assert "Preceptor" not in inner.content()
