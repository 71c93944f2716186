"""Reward models: snapshot of the labels, training run, gate, registration, promotion."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from preceptor.conductor.loop_config import GateConfig
from preceptor.conductor.stages.context import StageContext, StageError
from preceptor.conductor.stages.jobs import ensure_run, run_to_end
from preceptor.conductor.stages.sft import initial_model
from preceptor.conductor.store.registry import GATE_PASSED
from preceptor.conductor.types import LabelSnapshot, RewardModelRecord, RunRecord


def train_reward_model(context: StageContext) -> None:
    """Pins the labels in force, then trains on exactly these."""
    run_id = context.reward_run_id(context.stage.iteration)
    run = context.world.loops.find_run(run_id) or _new_run(context, run_id)
    run_to_end(context, run)


def promote_reward_model(context: StageContext) -> None:
    """Gates the iteration's reward model, registers it and makes it the one that serves.

    A model that does not pass leaves the one before in place; without one before, the iteration's rl stage is skipped
    and the next iteration tries again with more labels.

    Raises:
        StageError: in the last iteration no model of the loop has ever passed.
    """
    model = context.world.registry.register(_from_card(context))
    values = {
        "reward_model_version": float(model.reward_model_version),
        "heldout_accuracy": model.heldout_accuracy,
        "rankings": float(model.rankings),
    }
    if model.gate != GATE_PASSED:
        context.event("reward_model", f"reward model {model.reward_model_version}: {model.gate}", values)
        if context.promoted() is None and context.stage.iteration == context.config.iterations:
            raise StageError(
                f"reward model {model.reward_model_version} did not pass its gate: {model.gate}; collect more "
                "labels or change reward.gate",
                reason="GATE_NOT_PASSED",
            )
        return
    context.world.reward.load(model, make_current=True)
    context.world.registry.promote(model.reward_model_version)
    context.event("reward_model", f"reward model {model.reward_model_version} promoted", values)


def _new_run(context: StageContext, run_id: str) -> RunRecord:
    snapshot = context.world.labels.snapshot(context.project_id)
    path, event_ids = _export(context, run_id, snapshot)
    version = context.world.registry.next_version()
    template = context.config.reward.run
    source = initial_model(context)
    config: dict[str, Any] = {
        **template,
        "reward_model_version": version,
        "model": template.get("model", {"path": context.world.artifacts.reference(source)}),
        "data": [{"path": path, "format": "rankings"}],
        "labels": {
            "project_id": context.project_id,
            "label_high_water_mark": snapshot.label_high_water_mark,
            "label_hash": snapshot.label_hash,
        },
    }
    promoted = context.promoted()
    if promoted is not None:
        config.setdefault("previous", context.world.artifacts.reference(promoted.uri))
    run = ensure_run(context, run_id, "reward", config, initial_model_uri=source, reward_model_version=version)
    context.world.registry.pin_labels(run_id, event_ids)
    return run


def _export(context: StageContext, run_id: str, snapshot: LabelSnapshot) -> tuple[str, list[str]]:
    """Writes the snapshot's rankings as JSONL; returns the file and the votes' event ids."""
    rows = list(context.world.labels.export(context.project_id, snapshot.label_high_water_mark))
    text = "".join(f"{line}\n" for _, line in rows)
    path = context.world.artifacts.put_text(f"loops/{context.loop_id}/{run_id}.rankings.jsonl", text)
    return path, [event_id for event_id, _ in rows]


def _from_card(context: StageContext) -> RewardModelRecord:
    run_id = context.reward_run_id(context.stage.iteration)
    version = context.world.registry.version_of_run(run_id)
    uri = _stored_model(context, run_id, version)
    card = context.world.artifacts.get_json(f"reward-models/{version:06d}/card.json")
    model = RewardModelRecord(
        reward_model_version=version,
        uri=uri,
        run_id=run_id,
        loop_id=context.loop_id,
        project_id=context.project_id,
        label_high_water_mark=int(card["label_high_water_mark"]),
        label_hash=str(card["label_hash"]),
        rankings=int(card["rankings"]),
        heldout_accuracy=float(card.get("heldout_accuracy") or 0.0),
        noise_ceiling=float(card.get("noise_ceiling") or 0.0),
        score_mean=float(card["score_mean"]),
        score_sd=float(card["score_sd"]),
        promoted=False,
        gate=GATE_PASSED,
        created_at=datetime.now(UTC),
    )
    gate = context.config.reward.gate
    reason = figures_against(card, model, context.promoted(), gate) or _probe(context, model, gate)
    return model if not reason else _with_gate(model, reason)


def _stored_model(context: StageContext, run_id: str, version: int) -> str:
    """The model's address in the registry's folder, where it is put unless its run did so."""
    artifacts, rel = context.world.artifacts, f"reward-models/{version:06d}"
    if not artifacts.exists(f"{rel}/card.json"):
        artifacts.put_dir(artifacts.local(f"runs/{run_id}/model"), rel, replace=True)
    return artifacts.path(rel)


def figures_against(
    card: Mapping[str, Any], model: RewardModelRecord, serving: RewardModelRecord | None, gate: GateConfig
) -> str:
    """Returns why the model may not serve, by its card and by the one that serves; "" when it may."""
    if model.heldout_accuracy < gate.min_heldout_accuracy:
        return f"held-out accuracy {model.heldout_accuracy:.3f} is below {gate.min_heldout_accuracy:g}"
    if model.score_sd < gate.min_score_sd:
        return (
            f"raw scores spread by {model.score_sd:.3f} log-odds, less than {gate.min_score_sd:g}: it learned nothing"
        )
    reachable = model.noise_ceiling - 0.5
    share = (model.heldout_accuracy - 0.5) / reachable if reachable > 0 else 1.0
    if share < gate.min_ceiling_share:
        return (
            f"held-out accuracy {model.heldout_accuracy:.3f} is {share:.2f} of the way from chance to the noise "
            f"ceiling {model.noise_ceiling:.3f}, less than {gate.min_ceiling_share:g}"
        )
    error = card.get("metrics", {}).get("eval/ece")
    if error is not None and error > gate.max_ece:
        return f"expected calibration error {error:.3f} is above {gate.max_ece:g}"
    if serving is not None and serving.heldout_accuracy - model.heldout_accuracy > gate.max_accuracy_drop:
        return (
            f"held-out accuracy {model.heldout_accuracy:.3f} is more than {gate.max_accuracy_drop:g} below that of "
            f"reward model {serving.reward_model_version}, which serves ({serving.heldout_accuracy:.3f})"
        )
    return ""


def _probe(context: StageContext, model: RewardModelRecord, gate: GateConfig) -> str:
    """Why the model may not serve, by pairs whose order is known; "" when it may, or without a probe."""
    if gate.probe is None:
        return ""
    with context.world.artifacts.local(gate.probe).open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if line.strip()]
    context.world.reward.load(model, make_current=False)
    chosen = context.world.reward.score(model, [(row["prompt"], row["chosen"]) for row in rows])
    rejected = context.world.reward.score(model, [(row["prompt"], row["rejected"]) for row in rows])
    accuracy = sum(c > r for c, r in zip(chosen, rejected, strict=True)) / max(len(rows), 1)
    if accuracy < gate.min_probe_accuracy:
        return f"probe accuracy {accuracy:.3f} is below {gate.min_probe_accuracy:g}: the sign may be flipped"
    return ""


def _with_gate(model: RewardModelRecord, reason: str) -> RewardModelRecord:
    return RewardModelRecord(**{**{n: getattr(model, n) for n in RewardModelRecord.__slots__}, "gate": reason})
