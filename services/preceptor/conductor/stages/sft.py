"""Supervised fine-tuning, and publishing its result as policy version 0 of the rl run."""

import tempfile
from pathlib import Path

from preceptor.common.artifacts import ArtifactStore
from preceptor.common.durable import copy_tree_durably
from preceptor.common.errors import AlreadyExists
from preceptor.common.weights_manifest import build_manifest, read_manifest, write_manifest
from preceptor.conductor.stages.context import StageContext
from preceptor.conductor.stages.jobs import ensure_run, run_to_end


def initial_model(context: StageContext) -> str:
    """Address of the model that the loop starts from: the sft run's output or the one that was given."""
    if context.config.initial_model is not None:
        return context.config.initial_model
    return context.world.artifacts.path(f"runs/{context.loop_id}-sft/model")


def run_sft(context: StageContext) -> None:
    """Trains the initial model."""
    settings = context.config.sft
    assert settings is not None  # the plan has this stage only then
    source = str((settings.run.get("model") or {}).get("path") or "")
    run = ensure_run(context, f"{context.loop_id}-sft", "sft", settings.run, initial_model_uri=source)
    run_to_end(context, run)


def publish_initial_policy(context: StageContext) -> None:
    """Publishes the initial model as policy version 0, so that generators can serve it before the rl run exists.

    Raises:
        AlreadyExists: version 0 was published with another content.
    """
    source = context.world.artifacts.local(initial_model(context))
    publish_version_zero(context.world.artifacts, context.rl_run_id, source)
    context.event("metric", "policy version 0 published", {"policy_version": 0.0})


def publish_version_zero(artifacts: ArtifactStore, run_id: str, model_dir: Path) -> None:
    """Stores a model folder as version 0 of a run with its manifest, unless the same content stands there."""
    rel = f"runs/{run_id}/policy/{0:08d}"
    manifest = build_manifest(run_id, 0, model_dir)
    if artifacts.exists(f"{rel}/manifest.json"):
        if read_manifest(artifacts.local(rel)).content_digest != manifest.content_digest:
            raise AlreadyExists(
                f"policy version 0 of {run_id} exists with another content: choose another loop id", field="loop_id"
            )
    else:
        with tempfile.TemporaryDirectory(prefix="preceptor-publish-") as scratch:
            staged = Path(scratch) / "policy"
            copy_tree_durably(model_dir, staged)
            write_manifest(manifest, staged)
            artifacts.put_dir(staged, rel, replace=True)
    latest = f"runs/{run_id}/policy/LATEST.json"
    if not artifacts.exists(latest):
        artifacts.put_json(latest, {"policy_version": 0, "path": rel})
