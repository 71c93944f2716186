"""Runs one training job: `python -m preceptor.learner CONFIG.yaml [--dry-run]`, settings by PRECEPTOR_LEARNER_*.

Several ranks: `--nproc N` on one machine; on several, torchrun, or any launcher that sets RANK, WORLD_SIZE,
MASTER_ADDR, MASTER_PORT (and LOCAL_RANK where a machine has several). Rank 0 alone has ports, reads rollouts and writes
metrics.

Exit codes: 0 the run has ended (finished, or stopped through LearnerService); 1 it failed for good; 2 wrong usage or
config; 75 a service it needs does not answer (starting it again may help); 143 interrupted by SIGTERM or SIGINT after a
checkpoint. After 75, 143 or SIGKILL, starting the same config again goes on from the last checkpoint.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence

from preceptor.common.config import load_settings
from preceptor.common.errors import DeadlineExceeded, InvalidInput, NotFound, PreceptorError, Unavailable
from preceptor.common.process import apply_cpu_plan
from preceptor.common.telemetry import setup_logging
from preceptor.learner.config import LearnerSettings
from preceptor.learner.distributed.group import Membership, membership, process_group
from preceptor.learner.distributed.launch import launch
from preceptor.learner.monitor import RunControl, RunMonitor
from preceptor.learner.progress import progress_bar
from preceptor.learner.run_file import AnyRunConfig, load_run
from preceptor.learner.types import ProgressCallback

EXIT_FAILED, EXIT_CONFIG, EXIT_TRY_AGAIN, EXIT_INTERRUPTED = 1, 2, 75, 143


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m preceptor.learner", description="Runs one training job.")
    parser.add_argument("config", help="YAML of an sft, reward, dpo or rl run")
    parser.add_argument(
        "--dry-run", action="store_true", help="check files and models, print sizes as JSON; no training"
    )
    parser.add_argument("--nproc", type=int, default=1, help="ranks on this machine; under torchrun leave it out")
    options = parser.parse_args(arguments)
    try:
        config = load_run(options.config)
        if options.dry_run:
            return _dry_run(config)
        if options.nproc > 1:
            return launch([options.config], options.nproc, os.environ)
        return _train(config, load_settings(LearnerSettings), membership(os.environ))
    except PreceptorError as error:
        print(error.message, file=sys.stderr)  # noqa: T201  the one line a person reads
        return exit_code(error)


def exit_code(error: PreceptorError) -> int:
    """What a supervisor is told: 2 and 1 are final, 75 is worth another start."""
    if isinstance(error, InvalidInput | NotFound):
        return EXIT_CONFIG
    return EXIT_TRY_AGAIN if isinstance(error, Unavailable | DeadlineExceeded) else EXIT_FAILED


def _dry_run(config: AnyRunConfig) -> int:
    from preceptor.learner import dry_run

    print(json.dumps(dry_run(config), indent=2))  # noqa: T201  the command's output
    return 0


def _train(config: AnyRunConfig, settings: LearnerSettings, member: Membership) -> int:
    apply_cpu_plan(settings.cpu_cores, config.threads or settings.threads)
    if not member.leads:
        return _follow(config, settings, member)
    monitor, control = RunMonitor(config.run_id, config.kind), RunControl()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: control.interrupt())
    with progress_bar(f"{config.kind} {config.run_id}") as progress:
        setup_logging(settings.instance, settings.log_format, settings.log_level)
        with process_group(member):
            return _run_job(config, settings, monitor, control, progress)


def _follow(config: AnyRunConfig, settings: LearnerSettings, member: Membership) -> int:
    """A rank that rank 0 leads: it ends when it is told to, not when the job is asked to stop."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    setup_logging(f"{settings.instance}-{member.rank}", settings.log_format, settings.log_level)
    with process_group(member):
        from preceptor.learner.jobs import follow_job  # imports torch

        follow_job(config, settings)
    return 0


def _run_job(
    config: AnyRunConfig,
    settings: LearnerSettings,
    monitor: RunMonitor,
    control: RunControl,
    progress: ProgressCallback | None,
) -> int:
    from preceptor.learner.jobs import run_job  # imports torch

    outcome = run_job(config, settings, monitor, control, progress)
    return EXIT_INTERRUPTED if outcome == "interrupted" else 0


if __name__ == "__main__":
    sys.exit(main())
