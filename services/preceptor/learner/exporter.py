"""The run's state as Prometheus gauges."""

from preceptor.common.telemetry import gauge
from preceptor.learner.monitor import RunMonitor

_step = gauge("preceptor_learner_step", "Steps done.", ("run_id", "kind"))
_total = gauge("preceptor_learner_total_steps", "Steps of the run.", ("run_id", "kind"))
_version = gauge("preceptor_learner_policy_version", "Newest policy version; -1 when none.", ("run_id", "kind"))
_groups = gauge("preceptor_learner_groups", "Prompt groups: issued = the sum of the others.", ("run_id", "state"))
_attempts = gauge("preceptor_learner_attempts", "Attempts: sent = the sum of the others.", ("run_id", "state"))
_metric = gauge("preceptor_learner_metric", "Metrics of the last step, under their own names.", ("run_id", "name"))


def export_metrics(monitor: RunMonitor) -> None:
    """Keeps the gauges at the monitor's snapshot from now on."""

    def update() -> None:
        run = monitor.snapshot
        _step.labels(run.run_id, run.kind).set(run.step)
        _total.labels(run.run_id, run.kind).set(run.total_steps)
        _version.labels(run.run_id, run.kind).set(run.policy_version)
        for gauge_, counts in ((_groups, run.groups), (_attempts, run.attempts)):
            for state, count in (counts or {}).items():
                gauge_.labels(run.run_id, state).set(count)
        for name, value in run.metrics.items():
            _metric.labels(run.run_id, name).set(value)

    monitor.subscribe(update)
