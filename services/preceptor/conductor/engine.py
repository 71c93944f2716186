"""Runs loops: one thread per loop, its state in the database, so that a killed conductor goes on where it was."""

import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from preceptor.common.errors import DeadlineExceeded, Overloaded, PreceptorError, Unavailable
from preceptor.common.telemetry import get_logger, log_context
from preceptor.common.waiting import wait_until
from preceptor.common.yaml_config import parse_yaml
from preceptor.conductor.loop_config import LoopConfig
from preceptor.conductor.stages.collect import collect, wait_for_labels
from preceptor.conductor.stages.context import LoopStopped, StageContext, World
from preceptor.conductor.stages.reward import promote_reward_model, train_reward_model
from preceptor.conductor.stages.rl import run_rl
from preceptor.conductor.stages.sft import publish_initial_policy, run_sft
from preceptor.conductor.types import JobState, LoopState, StageKind, StageState

log = get_logger(__name__)

STAGES: Mapping[StageKind, Callable[[StageContext], None]] = MappingProxyType(
    {
        StageKind.SFT: run_sft,
        StageKind.PUBLISH: publish_initial_policy,
        StageKind.COLLECT: collect,
        StageKind.LABELS: wait_for_labels,
        StageKind.REWARD: train_reward_model,
        StageKind.PROMOTE: promote_reward_model,
        StageKind.RL: run_rl,
    }
)
TRANSIENT = (Unavailable, DeadlineExceeded, Overloaded)


class LoopEngine:
    """Owns the loops' threads.

    Args:
        world: what stages work with.
        patience_s: how long a service may be out of reach before a stage that needs it fails.
        retry_interval_s: between two tries.
        stop_timeout_s: how long a run may take to end when its loop is stopped.
    """

    def __init__(
        self, world: World, *, patience_s: float = 600.0, retry_interval_s: float = 2.0, stop_timeout_s: float = 60.0
    ) -> None:
        self._world = world
        self._patience_s = patience_s
        self._retry_interval_s = retry_interval_s
        self._stop_timeout_s = stop_timeout_s
        self._leaving = threading.Event()
        self._threads: dict[str, threading.Thread] = {}
        self._lock = threading.Lock()

    def resume_all(self) -> None:
        """Goes on with every loop that runs according to the database."""
        for loop_id in self._world.loops.running_loops():
            self.start(loop_id)

    def start(self, loop_id: str) -> None:
        """Starts the loop's thread unless it runs."""
        with self._lock:
            thread = self._threads.get(loop_id)
            if thread is None or not thread.is_alive():
                thread = threading.Thread(target=self._run, args=(loop_id,), name=f"loop-{loop_id}", daemon=True)
                self._threads[loop_id] = thread
                thread.start()

    def leave(self, timeout_s: float) -> None:
        """Ends the threads and leaves loops and their jobs as they are: the next conductor goes on with them."""
        self._leaving.set()
        deadline = time.monotonic() + timeout_s
        for thread in list(self._threads.values()):
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self, loop_id: str) -> None:
        with log_context(loop_id=loop_id):
            try:
                self._run_stages(loop_id)
                self._finish(loop_id, LoopState.SUCCEEDED, "")
            except LoopStopped:
                if not self._leaving.is_set():
                    self._stop_runs(loop_id)
                    self._finish(loop_id, LoopState.STOPPED, "")
            except PreceptorError as error:
                log.error("loop failed", error=error.message)
                self._finish(loop_id, LoopState.FAILED, error.message)
            except Exception as error:
                log.exception("loop failed by a defect")
                self._finish(
                    loop_id, LoopState.FAILED, f"internal error ({type(error).__name__}): see the conductor's log"
                )

    def _run_stages(self, loop_id: str) -> None:
        loop = self._world.loops.get_loop(loop_id)
        config = parse_yaml(loop.config_yaml, LoopConfig, name=f"loop {loop_id}")
        for stage in loop.stages:
            if stage.state is not StageState.DONE:
                self._run_stage(StageContext(self._world, loop_id, config, stage, self._leaving))

    def _run_stage(self, context: StageContext) -> None:
        stage, loops = context.stage, self._world.loops
        loops.set_stage(context.loop_id, stage.name, state=StageState.RUNNING)
        context.event("stage", f"{stage.name} started")
        log.info("stage started", stage=stage.name)
        began = time.monotonic()
        try:
            self._with_retries(context)
        except PreceptorError as error:
            loops.set_stage(context.loop_id, stage.name, state=StageState.FAILED, message=error.message)
            raise
        loops.set_stage(context.loop_id, stage.name, state=StageState.DONE, progress=1.0)
        seconds = time.monotonic() - began
        context.event("stage", f"{stage.name} done", {"seconds": seconds})
        log.info("stage done", stage=stage.name, seconds=round(seconds, 1))

    def _with_retries(self, context: StageContext) -> None:
        """Runs the stage; again from its beginning while a service is out of reach, for `patience_s` at most."""
        failing_since: float | None = None
        while True:
            context.check_stop()
            began = time.monotonic()
            try:
                return STAGES[context.stage.kind](context)
            except TRANSIENT as error:
                now = time.monotonic()
                if failing_since is None or now - began > self._patience_s:
                    failing_since = now
                if now - failing_since > self._patience_s:
                    raise
                context.event("stage", f"waiting, will try again: {error.message}")
                log.warning("stage is tried again", stage=context.stage.name, error=error.message)
                self._leaving.wait(self._retry_interval_s)

    def _stop_runs(self, loop_id: str) -> None:
        """Lets running jobs end by themselves (last step, checkpoint, accounting closed), within a minute."""
        for run in self._world.loops.list_runs(loop_id, 0, 10_000):
            if run.state != JobState.RUNNING.value:
                continue
            try:
                self._world.learners.stop(run.run_id, "the loop was stopped")
                wait_until(partial(self._has_ended, run.run_id), self._stop_timeout_s, f"run {run.run_id} to end")
            except PreceptorError as error:
                log.warning("a run is ended without its last checkpoint", run_id=run.run_id, error=error.message)

    def _has_ended(self, run_id: str) -> bool:
        state = self._world.launcher.status(run_id).state
        if state is not JobState.RUNNING:
            self._world.loops.set_run(run_id, state="stopped")
        return state is not JobState.RUNNING

    def _finish(self, loop_id: str, state: LoopState, error: str) -> None:
        for run in self._world.loops.list_runs(loop_id, 0, 10_000):
            try:
                self._world.launcher.forget(run.run_id)
            except PreceptorError as forgetting:
                log.warning("a job could not be removed", run_id=run.run_id, error=forgetting.message)
        self._world.loops.finish_loop(loop_id, state, error)
        log.info("loop finished", state=state.value)
