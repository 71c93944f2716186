"""Builds an rl run out of its parts; called by __main__ alone. Imports torch, so only once the config is known good."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from blake3 import blake3

from preceptor.api.learner.v1 import weights_pb2
from preceptor.clients.reward import RewardClient
from preceptor.common.artifacts import ArtifactStore
from preceptor.common.errors import Unavailable
from preceptor.common.telemetry import BusyClock, get_logger
from preceptor.learner.adapters.collect_sender import CollectSender
from preceptor.learner.adapters.evaluation import EvaluationGateway
from preceptor.learner.adapters.policy_store import PolicyStore
from preceptor.learner.adapters.prompt_files import prompts_digest, read_prompts
from preceptor.learner.adapters.publisher import Publisher
from preceptor.learner.adapters.recording import Recorder, Recording, ReplayPump
from preceptor.learner.adapters.rescoring import RewardGateway, one_reward_model
from preceptor.learner.adapters.rollout_stream import RolloutStream
from preceptor.learner.adapters.run_checkpoints import LoadedCheckpoint, RunCheckpoints
from preceptor.learner.adapters.run_files import LocalRunFiles, model_folder, run_folder
from preceptor.learner.adapters.run_history import RunHistory
from preceptor.learner.adapters.transports import GrpcTransport, ShmTransport, Transport
from preceptor.learner.adapters.weight_senders import WeightSenders
from preceptor.learner.algorithms.registry import algorithm_class
from preceptor.learner.config import LearnerSettings
from preceptor.learner.distributed.leading import LeadingTrainer, summon
from preceptor.learner.evaluation.evaluator import Evaluator
from preceptor.learner.models.engine import Engine
from preceptor.learner.models.forward import pick_device
from preceptor.learner.monitor import RunControl, RunMonitor, StepMetrics
from preceptor.learner.phases import PhaseClock
from preceptor.learner.ports import Observer
from preceptor.learner.pump.attempts import AttemptLimits
from preceptor.learner.pump.credit import Credit
from preceptor.learner.pump.in_flight import InFlightLimit, LimitBounds
from preceptor.learner.pump.ledger import Ledger
from preceptor.learner.pump.lineage import PolicyLineage
from preceptor.learner.pump.ports import PumpSettings
from preceptor.learner.pump.prompts import PromptOrder
from preceptor.learner.pump.pump import Pump
from preceptor.learner.pump.results import Batch
from preceptor.learner.pump.staleness import DropOlderThan, StalenessPolicy, WaitForAll, WeightDown
from preceptor.learner.run_configs.rl import RlConfig
from preceptor.learner.run_parts import RunParts
from preceptor.learner.server import WeightFeed
from preceptor.learner.service import RlRun
from preceptor.learner.settings import LiveSettings
from preceptor.learner.training.export import prepare
from preceptor.learner.training.metrics_log import MetricsLog, read_metrics
from preceptor.learner.training.perf import PerfMeter
from preceptor.learner.training.profiling import StepProfiler
from preceptor.learner.training.rl_trainer import RlTrainer
from preceptor.learner.types import ProgressCallback

log = get_logger(__name__)
_FIXED = {
    "seed",
    "model",
    "lora",
    "frozen",
    "reference",
    "critic_init",
    "batch_size",
    "group_size",
    "algorithm",
}  # may not change within a run
_ABANDONED_BATCHES = 2  # so many batches' worth of groups in a row without one success end the run


@dataclass(slots=True)
class BuiltRun:
    """The run, how its connections are closed, and how the other ranks' trainers are let go when it went well."""

    run: RlRun
    close: Callable[[], None]
    dismiss: Callable[[], None]


def build_rl(
    config: RlConfig,
    settings: LearnerSettings,
    store: ArtifactStore,
    monitor: RunMonitor,
    control: RunControl,
    policies: PolicyStore,
    feed: WeightFeed,
    progress: ProgressCallback | None = None,
    *,
    address: str = "",
) -> BuiltRun:
    """Loads models, prompts, reward and the last checkpoint.

    address: where this process's WeightService is reached.

    Raises:
        InvalidInput, NotFound: a file or directory of the config is missing or broken.
        Unavailable: the reward service does not answer.
    """
    folder = run_folder(settings.artifacts_url, settings.work_dir, config.run_id)
    files = LocalRunFiles(store, config.run_id, folder)
    files.clear_scratch()
    prompts = read_prompts(config.prompts)
    order = PromptOrder(prompts, config.seed)
    checkpoints = RunCheckpoints(store, config.run_id, config.checkpoint, scratch=files.scratch)
    checkpoint = checkpoints.load()
    engine = prepare(config)
    trainer = _leading(config, store, engine)
    link = _RunLink()
    sources = (
        _live(config, settings, store, order, checkpoint, link)
        if config.replay is None
        else _replayed(config, checkpoint, config.replay)
    )
    pump = sources.pump
    history = RunHistory(folder)
    profiler = StepProfiler(config.profile, folder)
    parts = RunParts(
        trainer=trainer,
        pump=pump,
        policies=policies,
        publishing=_publisher(config, settings, policies, feed, history, link, address),
        checkpoints=checkpoints,
        sink=MetricsLog(folder, config=config),
        history=history,
        files=files,
        one_reward_model=sources.one_reward_model,
        retire_stream=sources.retire,
        past_steps=lambda: _past_steps(folder),
        fingerprint=_fingerprint(config, prompts_digest(prompts)) | sources.fingerprint,
        reconfigure=lambda changed: _reconfigure(changed, trainer, pump),
        around_training=profiler,
        observers=_observers(config, settings, folder, pump, profiler, trainer),
    )
    phases = PhaseClock(BusyClock("learner"))
    run = RlRun(config, parts, monitor, control, phases, checkpoint=checkpoint, progress=progress)
    link.run, link.pump = run, pump
    dismiss = trainer.dismiss if isinstance(trainer, LeadingTrainer) else lambda: None
    return BuiltRun(run, sources.close, dismiss)


@dataclass(slots=True)
class _Sources:
    """Where batches come from. fingerprint: what a checkpoint must agree with."""

    pump: Pump | ReplayPump
    one_reward_model: Callable[[Batch], Batch] = lambda batch: batch
    retire: Callable[[], None] = lambda: None
    close: Callable[[], None] = lambda: None
    fingerprint: dict[str, Any] = field(default_factory=dict)


def _live(
    config: RlConfig,
    settings: LearnerSettings,
    store: ArtifactStore,
    order: PromptOrder,
    checkpoint: LoadedCheckpoint | None,
    link: "_RunLink",
) -> _Sources:
    gateway = RewardGateway(RewardClient(settings.reward_address), config, order)
    gateway.load(store)
    stream = RolloutStream(settings.redis_url, config.run_id, group_size=config.group_size)
    sender = CollectSender(config, order, settings.redis_url)
    return _Sources(
        build_pump(_as_changed(config, checkpoint), stream, sender, checkpoint),
        one_reward_model=lambda batch: link.one_reward_model(batch, gateway),
        retire=lambda: _quietly(stream.retire),
        close=lambda: _close(gateway, sender, stream),
    )


def _as_changed(config: RlConfig, checkpoint: LoadedCheckpoint | None) -> RlConfig:
    """With the settings that were changed before the checkpoint: the pump's bounds are those of what is in flight."""
    live = LiveSettings(config)
    live.restore({} if checkpoint is None else checkpoint.state.get("settings", {}))
    return live.config


def _replayed(config: RlConfig, checkpoint: LoadedCheckpoint | None, path: str) -> _Sources:
    recording = Recording(Path(path))
    state = None if checkpoint is None else checkpoint.state["pump"]
    digest = blake3(recording.path.read_bytes()).hexdigest()
    return _Sources(ReplayPump(recording, config.run_id, state), fingerprint={"replay": digest})


def _observers(
    config: RlConfig,
    settings: LearnerSettings,
    folder: Path,
    pump: Pump | ReplayPump,
    profiler: StepProfiler,
    trainer: RlTrainer | LeadingTrainer,
) -> list[Observer]:
    epochs, device = config.update.epochs, pick_device(config.device)
    perf = PerfMeter.of_models(trainer.models, epochs=epochs, device=device, dtype=config.dtype)
    observers: list[Observer] = [perf, profiler]
    if config.record is not None:
        observers.append(Recorder(Path(config.record), pump.lineage))
    if config.evaluation is not None:
        gateway = EvaluationGateway(config, settings.redis_url, settings.reward_address)
        held_out = read_prompts(config.evaluation.prompts)
        observers.append(
            Evaluator(config.evaluation, held_out, folder, ask=gateway.ask, score=gateway.score, close=gateway.close)
        )
    return observers


def _close(*parts: RewardGateway | CollectSender | RolloutStream) -> None:
    for part in parts:
        part.close()


def _transports(config: RlConfig, settings: LearnerSettings, address: str) -> list[Transport]:
    made: list[Transport] = []
    for name in config.publish.transports:
        if name == "shm" and Path("/dev/shm").is_dir():
            made.append(ShmTransport(config.run_id))
        elif name == "grpc" and address:
            made.append(GrpcTransport(address, WeightSenders(settings, config.run_id, settings.senders)))
    return made


def _publisher(
    config: RlConfig,
    settings: LearnerSettings,
    policies: PolicyStore,
    feed: WeightFeed,
    history: RunHistory,
    link: "_RunLink",
    address: str,
) -> Publisher:
    def announce(manifest: weights_pb2.WeightManifest) -> None:
        history.published(manifest)
        feed.announce(manifest)

    transports = _transports(config, settings, address)
    return Publisher(policies, config.publish, announce=announce, published=link.published, transports=transports)


class _RunLink:
    """Ties the publisher and the reward gateway, which are made first, to the run and its pump."""

    run: RlRun
    pump: Pump | ReplayPump

    def published(self, version: int, seconds: float) -> None:
        self.pump.published(version)
        step = self.pump.lineage.step_of(version)
        self.run.totals.published(version, self.run.step if step is None else step, seconds)

    def one_reward_model(self, batch: Batch, gateway: RewardGateway) -> Batch:
        groups = one_reward_model(list(batch.groups), gateway.rescore)
        changed = sum(new is not old for new, old in zip(groups, batch.groups, strict=True))
        self.run.totals.rescored_groups += changed
        return replace(batch, groups=tuple(groups)) if changed else batch


def _quietly(action: Callable[[], None]) -> None:
    """For what a finished run can do without."""
    try:
        action()
    except Unavailable as error:
        log.warning("left undone", error=error.message)


def _past_steps(folder: Path) -> list[StepMetrics]:
    """What metrics.jsonl holds; null, which stood for NaN, is left out."""
    return [
        StepMetrics(
            row["step"],
            int(row["metrics"].get("policy_version", -1)),
            {name: value for name, value in row["metrics"].items() if value is not None},
            row["time"],
        )
        for row in read_metrics(folder)
    ]


def _leading(config: RlConfig, store: ArtifactStore, engine: Engine) -> RlTrainer | LeadingTrainer:
    if engine.ranks.size == 1:
        return build_trainer(config, store, engine)
    summon(engine.ranks)
    return LeadingTrainer(build_trainer(config, store, engine), engine.ranks)


def build_trainer(config: RlConfig, store: ArtifactStore, engine: Engine) -> RlTrainer:
    """Loads the models of an rl run; every rank does so alike.

    Raises:
        InvalidInput: a model directory is missing or broken.
    """
    model = model_folder(store, config.model, "model")
    reference = model if config.reference is None else model_folder(store, config.reference, "reference")
    critic = None if config.critic_init is None else model_folder(store, config.critic_init, "critic_init")
    return RlTrainer(
        algorithm_class(config.algorithm)(config.update),
        model,
        reference_dir=reference,
        critic_dir=critic,
        seed=config.seed,
        engine=engine,
        lora=config.lora,
        frozen=config.frozen,
    )


def build_pump(
    config: RlConfig, stream: RolloutStream, sender: CollectSender, checkpoint: LoadedCheckpoint | None = None
) -> Pump:
    """Returns the run's pump, which goes on from a checkpoint where there is one."""
    credit = _credit(config)
    limits = AttemptLimits(config.attempt_deadline_s, config.max_attempts, config.retry_backoff_s)
    ledger = Ledger(limits, max_adopted_groups=credit.max_unacknowledged_groups)
    lineage = PolicyLineage()
    if checkpoint is not None:
        ledger.restore(checkpoint.state["pump"]["ledger"])
        lineage = PolicyLineage.restored(checkpoint.state["pump"]["lineage"])
    settings = PumpSettings(
        run_id=config.run_id,
        groups_per_batch=config.groups_per_batch,
        group_size=config.group_size,
        total_steps=config.total_steps,
        straggler_factor=config.straggler_factor,
        max_consecutive_abandoned=max(4, _ABANDONED_BATCHES * config.groups_per_batch),
    )
    limit = _in_flight_limit(config, credit)
    if checkpoint is not None:
        limit.restore(checkpoint.state["pump"].get("in_flight", {}))
    pump = Pump(settings, credit, ledger, lineage, _staleness(config), stream, sender, limit=limit)
    if checkpoint is not None:
        pump.counts.update(checkpoint.state["pump"]["counts"])
    return pump


def _reconfigure(config: RlConfig, trainer: RlTrainer | LeadingTrainer, pump: Pump | ReplayPump) -> None:
    trainer.reconfigure(config.update)
    if isinstance(pump, ReplayPump):
        return
    credit = _credit(config)
    pump.retune(credit, _staleness(config), _in_flight_limit(config, credit))


def _credit(config: RlConfig) -> Credit:
    return Credit(config.batch_size, config.group_size, config.max_staleness, config.checkpoint.every_steps)


def _staleness(config: RlConfig) -> StalenessPolicy:
    if config.staleness == "down_weight":
        return WeightDown(config.max_staleness, config.staleness_decay)
    return DropOlderThan(config.max_staleness) if config.staleness == "drop" else WaitForAll(config.max_staleness)


def _in_flight_limit(config: RlConfig, credit: Credit) -> InFlightLimit:
    if config.in_flight == "fixed":
        return InFlightLimit.fixed(credit.issue_limit)
    bounds = LimitBounds(credit.batch_size, credit.issue_limit, step=credit.group_size)
    return InFlightLimit(bounds, max_wait_share=config.max_wait_share)


def _fingerprint(config: RlConfig, prompts: str) -> dict[str, Any]:
    return {**config.model_dump(mode="json", include=_FIXED), "prompts": prompts}
