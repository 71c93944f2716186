"""Templates, and the few filters they use. Everything is escaped; guidelines are Markdown without HTML."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup
from starlette.responses import HTMLResponse

from preceptor.console.charts import Tick
from preceptor.console.types import Message

# "js-default" escapes HTML and refuses javascript: links; images are left out as the CSP would block them anyway.
_MARKDOWN = MarkdownIt("js-default", {"linkify": False, "typographer": False}).disable("image")


def _open_elsewhere(renderer: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    # A link must not take the rater away from a ranking that is being made.
    tokens[index].attrSet("target", "_blank")
    tokens[index].attrSet("rel", "noopener noreferrer")
    return renderer.renderToken(tokens, index, options, env)


_MARKDOWN.add_render_rule("link_open", _open_elsewhere)


def markdown(text: str) -> Markup:
    """Guidelines as safe HTML."""
    return Markup(_MARKDOWN.render(text))


def ago(moment: datetime | None, now: datetime | None = None) -> str:
    """'just now', '5 min ago', '3 h ago', then the date; a dash for none."""
    if moment is None:
        return "\N{EN DASH}"
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    if seconds < 45:
        return "just now"
    if seconds < 3600:
        return f"{max(1, round(seconds / 60))} min ago"
    if seconds < 48 * 3600:
        return f"{round(seconds / 3600)} h ago"
    return moment.strftime("%d %b %Y")


def duration(begin: datetime | None, end: datetime | None, now: datetime | None = None) -> str:
    """How long a stage took or has taken: '42 s', '3 min 5 s', '2 h 10 min'."""
    if begin is None:
        return ""
    total = max(0, int(((end or now or datetime.now(UTC)) - begin).total_seconds()))
    hours, minutes, seconds = total // 3600, total % 3600 // 60, total % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def percent(value: float) -> str:
    """0.7261 -> '72.6 %'."""
    return f"{100 * value:.1f} %"


def prompt_text(prompt: Sequence[Message]) -> str:
    """A prompt on one line, for tables."""
    return " · ".join(message.content for message in prompt)


def tick_anchor(ticks: Sequence[Tick], index: int) -> str:
    """Keeps the outermost tick labels inside the drawing."""
    return "end" if index and index == len(ticks) - 1 else "middle"


def environment() -> Environment:
    """The template environment: autoescape everywhere, and an undefined name is an error."""
    env = Environment(
        loader=PackageLoader("preceptor.console", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {
        "markdown": markdown,
        "ago": ago,
        "percent": percent,
        "prompt_text": prompt_text,
    }
    env.globals |= {"duration": duration, "tick_anchor": tick_anchor}
    return env


class Renderer:
    """Renders a template to an answer."""

    def __init__(self) -> None:
        self._env = environment()

    def page(
        self, name: str, *, status: int = 200, headers: dict[str, str] | None = None, **values: Any
    ) -> HTMLResponse:
        """The page as HTML."""
        html = self._env.get_template(name).render(**values)
        return HTMLResponse(html, status_code=status, headers=headers)
