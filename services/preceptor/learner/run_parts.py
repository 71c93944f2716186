"""What an rl run is made of, and how it ends."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from preceptor.learner.adapters.recording import ReplayPump
from preceptor.learner.monitor import StepMetrics
from preceptor.learner.ports import Checkpoints, History, MetricsSink, Observer, Policies, Publishing, RunFiles, Trainer
from preceptor.learner.pump.pump import Pump
from preceptor.learner.pump.results import Batch
from preceptor.learner.run_configs.rl import RlConfig


class Outcome(StrEnum):
    """How a run ends. INTERRUPTED: a checkpoint was written; starting again goes on from it. ROLLED_BACK: a guard wants
    it built again from the last checkpoint.
    """

    FINISHED = "finished"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"
    ROLLED_BACK = "rolled_back"


@dataclass(frozen=True, slots=True)
class RunParts:
    """What a run is made of. one_reward_model: makes all groups of a batch scored by one version.

    retire_stream: the experience stream is not needed any more. past_steps: metrics of the steps before a restart.
    fingerprint: of config and prompts; a checkpoint of another one is refused. reconfigure: hands changed settings to
    trainer and pump. around_training: a context for the update of step n.
    """

    trainer: Trainer
    pump: Pump | ReplayPump
    policies: Policies
    publishing: Publishing
    checkpoints: Checkpoints
    sink: MetricsSink
    history: History
    files: RunFiles
    one_reward_model: Callable[[Batch], Batch]
    retire_stream: Callable[[], None]
    past_steps: Callable[[], list[StepMetrics]]
    fingerprint: dict[str, Any]
    reconfigure: Callable[[RlConfig], None]
    around_training: Callable[[int], AbstractContextManager[object]]
    observers: Sequence[Observer] = ()
