"""One job from start to end: server, run, summary. Called by __main__.

The ports answer before torch and transformers are imported, which takes seconds.
"""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preceptor.common.artifacts import ArtifactStore
from preceptor.common.durable import write_durably
from preceptor.common.errors import FailedPrecondition, InvalidInput, PreceptorError
from preceptor.common.telemetry import BusyClock, get_logger
from preceptor.learner.adapters.policy_store import PolicyStore
from preceptor.learner.adapters.run_files import LocalRunFiles, is_local, model_folder, run_folder
from preceptor.learner.background import BackgroundServer, Weights
from preceptor.learner.config import LearnerSettings
from preceptor.learner.exporter import export_metrics
from preceptor.learner.monitor import RunControl, RunMonitor, RunState, SettingsRequest, StepMetrics
from preceptor.learner.run_configs import DpoConfig, SftConfig
from preceptor.learner.run_configs.rl import RlConfig
from preceptor.learner.run_file import AnyRunConfig, PlainConfig
from preceptor.learner.run_parts import Outcome
from preceptor.learner.server import WeightFeed
from preceptor.learner.settings import LiveSettings
from preceptor.learner.types import Progress, ProgressCallback, RunResult, Wishes

if TYPE_CHECKING:
    from preceptor.learner.distributed.ranks import Ranks

log = get_logger(__name__)
_PAUSE_POLL_S = 0.25
_BETWEEN_STEPS = ("train", "checkpoint")  # phases in which a run does what it is asked for


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


def follow_job(config: AnyRunConfig, settings: LearnerSettings) -> None:
    """The part in a job of every rank but the first: no services, no metrics, no files but its own shards."""
    store = ArtifactStore(settings.artifacts_url)
    _quieten_transformers()
    if not isinstance(config, RlConfig):
        folder = run_folder(settings.artifacts_url, settings.work_dir, config.run_id)
        _call_training(_with_local_model(config, store), folder, None)
        return
    from preceptor.learner.composition import build_trainer
    from preceptor.learner.distributed.leading import follow
    from preceptor.learner.training.export import prepare

    follow(_ranks(config), lambda: build_trainer(config, store, prepare(config)))


def _ranks(config: RlConfig) -> "Ranks":
    from preceptor.learner.distributed.ranks import this_rank
    from preceptor.learner.models.forward import pick_device

    return this_rank(pick_device(config.device))


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
    from preceptor.learner.distributed.leading import release

    for _ in range(config.guards.max_roll_backs + 1):
        built = build_rl(
            config, settings, store, monitor, control, weights.policies, weights.feed, progress, address=address
        )
        try:
            outcome = built.run.run()
            built.dismiss()
        finally:
            built.close()
        if outcome is not Outcome.ROLLED_BACK:
            release(_ranks(config))
            return outcome.value
    raise FailedPrecondition(
        f"rolled back more than {config.guards.max_roll_backs} times (guards.max_roll_backs); the last reason: "
        f"{monitor.snapshot.message}",
        reason="GUARD_STOPPED",
        field="guards",
    )


class PlainRunCallback:
    """Feeds monitor and progress bar from sft, reward and dpo runs, and carries requests the other way."""

    def __init__(
        self,
        config: PlainConfig,
        folder: Path,
        monitor: RunMonitor,
        control: RunControl,
        progress: ProgressCallback | None,
    ) -> None:
        self._settings = LiveSettings(config)
        self._changed = folder / "settings.json"
        if self._changed.is_file():
            self._settings.restore(json.loads(self._changed.read_bytes()))
        self._checkpoints = folder / "checkpoints"
        self._monitor = monitor
        self._control = control
        self._progress = progress
        self._asked: list[SettingsRequest] = []  # whose changes the next checkpoint makes durable
        self._answers = 0  # requests for a checkpoint that the next one answers
        self._busy = BusyClock("learner")
        self._busy.__enter__()  # these runs wait for nobody

    def __call__(self, progress: Progress) -> Wishes:
        """Asks the run to end, to write a checkpoint, to go on with another learning rate."""
        if progress.metrics:
            step = StepMetrics(progress.step, -1, progress.metrics, time.time())
            self._monitor.step_done(step, total_steps=progress.total_steps, busy_s=self._busy.total_s)
        if self._progress is not None:
            self._progress(progress)
        if progress.phase == "checkpoint":
            self._answer(progress.step)
        if progress.phase not in _BETWEEN_STEPS:
            return Wishes(stop=self._control.leaving)
        wishes = self._wishes(progress)
        while self._control.paused and not self._control.leaving and not wishes.checkpoint:
            self._monitor.update(state=RunState.PAUSED)
            self._control.wait_while_paused(_PAUSE_POLL_S)
            wishes = self._wishes(progress)
        self._monitor.update(state=RunState.RUNNING, message=progress.phase)
        return replace(wishes, stop=self._control.leaving)

    def _wishes(self, progress: Progress) -> Wishes:
        for request in self._control.settings_requests():
            try:
                self._settings.apply(request.values)
            except InvalidInput as error:
                request.failed(error)
                continue
            if request.values:
                self._asked.append(request)
            else:
                request.done(progress.step, self._settings.texts())
        self._answers = self._control.checkpoint_wanted
        rate = self._settings.config.optimizer.learning_rate
        wanted = bool(self._answers or self._asked)
        return Wishes(checkpoint=wanted, learning_rate=rate if self._asked else None)

    def _answer(self, step: int) -> None:
        uri = (self._checkpoints / f"step-{step:08d}").absolute().as_uri()
        self._control.checkpoint_done(self._answers, step, uri)
        if self._asked:
            write_durably(self._changed, json.dumps(self._settings.snapshot()).encode())
        for request in self._asked:
            request.done(step, self._settings.texts())
        self._answers, self._asked = 0, []

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
    callback = PlainRunCallback(config, folder, monitor, control, progress)
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
