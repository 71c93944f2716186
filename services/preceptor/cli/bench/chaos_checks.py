"""What must hold after a chaos run, read from what the run left on disk."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from preceptor.learner.pump.accounting import Accounting

Row = Mapping[str, Any]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON lines file; a last line that is still being written is left out."""
    if not path.is_file():
        return []
    lines = path.read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines]


def trained_groups(history: Sequence[Row]) -> Counter[int]:
    """How often each group was trained, not counting what a restart undid."""
    steps: dict[int, list[int]] = {}
    for row in history:
        if row["event"] == "trained":
            steps[row["step"]] = row["groups"]
        elif row["event"] == "restored":
            steps = {step: groups for step, groups in steps.items() if step <= row["step"]}
    return Counter(group for groups in steps.values() for group in groups)


def trained_twice(history: Sequence[Row]) -> list[int]:
    return [group for group, times in trained_groups(history).items() if times > 1]


def versions_with_two_contents(history: Sequence[Row], policy_folder: Path) -> list[int]:
    """Of what was announced and of what lies in the store."""
    contents: dict[int, set[str]] = {}
    for row in history:
        if row["event"] == "published":
            contents.setdefault(row["policy_version"], set()).add(row["content_digest"])
    for path in policy_folder.glob("*/manifest.json"):
        digest = json.loads(path.read_text())["contentDigest"]
        contents.setdefault(int(path.parent.name), set()).add(digest)
    return sorted(version for version, found in contents.items() if len(found) > 1)


def accounting_gaps(groups: Mapping[str, int], attempts: Mapping[str, int], history: Sequence[Row]) -> list[str]:
    """The identities of the accounting that do not hold at a run's end, each with its numbers."""
    parts = {name: count for name, count in attempts.items() if name != "sent"}
    trained = sum(trained_groups(history).values())
    identities = {
        "issued = trained + abandoned": (groups["issued"], groups["trained"] + groups["abandoned"]),
        "groups in flight = 0": (groups["in_flight"], 0),
        "sent = the sum of its parts": (attempts["sent"], sum(parts.values())),
        "attempts in flight = 0": (attempts["in_flight"], 0),
        "groups trained = attempts trained": (groups["trained"], attempts["trained"]),
        "groups trained = those in the history": (groups["trained"], trained),
    }
    return [f"{name}: {left} and {right}" for name, (left, right) in identities.items() if left != right]


def checkpoint_accounting(run_folder: Path) -> tuple[dict[str, int], dict[str, int]]:
    """(groups, attempts) as counted in the newest checkpoint."""
    checkpoints = run_folder / "checkpoints"
    newest = json.loads((checkpoints / "LATEST.json").read_text())["path"]
    state = json.loads((checkpoints / newest / "run.json").read_text())
    accounting = Accounting.restored(state["pump"]["ledger"]["accounting"])
    return asdict(accounting.groups), asdict(accounting.attempts)
