"""metrics.jsonl of a run, and its curves in TensorBoard and Weights & Biases."""

import json
import math
import time
from pathlib import Path
from typing import Any

from preceptor.common.errors import FailedPrecondition
from preceptor.learner.run_configs.base import RunConfig, WandbConfig

_NAME = "metrics.jsonl"


class MetricsLog:
    """Appends one line per step to run_dir/metrics.jsonl and, if asked, writes the same to run_dir/tensorboard.

    A line: {"step": n, "time": seconds since the epoch, "metrics": {name: number or null}}.
    """

    def __init__(self, run_dir: Path, *, tensorboard: bool = True, config: RunConfig | None = None) -> None:
        """config: of the run; its `wandb` says whether curves go there too.

        Raises:
          FailedPrecondition: Weights & Biases is asked for and its package is missing.
        """
        run_dir.mkdir(parents=True, exist_ok=True)
        self._path = run_dir / _NAME
        self._writer = _summary_writer(run_dir / "tensorboard") if tensorboard else None
        self._wandb = None if config is None or config.wandb is None else _wandb_run(config, config.wandb, run_dir)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Appends a line; NaN and infinity, which JSON has no word for, become null."""
        plain = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, "time": time.time(), "metrics": plain}) + "\n")
        if self._writer is not None:
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()
        if self._wandb is not None:
            self._wandb.log(dict(metrics), step=step)

    def rewind(self, step: int) -> None:
        """Drops the lines after `step` and a line cut short: what a killed process wrote beyond its checkpoint."""
        if not self._path.is_file():
            return
        kept = [row for row in read_metrics(self._path.parent) if row["step"] <= step]
        staged = self._path.with_suffix(".staged")
        staged.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        staged.replace(self._path)

    def close(self) -> None:
        """Closes the curves' files."""
        if self._writer is not None:
            self._writer.close()
        if self._wandb is not None:
            self._wandb.finish()


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Returns the whole lines of run_dir/metrics.jsonl, in order; empty where there is no file."""
    path = run_dir / _NAME
    if not path.is_file():
        return []
    text = path.read_text("utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _summary_writer(directory: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and of no use to tests

    return SummaryWriter(str(directory))


def _wandb_run(config: RunConfig, settings: WandbConfig, run_dir: Path) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise FailedPrecondition(
            "wandb: the package `wandb` is not installed here: `pip install wandb`, or remove `wandb` from the config",
            field="wandb",
            reason="MISSING_PACKAGE",
        ) from error
    return wandb.init(
        project=settings.project,
        entity=settings.entity,
        mode=settings.mode,
        dir=str(run_dir),
        id=config.run_id,
        name=config.run_id,
        resume="allow",
        config=config.model_dump(mode="json"),
    )
