"""Rankings as the lines of a file, with an account of what the format left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from preceptor.api.feedback.v1 import feedback_pb2 as fb
from preceptor.feedback.formats import hh, rankings, trl
from preceptor.feedback.formats.losses import Losses
from preceptor.feedback.formats.preferences import best_of, judgements_of, preferences_of
from preceptor.feedback.formats.trl import Shape

_Rows = Iterator[dict[str, Any]]


@dataclass(slots=True)
class Export:
    """The lines of one file. shape: of TRL's rows."""

    format_name: str
    shape: Shape = Shape.AUTO
    losses: Losses = field(default_factory=Losses)
    rows: int = 0
    _string_rows: int = 0

    def lines(self, item: fb.RankedComparison) -> Iterator[str]:
        """Yields the lines that stand for one ranking, none to K (K - 1) / 2, without their ends."""
        if self.format_name == "rankings":
            self.rows += 1
            yield rankings.to_json(item)
            return
        for row in _WRITERS[self.format_name](item, self):
            self.rows += 1
            self._string_rows += isinstance(row.get("prompt"), str)
            yield json.dumps(row)

    def report(self) -> list[dict[str, str | int]]:
        """What is not in the file: [{what, count, meaning}]."""
        if self.format_name.startswith("trl-"):
            self.losses.counts["mixed"] = min(self._string_rows, self.rows - self._string_rows)
        return self.losses.report()


def _hh(item: fb.RankedComparison, export: Export) -> _Rows:
    for preference in preferences_of(item, export.losses):
        yield from hh.write(preference, export.losses)


def _trl_preference(item: fb.RankedComparison, export: Export) -> _Rows:
    for preference in preferences_of(item, export.losses):
        yield trl.write_preference(preference, export.shape, export.losses)


def _trl_unpaired(item: fb.RankedComparison, export: Export) -> _Rows:
    for judged in judgements_of(item, export.losses):
        yield trl.write_unpaired(judged, export.shape, export.losses)


def _trl_prompt_completion(item: fb.RankedComparison, export: Export) -> _Rows:
    for judged in best_of(item, export.losses):
        yield trl.write_completion(judged, export.shape, export.losses)


_WRITERS: dict[str, Callable[[fb.RankedComparison, Export], _Rows]] = {
    "hh": _hh,
    "trl-preference": _trl_preference,
    "trl-unpaired": _trl_unpaired,
    "trl-prompt-completion": _trl_prompt_completion,
}
FORMATS = ("rankings", *_WRITERS)
