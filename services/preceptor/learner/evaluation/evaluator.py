"""Evaluates the newest version every so many steps. A failed evaluation is counted; the run goes on."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preceptor.common.durable import write_durably
from preceptor.common.errors import PreceptorError
from preceptor.common.telemetry import get_logger
from preceptor.learner.evaluation.measures import evaluation_metrics, win_rate
from preceptor.learner.pump.prompts import PromptRecord
from preceptor.learner.run_configs.evaluation import EvaluationConfig

log = get_logger(__name__)
_REFERENCE_FILE = "evaluation-reference.json"


@dataclass(frozen=True, slots=True)
class Answer:
    """A completion of a held-out prompt. tokens: its length. finished: not cut for length."""

    text: str
    tokens: int
    finished: bool


# All prompts, by a version of at least the given one; [prompts][samples].
AskAll = Callable[[Sequence[PromptRecord], int], list[list[Answer]]]
# Raw rewards of answers [prompts][samples].
ScoreAll = Callable[[Sequence[PromptRecord], Sequence[Sequence[Answer]]], list[list[float]]]


class Evaluator:
    """An observer of the run; its metrics, eval/…, join those of the step."""

    def __init__(
        self,
        config: EvaluationConfig,
        prompts: Sequence[PromptRecord],
        folder: Path,
        *,
        ask: AskAll,
        score: ScoreAll,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self._config, self._prompts, self._ask, self._score, self._close = config, prompts, ask, score, close
        self._file = folder / _REFERENCE_FILE
        self._reference: list[list[Answer]] | None = None
        self._failures = 0

    def rewind(self, step: int) -> None:
        """Earlier evaluations stand in the metrics."""

    def started(self, step: int, policy_version: int) -> None:
        """Has the reference's completions written, where they are not there from an earlier start."""
        if self._config.reference == "none":
            return
        if self._file.is_file():
            rows = json.loads(self._file.read_bytes())
            self._reference = [[Answer(**answer) for answer in row] for row in rows]
        elif step == 0:
            try:
                self._reference = self._ask(self._prompts, policy_version)
            except PreceptorError as error:
                log.warning("no completions of the first version; there will be no win rate", error=error.message)
                return
            rows = [[_row(answer) for answer in answers] for answers in self._reference]
            write_durably(self._file, json.dumps(rows).encode())

    def step_done(self, step: int, policy_version: int, batch: Any, metrics: Mapping[str, float]) -> dict[str, float]:
        if step % self._config.every_steps:
            return {}
        try:
            found = self._evaluate(policy_version)
        except PreceptorError as error:
            self._failures += 1
            log.warning("evaluation failed", step=step, error=error.message)
            return {"eval/failures": float(self._failures)}
        log.info("evaluated", step=step, version=policy_version, **{name: round(v, 4) for name, v in found.items()})
        return {**found, "eval/policy_version": float(policy_version)}

    def close(self) -> None:
        self._close()

    def _evaluate(self, policy_version: int) -> dict[str, float]:
        answers = self._ask(self._prompts, policy_version)
        scores = self._score(self._prompts, answers)
        lengths = [[answer.tokens for answer in row] for row in answers]
        found = evaluation_metrics(scores, lengths, pass_threshold=self._config.pass_threshold)
        if self._reference is not None:  # scored again: the reward model may have changed
            reference = self._score(self._prompts, self._reference)
            found["eval/win_rate"] = win_rate(scores, reference)
            flat = [score for row in reference for score in row]
            found["eval/reference_reward_mean"] = sum(flat) / len(flat)
        return found


def _row(answer: Answer) -> dict[str, Any]:
    return {"text": answer.text, "tokens": answer.tokens, "finished": answer.finished}
