"""What a run did, line by line, for whoever checks it afterwards. Nothing reads it back; a restart cuts nothing off."""

import json
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from preceptor.api.learner.v1 import weights_pb2

HISTORY_FILE = "history.jsonl"


class RunHistory:
    """Appends to runs/<run_id>/history.jsonl. Threads may share it.

    Rows: {"event": "trained", step, policy_version, groups}, {"event": "published", policy_version, content_digest,
    step}, {"event": "restored", step}: what was trained after that step is undone, {"event": "changed", step,
    settings}: they hold from the next step on, {"event": "rolled_back", step, reason}. Each with "time" (Unix seconds).
    """

    def __init__(self, folder: Path) -> None:
        self._file = (folder / HISTORY_FILE).open("a", encoding="utf-8")
        self._lock = threading.Lock()

    def trained(self, step: int, policy_version: int, groups: Sequence[int]) -> None:
        """policy_version: of the weights that the update started from. groups: issue indexes."""
        self._append(event="trained", step=step, policy_version=policy_version, groups=list(groups))

    def published(self, manifest: weights_pb2.WeightManifest) -> None:
        self._append(
            event="published",
            policy_version=manifest.policy_version,
            content_digest=manifest.content_digest,
            step=manifest.learner_step,
        )

    def restored(self, step: int) -> None:
        self._append(event="restored", step=step)

    def changed(self, step: int, settings: Mapping[str, Any]) -> None:
        self._append(event="changed", step=step, settings=dict(settings))

    def rolled_back(self, step: int, reason: str) -> None:
        self._append(event="rolled_back", step=step, reason=reason)

    def close(self) -> None:
        self._file.close()

    def _append(self, **row: Any) -> None:
        line = json.dumps({**row, "time": round(time.time(), 3)}) + "\n"
        with self._lock:
            self._file.write(line)
            self._file.flush()
