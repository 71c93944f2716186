"""A run's trained batches in a file, and a run that is fed from such a file instead of from generators.

One JSON line per step: {"step": n, "groups": [{"issue_index", "attempt", "reward_model_version", "texts", "rollouts"}],
"staleness": [per group]}. A rollout has the fields of Experience, with the learner step whose weights wrote the tokens
in the place of each span's version: version numbers of a replay are its own.
"""

import json
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from preceptor.common.errors import FailedPrecondition, InvalidInput, NotFound
from preceptor.learner.pump.accounting import Accounting, AttemptState, GroupState
from preceptor.learner.pump.lineage import PolicyLineage
from preceptor.learner.pump.results import Batch, GroupResult
from preceptor.learner.types import Experience


class Recorder:
    """Appends each step's batch to a file; a run that goes on from a checkpoint drops what it has rolled back."""

    def __init__(self, path: Path, lineage: PolicyLineage) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._lineage = path, lineage

    def rewind(self, step: int) -> None:
        kept = [line for line in _whole_lines(self._path) if json.loads(line)["step"] <= step]
        staged = self._path.with_name(f".{self._path.name}.staged")
        staged.write_text("".join(kept), encoding="utf-8")
        staged.replace(self._path)

    def started(self, step: int, policy_version: int) -> None:
        """Nothing to do."""

    def step_done(self, step: int, policy_version: int, batch: Batch, metrics: Mapping[str, float]) -> dict[str, float]:
        groups = [self._group(group) for group in batch.groups]
        row = {"step": step, "groups": groups, "staleness": list(batch.staleness)}
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, separators=(",", ":")) + "\n")
        return {}

    def close(self) -> None:
        """Nothing is held open."""

    def _group(self, group: GroupResult) -> dict[str, Any]:
        return {
            "issue_index": group.issue_index,
            "attempt": group.attempt,
            "reward_model_version": group.reward_model_version,
            "texts": group.completions,
            "rollouts": [self._rollout(experience) for experience in group.experiences],
        }

    def _rollout(self, experience: Experience) -> dict[str, Any]:
        steps = [(self._lineage.step_of(version) or 0, begin, end) for version, begin, end in experience.version_spans]
        return {**asdict(experience), "version_spans": steps}


class Recording:
    """The steps of a file that Recorder wrote."""

    def __init__(self, path: Path) -> None:
        """Raises NotFound if there is no such file, InvalidInput naming the line that is broken."""
        if not path.is_file():
            raise NotFound(f"replay: no recording at {path}", field="replay")
        self.path = path
        self._rows = [self._parsed(number, line) for number, line in enumerate(_whole_lines(path), start=1)]

    @property
    def steps(self) -> int:
        return len(self._rows)

    def batch(self, step: int, run_id: str, lineage: PolicyLineage) -> Batch:
        """Returns the batch of a step (from 1), its versions in the terms of this lineage."""
        row = self._rows[step - 1]
        groups = tuple(_group_result(group, run_id, lineage) for group in row["groups"])
        return Batch(groups, tuple(row["staleness"]))

    def _parsed(self, number: int, line: str) -> dict[str, Any]:
        try:
            row: dict[str, Any] = json.loads(line)
            if row["step"] != number or not row["groups"]:
                raise InvalidInput(f"replay: {self.path.name}:{number}: expected step {number}", field="replay")
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInput(
                f"replay: {self.path.name}:{number}: not a recorded step: {error}", field="replay"
            ) from error
        return row


class ReplayPump:
    """Hands out a recording's batches where a live run has its pump. Nothing is issued, nothing waits, nothing expires;
    the accounting counts what was trained.
    """

    def __init__(self, recording: Recording, run_id: str, state: Mapping[str, Any] | None) -> None:
        """state: what `snapshot` returned for the checkpoint to go on from."""
        self._recording, self._run_id = recording, run_id
        self._lock = threading.Lock()
        self._accounting = Accounting() if state is None else Accounting.restored(state["accounting"])
        self.lineage = PolicyLineage() if state is None else PolicyLineage.restored(state["lineage"])
        self.counts: Counter[str] = Counter()
        self.needs_acknowledgement = False

    def start(self) -> None:
        """There is no thread."""

    def stop(self) -> None:
        """There is no thread."""

    def close(self) -> list[str]:
        """Nothing is in flight, nothing to acknowledge."""
        return []

    def take(self, timeout_s: float) -> Batch | None:
        """Returns the next step's batch. Raises FailedPrecondition at the recording's end."""
        step = self.lineage.step + 1
        if step > self._recording.steps:
            raise FailedPrecondition(
                f"the recording {self._recording.path} holds {self._recording.steps} steps, and step {step} is asked "
                "for: lower total_steps",
                field="total_steps",
                reason="RECORDING_ENDED",
            )
        return self._recording.batch(step, self._run_id, self.lineage)

    def trained(self, batch: Batch, version: int) -> None:
        with self._lock:
            for _ in batch.groups:
                self._accounting.group_issued()
                self._accounting.group_moved(GroupState.IN_FLIGHT, GroupState.TRAINED)
                self._accounting.attempt_sent()
                self._accounting.attempt_moved(AttemptState.IN_FLIGHT, AttemptState.TRAINED)
        self.lineage.advance(version)

    def published(self, version: int) -> None:
        """Nobody waits for it."""

    def republish(self, version: int) -> None:
        self.lineage.republish(version)

    def acknowledge(self, entry_ids: Sequence[str]) -> None:
        """The recording stays as it is."""

    @property
    def accounting(self) -> Accounting:
        """A copy of the counts."""
        with self._lock:
            return Accounting.restored(self._accounting.snapshot())

    def gauges(self) -> dict[str, float]:
        return {}

    def snapshot(self) -> tuple[dict[str, Any], list[str]]:
        """(JSON state for a checkpoint, no entries)."""
        return {"lineage": self.lineage.snapshot(), "accounting": self._accounting.snapshot()}, []


def _group_result(group: Mapping[str, Any], run_id: str, lineage: PolicyLineage) -> GroupResult:
    return GroupResult(
        entry_id="",
        run_id=run_id,
        issue_index=int(group["issue_index"]),
        attempt=int(group["attempt"]),
        experiences=tuple(_experience(rollout, lineage) for rollout in group["rollouts"]),
        completions=tuple(group["texts"]),
        reward_model_version=int(group["reward_model_version"]),
    )


def _experience(rollout: Mapping[str, Any], lineage: PolicyLineage) -> Experience:
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in rollout.items()}
    spans = tuple((_version_of(step, lineage), begin, end) for step, begin, end in rollout["version_spans"])
    return Experience(**{**values, "version_spans": spans})


def _version_of(step: int, lineage: PolicyLineage) -> int:
    """The present weights' number where they are meant: a restart has published them again, under a higher one."""
    return lineage.version if step == lineage.step else lineage.version_at(step)


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file that end; what a killed process left half-written is passed over."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as stream:
        return [line for line in stream if line.endswith("\n")]
