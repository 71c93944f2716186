"""What is served, in the artifact store: reward/<instance>.serving.json."""

from collections.abc import Sequence
from typing import Any

from preceptor.common.artifacts import ArtifactStore
from preceptor.reward.types import ModelSpec, RewardKind


class ServingFile:
    """Implements `ServingStore`; each save replaces the file as a whole."""

    def __init__(self, artifacts: ArtifactStore, path: str = "reward/serving.json") -> None:
        self._artifacts = artifacts
        self._path = path

    def load(self) -> tuple[list[ModelSpec], str]:
        if not self._artifacts.exists(self._path):
            return [], ""
        record: dict[str, Any] = self._artifacts.get_json(self._path)
        return [_from_json(entry) for entry in record["models"]], record["current"]

    def save(self, specs: Sequence[ModelSpec], current: str) -> None:
        self._artifacts.put_json(self._path, {"models": [_to_json(spec) for spec in specs], "current": current})


def _to_json(spec: ModelSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "kind": spec.kind.value,
        "uri": spec.uri,
        "reward_model_version": spec.reward_model_version,
    }


def _from_json(entry: dict[str, Any]) -> ModelSpec:
    return ModelSpec(entry["name"], RewardKind(entry["kind"]), entry["uri"], entry["reward_model_version"])
