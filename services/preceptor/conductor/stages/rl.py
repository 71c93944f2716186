"""The rl run: started once, paused between iterations, to the end in the last."""

from typing import Any

from preceptor.conductor.stages.context import StageContext, StageError
from preceptor.conductor.stages.jobs import ensure_run, finish_job, poll_job, report_step, start_job
from preceptor.conductor.stages.sft import initial_model
from preceptor.conductor.types import JobState, LearnerStatus, RewardModelRecord, RunRecord


def run_rl(context: StageContext) -> None:
    """Trains until the iteration's step target; in the last iteration until the run ends."""
    settings = context.config.rl
    assert settings is not None  # the plan has this stage only then
    target = settings.steps[context.stage.iteration - 1]
    is_last = context.stage.iteration == context.config.iterations
    promoted = context.promoted()
    if promoted is None:
        context.progress(1.0, "skipped: no reward model has passed its gate")
        return
    run = context.world.loops.find_run(context.rl_run_id) or _new_run(context, promoted)
    context.world.loops.set_stage(context.loop_id, context.stage.name, run_id=run.run_id)
    if run.state == JobState.SUCCEEDED.value:
        return
    start_job(context, run)
    last_step = -1
    while poll_job(context, run.run_id).state is not JobState.SUCCEEDED:
        status = context.world.learners.status(run.run_id)
        if status is not None:
            if status.step != last_step:
                last_step = status.step
                _record(context, status, target)
            if not is_last and status.step >= target:
                context.world.learners.pause(run.run_id, f"{context.stage.name} done: waits for the next reward model")
                return
            if status.state == "paused":
                context.world.learners.resume(run.run_id)
        context.wait()
    if not is_last:
        raise StageError(f"run {run.run_id} ended before step {target}: its total_steps is too small", field="rl.run")
    finish_job(context, run.run_id)


def _new_run(context: StageContext, promoted: RewardModelRecord) -> RunRecord:
    settings = context.config.rl
    assert settings is not None
    source = initial_model(context)
    config = rl_config(
        settings.run,
        model_dir=context.world.artifacts.reference(source),
        reward_dir=context.world.artifacts.reference(promoted.uri),
        prompts=context.world.artifacts.reference(context.config.prompts),
        total_steps=settings.steps[-1],
        project_id=context.project_id,
    )
    return ensure_run(context, context.rl_run_id, "rl", config, initial_model_uri=source)


def _record(context: StageContext, status: LearnerStatus, target: int) -> None:
    report_step(context, status, target)
    if status.step > 0 and status.reward_model_version > 0:
        context.world.registry.record_policy(context.rl_run_id, status.reward_model_version, status.policy_version)


def rl_config(
    template: dict[str, Any], *, model_dir: str, reward_dir: str, prompts: str, total_steps: int, project_id: str
) -> dict[str, Any]:
    """The run's config: the loop's template, completed where it leaves something open."""
    config = {"model": model_dir, "critic_init": reward_dir, "prompts": {"path": prompts}, **template}
    feedback = dict(template.get("feedback", {}))
    if feedback.get("share") or feedback.get("control_share"):
        feedback.setdefault("project", project_id)
    if feedback:
        config["feedback"] = feedback
    return {**config, "total_steps": total_steps}
