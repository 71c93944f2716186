"""A live progress line on a terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from preceptor.learner.types import Progress, ProgressCallback

_SHOWN = {
    "loss": "loss",
    "objective/scores": "score",
    "objective/kl": "kl",
    "eval/accuracy": "accuracy",
    "phase/samples_per_second": "samples/s",
}


@contextmanager
def progress_bar(title: str) -> Iterator[ProgressCallback | None]:
    """Yields a callback that moves a bar on standard error; None where that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[shown]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None, shown="")

        def show(progress: Progress) -> None:
            description = f"{title}: {progress.phase}"
            bar.update(task, description=description, completed=progress.step, total=progress.total_steps)
            if progress.metrics:
                bar.update(task, shown=shown_metrics(progress.metrics))

        yield show


def shown_metrics(metrics: dict[str, float]) -> str:
    """The few metrics worth a place beside the bar."""
    return "  ".join(f"{label} {metrics[name]:.3g}" for name, label in _SHOWN.items() if name in metrics)
