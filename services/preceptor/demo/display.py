"""The live display of a running demo: stage, step, gold, KL, samples per second, time left."""

from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text


@dataclass(slots=True)
class DemoProgress:
    """What is shown. Missing figures are None until they have been measured."""

    stage: str = "starting"
    message: str = ""
    stage_fraction: float = 0.0
    done_fraction: float = 0.0
    step: int | None = None
    total_steps: int | None = None
    gold: float | None = None
    kl_k1: float | None = None
    samples_per_second: float | None = None
    rankings: int | None = None
    elapsed_s: float = 0.0
    eta_s: float | None = None
    stages: list[tuple[str, str, float]] = field(default_factory=list)
    """(name, state, seconds) of every stage."""


class DemoDisplay:
    """Redraws on a terminal; elsewhere writes one line whenever the stage changes."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        self._last_stage = ""

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def __call__(self, progress: DemoProgress) -> None:
        """Shows the newest state."""
        if self._console.is_terminal:
            self._live.update(render(progress))
        elif progress.stage != self._last_stage:
            self._last_stage = progress.stage
            self._console.print(f"{clock(progress.elapsed_s)}  {progress.stage}  {figures(progress)}".rstrip())


def render(progress: DemoProgress) -> RenderableType:
    """The whole picture."""
    table = Table.grid(padding=(0, 2))
    for name, state, seconds in progress.stages:
        mark = {"done": "[green]✓[/]", "running": "[cyan]▶[/]", "failed": "[red]✗[/]"}.get(state, "[dim]·[/]")
        style = "dim" if state == "pending" else ""
        table.add_row(mark, Text(name, style=style), clock(seconds) if seconds else "")
    left = "" if progress.eta_s is None else f"   about {clock(progress.eta_s)} left"
    return Group(
        table,
        Text(f"{progress.stage}: {progress.message}", style="bold"),
        ProgressBar(total=1.0, completed=progress.stage_fraction, width=60),
        Text(figures(progress)),
        Text(f"{clock(progress.elapsed_s)} so far{left}", style="dim"),
    )


def figures(progress: DemoProgress) -> str:
    """The measured figures in one line."""
    parts = []
    if progress.step is not None:
        parts.append(f"step {progress.step}/{progress.total_steps or '?'}")
    if progress.rankings is not None:
        parts.append(f"{progress.rankings} rankings")
    if progress.gold is not None:
        parts.append(f"gold {progress.gold:+.2f}")
    if progress.kl_k1 is not None:
        parts.append(f"KL {progress.kl_k1:.2f}")
    if progress.samples_per_second is not None:
        parts.append(f"{progress.samples_per_second:.1f} samples/s")
    return " · ".join(parts)


def clock(seconds: float) -> str:
    """E.g. "3:07"."""
    whole = max(0, round(seconds))
    return f"{whole // 60}:{whole % 60:02d}"
