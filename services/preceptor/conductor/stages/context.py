"""What a stage works with, and the duties that go on in every stage."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from preceptor.common.artifacts import ArtifactStore
from preceptor.common.errors import PreceptorError
from preceptor.conductor.loop_config import LoopConfig
from preceptor.conductor.ports import Generators, Labels, Launcher, Learners, RewardServer
from preceptor.conductor.store.loops import LoopStore
from preceptor.conductor.store.registry import RegistryStore
from preceptor.conductor.types import JobState, RewardModelRecord, StageKind, StageRecord, StageState

_ACTIVE = ("starting", "running")


class LoopStopped(Exception):
    """The loop was asked to stop, or the conductor is leaving."""


class StageError(PreceptorError):
    """The stage cannot succeed by being tried again."""

    code = "FAILED_PRECONDITION"
    default_reason = "STAGE_FAILED"


@dataclass(frozen=True, slots=True)
class World:
    """Everything outside the loop's own state."""

    loops: LoopStore
    registry: RegistryStore
    artifacts: ArtifactStore
    launcher: Launcher
    learners: Learners
    labels: Labels
    generators: Generators
    reward: RewardServer
    poll_interval_s: float = 0.5


class StageContext:
    """One stage of one loop at work."""

    def __init__(
        self, world: World, loop_id: str, config: LoopConfig, stage: StageRecord, leaving: threading.Event
    ) -> None:
        self.world = world
        self.loop_id = loop_id
        self.config = config
        self.stage = stage
        self._leaving = leaving
        self._told_of_job = ""

    @property
    def rl_run_id(self) -> str:
        """The run whose policy the loop tunes; its version 0 is published before the run exists."""
        return f"{self.loop_id}-rl"

    @property
    def project_id(self) -> str:
        return self.config.project.project_id

    def reward_run_id(self, iteration: int) -> str:
        return f"{self.loop_id}-reward-{iteration}"

    def progress(self, fraction: float, message: str, run_id: str | None = None) -> None:
        """Stores how far the stage is."""
        self.world.loops.set_stage(
            self.loop_id, self.stage.name, progress=min(max(fraction, 0.0), 1.0), message=message, run_id=run_id
        )

    def event(self, kind: str, message: str, values: Mapping[str, float] | None = None) -> None:
        """Appends to the loop's events."""
        self.world.loops.add_event(self.loop_id, kind, self.stage.name, message, values)

    def tell_job(self, message: str) -> None:
        """Makes what keeps the stage's job from running the stage's message, and an event once."""
        if message == self._told_of_job:
            return
        self._told_of_job = message
        if message:
            self.world.loops.set_stage(self.loop_id, self.stage.name, message=message)
            self.event("job", message)

    def check_stop(self) -> None:
        """Raises LoopStopped when the stage is to end."""
        if self._leaving.is_set() or self.world.loops.get_loop(self.loop_id).stop_requested:
            raise LoopStopped

    def wait(self) -> None:
        """One poll interval, with the duties of every stage.

        Raises:
            LoopStopped: the stage is to end.
        """
        self.keep_promoted_model()
        if self.stage.kind is not StageKind.RL:
            self.keep_rl_paused()
        self.check_stop()
        if self._leaving.wait(self.world.poll_interval_s):
            raise LoopStopped

    def promoted(self) -> RewardModelRecord | None:
        """The model that is to serve now, if it is one of this loop's."""
        promoted = self.world.registry.promoted()
        return promoted if promoted is not None and promoted.loop_id == self.loop_id else None

    def keep_promoted_model(self) -> None:
        """Puts the promoted reward model back where a restarted reward service has lost it."""
        promoted = self.promoted()
        if promoted is None:
            return
        if self.world.reward.current_version() != promoted.reward_model_version:
            self.world.reward.load(promoted, make_current=True)
            self.event(
                "reward_model",
                f"reward model {promoted.reward_model_version} loaded again",
                {"reward_model_version": promoted.reward_model_version},
            )

    def keep_rl_paused(self) -> None:
        """Pauses the rl run between its stages, also after its process was started again."""
        if not self._between_rl_stages():
            return
        status = self.world.learners.status(self.rl_run_id)
        if status is not None and status.state in _ACTIVE:
            self.world.learners.pause(self.rl_run_id, f"waits for {self.stage.name}")

    def _between_rl_stages(self) -> bool:
        run = self.world.loops.find_run(self.rl_run_id)
        if run is None or run.state != JobState.RUNNING.value:
            return False
        stages = self.world.loops.get_loop(self.loop_id).stages
        return any(s.kind is StageKind.RL and s.state is StageState.DONE for s in stages)
