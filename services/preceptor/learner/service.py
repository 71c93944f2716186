"""The rl run as a list of named steps. Knows no transport: everything it touches comes in through RunParts."""

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from preceptor.common.errors import FailedPrecondition, InvalidInput
from preceptor.common.telemetry import get_logger
from preceptor.learner.guards.self_check import self_check
from preceptor.learner.guards.watch import Guards, worst
from preceptor.learner.monitor import RunControl, RunMonitor, RunState, StepMetrics
from preceptor.learner.phases import WAIT, PhaseClock
from preceptor.learner.ports import Checkpoint, PendingCheckpoint
from preceptor.learner.pump.results import Batch
from preceptor.learner.pump.staleness import staleness_by_length
from preceptor.learner.run_configs.rl import RlConfig
from preceptor.learner.run_parts import Outcome, RunParts
from preceptor.learner.settings import LiveSettings
from preceptor.learner.totals import RunTotals
from preceptor.learner.types import Progress, ProgressCallback, StepResult

log = get_logger(__name__)
_POLL_S = 0.25  # how soon requests are seen while the run waits for rollouts


class _RollBackError(Exception):
    """Carries a guard's finding out of the step."""


@dataclass(frozen=True, slots=True)
class _Pending:
    """A checkpoint on its way; settled: stream entries that may go once it is durable; answers: requests for it."""

    checkpoint: PendingCheckpoint
    settled: list[str]
    answers: int
    step: int


class RlRun:
    """Collect, train, publish, report, checkpoint (which acknowledges); until the steps are done or it must end."""

    def __init__(
        self,
        config: RlConfig,
        parts: RunParts,
        monitor: RunMonitor,
        control: RunControl,
        phases: PhaseClock,
        *,
        checkpoint: Checkpoint | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """checkpoint: to go on from; the pump given has been restored from it already."""
        self._settings = LiveSettings(config)
        self._guards = Guards(config.guards)
        self._parts = parts
        self._monitor = monitor
        self._control = control
        self._phases = phases
        self._checkpoint_to_load = checkpoint
        self._progress = progress or (lambda _: None)
        self._saved_step = -1
        self._pending: _Pending | None = None
        self.totals = RunTotals()

    @property
    def _config(self) -> RlConfig:
        return self._settings.config

    @property
    def step(self) -> int:
        """Updates done in the present line."""
        return self.totals.step

    def run(self) -> Outcome:
        """Runs to the end. Raises PreceptorError when it cannot go on; the last checkpoint then stands."""
        self._start()
        try:
            while self.step < self._config.total_steps:
                batch = self._collect()
                if batch is None:
                    break
                result = self._train(batch)
                self._publish()
                self._report(batch, result)
                self._checkpoint_if_due()
            return self._interrupt() if self._control.interrupted else self._finish()
        except _RollBackError as error:
            return self._roll_back(str(error))
        finally:
            for observer in self._parts.observers:
                observer.close()
            self._parts.pump.stop()
            self._parts.publishing.close()
            self._parts.checkpoints.close()
            self._parts.sink.close()
            self._parts.history.close()

    # -- the steps, in order -------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._checkpoint_to_load is not None:
            self._restore(self._checkpoint_to_load)
        self._parts.sink.rewind(self.step)
        for observer in self._parts.observers:
            observer.rewind(self.step)
        self._monitor.preload(self._parts.past_steps())
        self._parts.publishing.pin(self._parts.checkpoints.policy_versions())
        self._publish_start()
        if self._checkpoint_to_load is None:
            self._checkpoint()
            self._settle_checkpoint()
        self._parts.pump.start()
        for observer in self._parts.observers:
            observer.started(self.step, self._version)
        self._monitor.update(
            state=RunState.RUNNING, step=self.step, total_steps=self._config.total_steps, busy_s=self._phases.busy_s
        )
        log.info("run started", step=self.step, total_steps=self._config.total_steps, version=self._version)

    def _collect(self) -> Batch | None:
        """The next batch, scored by one reward model version; None if the run or the process shall end."""
        while True:
            self._obey()
            if self._control.leaving:
                return None
            with self._phases(WAIT):
                batch = self._parts.pump.take(_POLL_S)
            if batch is not None:
                with self._phases("rescore"):
                    return self._parts.one_reward_model(batch)
            if self._parts.pump.needs_acknowledgement and self._pending is None:
                log.info("checkpoint, so that the stream can be acknowledged", step=self.step)
                self._checkpoint()

    def _train(self, batch: Batch) -> StepResult:
        if self._config.self_check.enabled and self.step == 0:
            self._self_check(batch)
        critic_only = self.totals.critic_only(
            batch.groups[0].reward_model_version, self._config.critic_warmup_steps_after_switch
        )
        with self._phases("train"), self._parts.around_training(self.step + 1):
            result = self._parts.trainer.step(batch.experiences, policy_version=self._version, critic_only=critic_only)
        if result.skipped:
            log.warning("part of the update was skipped", step=self.step + 1, reasons=result.reasons)
            self._guards.skipped(self.step + 1, result.reasons)
        metrics = {
            **result.metrics,
            **staleness_by_length(batch.experiences, self._parts.pump.lineage),
            "critic_only": float(critic_only),
            "reward_model_version": float(batch.groups[0].reward_model_version),
        }
        metrics |= self._guard(batch, metrics)
        self._parts.history.trained(self.step + 1, self._version, batch.issue_indexes)
        self._parts.pump.trained(batch, self._parts.policies.reserve())
        self.totals.step_done(batch, metrics)
        return replace(result, metrics=metrics)

    def _publish(self) -> None:
        with self._phases("publish"):
            version = self._version
            staged = self._parts.files.staging(f"policy-{version:08d}")
            self._parts.trainer.export(staged)
            self._parts.publishing.submit(version, staged, self.step)
            if self._config.max_staleness == 0:
                self._parts.publishing.flush()

    def _checkpoint_if_due(self) -> None:
        every = self._config.checkpoint.every_steps
        if self.step % every == 0 or self._control.checkpoint_wanted:
            self._checkpoint()

    def _report(self, batch: Batch, result: StepResult) -> None:
        seconds = self._phases.next_step()
        metrics = {
            **result.metrics,
            **self._parts.pump.gauges(),
            **{f"phase/{phase}_s": value for phase, value in seconds.items()},
            "phase/all_s": sum(seconds.values()),
            "phase/samples_per_second": len(batch.experiences) / max(sum(seconds.values()), 1e-9),
            "policy_version": float(self._version),
        }
        for observer in self._parts.observers:
            metrics |= observer.step_done(self.step, self._version, batch, metrics)
        self.totals.last_metrics |= {name: value for name, value in metrics.items() if name.startswith("eval/")}
        if self.step % self._config.log_every_steps == 0 or self.step == self._config.total_steps:
            self._parts.sink.write(self.step, metrics)
        self._monitor.step_done(
            StepMetrics(self.step, self._version, metrics, time.time()),
            reward_model_version=batch.groups[0].reward_model_version,
            busy_s=self._phases.busy_s,
            warnings=self._guards.sentences(self.step),
            **self._counts(),
        )
        self._progress(Progress("train", self.step, self._config.total_steps, metrics))
        log.info("step done", step=self.step, version=self._version, **_told(metrics))

    # -- ends ----------------------------------------------------------------------------------------------------

    def _interrupt(self) -> Outcome:
        """SIGTERM: what was trained is kept; the attempts in flight stay in the ledger."""
        self._parts.pump.stop()
        if self._saved_step != self.step:
            self._checkpoint()
        self._settle_checkpoint()
        self._parts.files.put_summary(self._summary(Outcome.INTERRUPTED))
        self._monitor.update(state=RunState.STOPPED, message="interrupted; starting again goes on", **self._counts())
        return Outcome.INTERRUPTED

    def _roll_back(self, reason: str) -> Outcome:
        self._settle_checkpoint()
        self._parts.history.rolled_back(self.step + 1, reason)
        self._monitor.update(state=RunState.STARTING, message=f"rolled back after step {self.step + 1}: {reason}")
        return Outcome.ROLLED_BACK

    def _finish(self) -> Outcome:
        """The end of the run: accounting closed, model exported, last checkpoint durable, stream removed."""
        reason = self._control.stop_reason
        outcome = Outcome.FINISHED if reason is None else Outcome.STOPPED
        self._parts.pump.stop()
        self._parts.publishing.flush()
        entries = self._parts.pump.close()
        with self._phases("export"):
            staged = self._parts.files.staging("model")
            self._parts.trainer.export(staged)
            model = self._parts.files.put_model(staged)
        self._checkpoint(acknowledge=False)
        self._parts.pump.acknowledge(entries)
        self._parts.retire_stream()
        self._parts.files.put_summary({**self._summary(outcome), "model": model})
        state = RunState.SUCCEEDED if outcome is Outcome.FINISHED else RunState.STOPPED
        self._monitor.update(state=state, message=reason or "", **self._counts())
        log.info("run ended", outcome=outcome.value, step=self.step, version=self._version)
        return outcome

    # -- parts of the steps --------------------------------------------------------------------------------------

    @property
    def _version(self) -> int:
        return self._parts.pump.lineage.version

    def _restore(self, checkpoint: Checkpoint) -> None:
        found = checkpoint.state["fingerprint"]
        changed = sorted(key for key, value in self._parts.fingerprint.items() if found.get(key) != value)
        if changed:
            raise FailedPrecondition(
                f"run {self._config.run_id} has a checkpoint with another {', '.join(changed)}; "
                "take another run_id, or delete the run's folder to start again",
                field=changed[0],
            )
        self._parts.trainer.load(checkpoint.trainer)
        self.totals = RunTotals.restored(checkpoint.state["totals"])
        self._phases.total_s.update(checkpoint.state["phases"])
        self._guards.restore(checkpoint.state.get("guards", {}))
        if self._settings.restore(checkpoint.state.get("settings", {})):
            self._parts.reconfigure(self._config)
        self._saved_step = self.step
        self._parts.history.restored(self.step)
        log.info("restored", step=self.step, policy_version=self._version)

    def _publish_start(self) -> None:
        """Makes the learner's weights the newest version, under a new number unless they already are."""
        policies, version = self._parts.policies, self._version
        with self._phases("publish"):
            staged = self._parts.files.staging("policy-start")
            self._parts.trainer.export(staged)
            if version == policies.newest == policies.reserved and policies.same_content(version, staged):
                self._parts.pump.published(version)
                return
            number = policies.reserve()
            if number > version:
                self._parts.pump.republish(number)
            self._parts.publishing.submit(number, staged, self.step)
            self._parts.publishing.flush()

    def _obey(self) -> None:
        """Requests that are answered between two steps, and a checkpoint that has become durable."""
        self._settle_checkpoint(wait=False)
        self._change_settings()
        if self._control.checkpoint_wanted:
            self._checkpoint()
        if not self._control.paused:
            return
        self._monitor.update(state=RunState.PAUSED)
        while self._control.paused and not self._control.leaving:
            self._control.wait_while_paused(_POLL_S)
            self._change_settings()
            if self._control.checkpoint_wanted:
                self._checkpoint()
        self._monitor.update(state=RunState.RUNNING)

    def _change_settings(self) -> None:
        for request in self._control.settings_requests():
            try:
                self._settings.apply(request.values)
            except InvalidInput as error:
                request.failed(error)
                continue
            if request.values:
                self._parts.reconfigure(self._config)
                self._parts.history.changed(self.step, request.values)
                log.info("settings changed", step=self.step, **request.values)
                self._checkpoint()
                self._settle_checkpoint()
            request.done(self.step, self._settings.texts())

    def _self_check(self, batch: Batch) -> None:
        with self._phases("self_check"):
            scratch = self._parts.files.staging("self-check")
            metrics = self_check(
                self._parts.trainer,
                batch.experiences,
                scratch,
                policy_version=self._version,
                config=self._config.self_check,
            )
        log.info("self-check passed", **_told(metrics))

    def _guard(self, batch: Batch, metrics: dict[str, float]) -> dict[str, float]:
        """What the guards measured; a finding may end the step before its version is published."""
        found, measured = self._guards.observe(self.step + 1, metrics, batch.experiences)
        for finding in found:
            log.warning(
                "guard raised", step=self.step + 1, guard=finding.guard, policy=finding.policy, found=finding.message
            )
        finding = worst(found)
        if finding is not None and finding.policy == "stop":
            message = f"stopped at step {self.step + 1} by a guard: {finding.message}; the last checkpoint stands"
            raise FailedPrecondition(message, reason="GUARD_STOPPED", field=f"guards.{finding.guard}")
        if finding is not None and finding.policy == "roll_back":
            self._parts.pump.acknowledge([group.entry_id for group in batch.groups])
            raise _RollBackError(finding.message)
        return measured

    def _checkpoint(self, *, acknowledge: bool = True) -> None:
        """Begins one; what it contains is acknowledged once it is durable."""
        self._settle_checkpoint()
        with self._phases("checkpoint"):
            answers = self._control.checkpoint_wanted
            self._parts.publishing.flush()
            pump_state, settled = self._parts.pump.snapshot()
            state = {
                "fingerprint": self._parts.fingerprint,
                "pump": pump_state,
                "totals": self.totals.snapshot(),
                "phases": dict(self._phases.total_s),
                "guards": self._guards.snapshot(),
                "settings": self._settings.snapshot(),
            }
            pending = self._parts.checkpoints.begin(
                self.step, self._parts.trainer.begin_save, state, self._version, self.totals.last_metrics
            )
            self._saved_step = self.step
            self._parts.publishing.pin(self._parts.checkpoints.policy_versions() | {self._version})
            self._pending = _Pending(pending, settled if acknowledge else [], answers, self.step)
        if answers or not acknowledge:
            self._settle_checkpoint()

    def _settle_checkpoint(self, *, wait: bool = True) -> None:
        """Acknowledges what the last checkpoint contains, once it is durable."""
        pending = self._pending
        if pending is None or not (wait or pending.checkpoint.done):
            return
        with self._phases("checkpoint"):
            uri = pending.checkpoint.wait()
            self._pending = None
            self._parts.publishing.pin(self._parts.checkpoints.policy_versions())
            self._parts.pump.acknowledge(pending.settled)
            self._control.checkpoint_done(pending.answers, pending.step, uri)

    def _counts(self) -> dict[str, Any]:
        accounting = self._parts.pump.accounting
        accounting.check()
        return {
            "groups": asdict(accounting.groups),
            "attempts": asdict(accounting.attempts),
            "policy_version": self._version,
        }

    def _summary(self, outcome: Outcome) -> dict[str, Any]:
        return {
            "run_id": self._config.run_id,
            "kind": "rl",
            "outcome": outcome.value,
            **self._counts(),
            **self.totals.summary(),
            "results": {name: int(value) for name, value in self._parts.pump.counts.items()},
            "busy_s": self._phases.busy_s,
            "phase_s": dict(self._phases.total_s),
        }


def _told(metrics: dict[str, float]) -> dict[str, float]:
    """The few metrics worth a place in the log line of a step."""
    names = {"objective/scores": "score", "objective/kl": "kl", "staleness/mean": "staleness", "phase/all_s": "seconds"}
    return {short: round(metrics[name], 4) for name, short in names.items() if name in metrics}
