"""One job from start to end: server, run, summary. Called by __main__.

The ports answer before torch and transformers are imported, which takes seconds.
"""

import time
from pathlib import Path
from typing import Any

from preceptor.common.artifacts import ArtifactStore
from preceptor.common.errors import PreceptorError
from preceptor.common.telemetry import BusyClock, get_logger
from preceptor.learner.adapters.policy_store import PolicyStore
from preceptor.learner.adapters.run_files import LocalRunFiles, is_local, model_folder, run_folder
from preceptor.learner.background import BackgroundServer, Weights
from preceptor.learner.config import LearnerSettings
from preceptor.learner.exporter import export_metrics
from preceptor.learner.monitor import RunControl, RunMonitor, RunState, StepMetrics
from preceptor.learner.run_configs import DpoConfig, SftConfig
from preceptor.learner.run_configs.rl import RlConfig
from preceptor.learner.run_file import AnyRunConfig, PlainConfig
from preceptor.learner.server import WeightFeed
from preceptor.learner.types import Progress, ProgressCallback, RunResult

log = get_logger(__name__)
_PAUSE_POLL_S = 0.25


def run_job(
    config: AnyRunConfig,
    settings: LearnerSettings,
    monitor: RunMonitor,
    control: RunControl,
    progress: ProgressCallback | None,
) -> str:
    """Runs a job to its end; returns "finished", "stopped" or "interrupted". Raises PreceptorError if it fails."""
    store = ArtifactStore(settings.artifacts_url)
    weights = Weights(PolicyStore(store, config.run_id), WeightFeed()) if isinstance(config, RlConfig) else None
    server = BackgroundServer(settings, config.run_id, monitor, control, weights)
    server.start()
    export_metrics(monitor)
    try:
        _quieten_transformers()
        if weights is not None and isinstance(config, RlConfig):
            return _run_rl(config, settings, store, monitor, control, weights, progress, server.address)
        assert not isinstance(config, RlConfig)
        return _run_plain(config, settings, store, monitor, control, progress)
    except PreceptorError as error:
        log.error("run failed", error=error.message, reason=error.reason)
        monitor.update(state=RunState.FAILED, message=error.message)
        failure = {"run_id": config.run_id, "kind": config.kind, "outcome": "failed", "reason": error.reason}
        store.put_json(f"runs/{config.run_id}/summary.json", {**failure, "message": error.message})
        raise
    finally:
        control.ended()
        server.stop()


def _quieten_transformers() -> None:
    """Its bars and loading reports are not for a log."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]


def _run_rl(
    config: RlConfig,
    settings: LearnerSettings,
    store: ArtifactStore,
    monitor: RunMonitor,
    control: RunControl,
    weights: Weights,
    progress: ProgressCallback | None,
    address: str,
) -> str:
    from preceptor.learner.composition import build_rl

    built = build_rl(
        config, settings, store, monitor, control, weights.policies, weights.feed, progress, address=address
    )
    try:
        return built.run.run().value
    finally:
        built.close()


class PlainRunCallback:
    """Feeds monitor and progress bar from sft, reward and dpo runs, and carries requests the other way."""

    def __init__(self, monitor: RunMonitor, control: RunControl, progress: ProgressCallback | None) -> None:
        self._monitor = monitor
        self._control = control
        self._progress = progress
        self._busy = BusyClock("learner")
        self._busy.__enter__()  # these runs wait for nobody

    def __call__(self, progress: Progress) -> bool:
        """False asks the run to end after a checkpoint."""
        if progress.metrics:
            step = StepMetrics(progress.step, -1, progress.metrics, time.time())
            self._monitor.step_done(step, total_steps=progress.total_steps, busy_s=self._busy.total_s)
        if self._progress is not None:
            self._progress(progress)
        while self._control.paused and not self._control.leaving:
            self._monitor.update(state=RunState.PAUSED)
            self._control.wait_while_paused(_PAUSE_POLL_S)
        self._monitor.update(state=RunState.RUNNING, message=progress.phase)
        return not self._control.leaving

    @property
    def busy_s(self) -> float:
        return self._busy.total_s


def _run_plain(
    config: PlainConfig,
    settings: LearnerSettings,
    store: ArtifactStore,
    monitor: RunMonitor,
    control: RunControl,
    progress: ProgressCallback | None,
) -> str:
    folder = run_folder(settings.artifacts_url, settings.work_dir, config.run_id)
    files = LocalRunFiles(store, config.run_id, folder)
    callback = PlainRunCallback(monitor, control, progress)
    monitor.update(state=RunState.RUNNING)
    result = _call_training(_with_local_model(config, store), folder, callback)
    outcome = "finished" if not result.stopped else ("interrupted" if control.interrupted else "stopped")
    model = ""
    if not result.stopped:
        local = is_local(settings.artifacts_url)
        rel = f"runs/{config.run_id}/{result.model_dir}"
        model = store.path(rel) if local else store.put_dir(folder / result.model_dir, rel, replace=True)
    files.put_summary(
        {
            "run_id": config.run_id,
            "kind": config.kind,
            "outcome": outcome,
            "steps": result.steps,
            "model": model,
            "last_metrics": result.metrics,
            "busy_s": callback.busy_s,
        }
    )
    state = RunState.SUCCEEDED if outcome == "finished" else RunState.STOPPED
    monitor.update(state=state, step=result.steps, message=outcome)
    log.info("run ended", outcome=outcome, step=result.steps, model=model)
    return outcome


def _call_training(config: PlainConfig, folder: Path, callback: ProgressCallback) -> RunResult:
    if isinstance(config, SftConfig):
        from preceptor.learner.training.sft import run_sft

        return run_sft(config, folder, callback)
    if isinstance(config, DpoConfig):
        from preceptor.learner.training.dpo import run_dpo

        return run_dpo(config, folder, callback)
    from preceptor.learner.training.reward import run_reward

    return run_reward(config, folder, callback)


def _with_local_model(config: PlainConfig, store: ArtifactStore) -> PlainConfig:
    """model.path and reference may be artifact addresses."""
    changes: dict[str, Any] = {}
    if config.model.path is not None:
        local = str(model_folder(store, config.model.path, "model.path"))
        changes["model"] = config.model.model_copy(update={"path": local})
    if isinstance(config, DpoConfig) and config.reference is not None:
        changes["reference"] = str(model_folder(store, config.reference, "reference"))
    return config.model_copy(update=changes)
