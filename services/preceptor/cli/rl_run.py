"""An rl run from the command line: the services it needs, the learner under the supervisor, a progress bar."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from preceptor.api.learner.v1 import learner_service_pb2 as learner_pb
from preceptor.cli.stack.layout import Layout, StackOptions, load_layout
from preceptor.cli.stack.stack import Stack
from preceptor.clients.learner import LearnerClient
from preceptor.common.errors import FailedPrecondition, InternalError, InvalidInput, PreceptorError
from preceptor.common.supervisord import Program
from preceptor.common.waiting import wait_until
from preceptor.learner.run_configs.rl import RlConfig
from preceptor.learner.run_file import load_run

JOB = "learner-rl"
DONE_CODES = (0, 1, 2)
READY_TIMEOUT_S = 120.0


def run_rl(config: Path, layout: Layout, nproc: int = 1) -> int:
    """Runs the job to its end and returns the learner's exit code.

    Uses the system that is up in the home when its generators follow this run; otherwise brings up Redis, reward,
    rollout and generation for the length of the run. A killed learner is started again by the supervisor.
    """
    run = load_run(config)
    if not isinstance(run, RlConfig):
        raise InvalidInput(f"{config}: kind is {run.kind}, not rl", field="kind")
    stack = _stack_for(run, layout)
    ours = not stack.supervisor.is_running()
    try:
        if ours:
            click.echo("starting Redis, reward, rollout and generation …", err=True)
            stack.up()
        light = [name for name in ("redis", *stack.metrics_ports()) if not name.startswith(("generation", "learner"))]
        stack.wait_ready(light, READY_TIMEOUT_S)
        return _run_job(stack, config, run, nproc)
    finally:
        if ours:
            stack.down()


def _stack_for(run: RlConfig, layout: Layout) -> Stack:
    wanted = Layout(layout.home, _options(run, layout.options))
    stack = Stack(wanted)
    if not stack.supervisor.is_running():
        return stack
    running = load_layout(layout.home) or wanted
    if running.options.policy != run.run_id:
        raise FailedPrecondition(
            f"the system in {layout.home} serves the policy of {running.options.policy or 'no run'!r}, not of "
            f"{run.run_id!r}: stop it with `preceptor down`, or give this run another --home and --port-base"
        )
    return Stack(running)


def _options(run: RlConfig, options: StackOptions) -> StackOptions:
    return replace(options, policy=run.run_id, with_feedback=bool(run.feedback.project), with_console=False)


def _run_job(stack: Stack, config: Path, run: RlConfig, nproc: int) -> int:
    env = stack.factory.learner_env(all_cores=False)
    argv = (sys.executable, "-m", "preceptor.learner", str(config.resolve()), "--nproc", str(nproc))
    stack.run_job(Program(JOB, argv, env, start_seconds=0, done_codes=DONE_CODES))
    client = LearnerClient(f"{stack.layout.options.host}:{env['PRECEPTOR_LEARNER_PORT']}")
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TextColumn("step {task.completed}/{task.total}  {task.fields[shown]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns) as progress:
            task = progress.add_task(run.run_id, total=run.total_steps, shown="")

            def ended() -> bool:
                _show(progress, task, client)
                return stack.supervisor.exit_code(JOB) is not None

            wait_until(ended, timeout_s=float("inf"), what="the run", interval_s=0.5)
    except KeyboardInterrupt:
        click.echo("stopping: the learner writes a checkpoint; start the same command again to go on", err=True)
        stack.supervisor.client.stop(JOB)
        raise
    finally:
        client.close()
    code = stack.supervisor.exit_code(JOB)
    if code is None:
        raise InternalError(f"{JOB} has no exit code")
    if code:
        click.echo(f"the run failed; the end of {stack.layout.logs_dir / (JOB + '.log')}:", err=True)
        click.echo(stack.log_tail(JOB), err=True)
    else:
        click.echo(f"done: {stack.layout.artifacts_dir / 'runs' / run.run_id}")
    return code


def _show(progress: Progress, task: object, client: LearnerClient) -> None:
    try:
        status: learner_pb.GetStatusResponse = client.status(learner_pb.GetStatusRequest(), timeout_s=2.0)
    except PreceptorError:
        return
    reward, kl = (status.metrics.get(name, 0.0) for name in ("objective/scores", "objective/kl"))
    shown = f"reward {reward:.3f}  kl {kl:.2f}  {status.message}"
    progress.update(task, completed=status.step, shown=shown if status.step else status.message)  # type: ignore[arg-type]
