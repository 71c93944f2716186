"""Running one learner job to its end."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import yaml

from preceptor.conductor.stages.context import StageContext, StageError
from preceptor.conductor.types import JobSpec, JobState, JobStatus, LearnerStatus, RunRecord


def ensure_run(
    context: StageContext,
    run_id: str,
    kind: str,
    config: dict[str, Any],
    *,
    initial_model_uri: str,
    reward_model_version: int | None = None,
) -> RunRecord:
    """Stores the run and its config; the first stored config stays."""
    text = yaml.safe_dump({**config, "run_id": run_id, "kind": kind}, sort_keys=False)
    run = RunRecord(
        run_id=run_id,
        loop_id=context.loop_id,
        kind=kind,
        state="pending",
        attempt=0,
        config_yaml=text,
        output_uri=context.world.artifacts.path(f"runs/{run_id}"),
        created_at=datetime.now(UTC),
    )
    stored = context.world.loops.add_run(run, initial_model_uri, reward_model_version)
    context.world.loops.set_stage(context.loop_id, context.stage.name, run_id=run_id)
    return stored


def start_job(context: StageContext, run: RunRecord) -> None:
    """Writes the config file and starts the job; both may have happened before."""
    config = context.world.artifacts.put_text(f"loops/{context.loop_id}/{run.run_id}.yaml", run.config_yaml)
    context.world.launcher.start(JobSpec(run.run_id, run.kind, config))
    context.world.loops.set_run(run.run_id, state=JobState.RUNNING.value)


def poll_job(context: StageContext, run_id: str) -> JobStatus:
    """The job's state, stored; a job that was lost with its supervisor is started again.

    Raises:
        StageError: it ended with an error; the message holds the end of its log.
    """
    job = context.world.launcher.status(run_id)
    if job.state is JobState.ABSENT:
        run = context.world.loops.find_run(run_id)
        if run is not None:
            start_job(context, run)
        return job
    context.world.loops.set_run(run_id, state=job.state.value, pid=job.pid)
    if job.state is JobState.RUNNING:
        context.tell_job(job.message)
    if job.state is JobState.FAILED:
        context.world.launcher.forget(run_id)
        raise StageError(f"run {run_id} failed: {job.message}", reason="RUN_FAILED")
    return job


def finish_job(context: StageContext, run_id: str) -> None:
    """Takes a job that succeeded out of the launcher's hands."""
    context.world.loops.set_run(run_id, state=JobState.SUCCEEDED.value)
    context.world.launcher.forget(run_id)


def run_to_end(context: StageContext, run: RunRecord, on_step: Callable[[LearnerStatus], None] | None = None) -> None:
    """Starts the job and returns once it has succeeded; reports its progress as the stage's."""
    if run.state == JobState.SUCCEEDED.value:
        return
    start_job(context, run)
    last_step = -1
    while poll_job(context, run.run_id).state is not JobState.SUCCEEDED:
        status = context.world.learners.status(run.run_id)
        if status is not None and status.step != last_step:
            last_step = status.step
            report_step(context, status)
            if on_step is not None:
                on_step(status)
        context.wait()
    finish_job(context, run.run_id)


def report_step(context: StageContext, status: LearnerStatus, target: int = 0) -> None:
    """Stores a learner's step as the stage's progress, with the step's metrics as an event."""
    total = target or status.total_steps
    context.progress(status.step / total if total else 0.0, f"step {status.step} of {total}")
    values = {**status.metrics, "step": float(status.step), "total_steps": float(total)}
    if status.policy_version >= 0:
        values["policy_version"] = float(status.policy_version)
    if status.reward_model_version > 0:
        values["reward_model_version"] = float(status.reward_model_version)
    context.event("metric", f"step {status.step}", values)
