"""Rank 0 leads: what it asks of its trainer, every other rank's trainer does as well."""

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

import torch.distributed as dist

from preceptor.learner.types import Experience, StepResult

_STOP = "stop"


class Led(Protocol):
    """A trainer whose methods are collective calls."""

    def step(self, batch: Sequence[Experience], *, policy_version: int, critic_only: bool = False) -> StepResult: ...
    def save(self, directory: Path) -> "Future[dict[str, str]]": ...
    def load(self, directory: Path) -> None: ...
    def export(self, directory: Path) -> None: ...


class LeadingTrainer:
    """A trainer on rank 0 that tells the others each call before it makes it."""

    def __init__(self, trainer: Led) -> None:
        self._trainer = trainer

    def step(self, batch: Sequence[Experience], *, policy_version: int, critic_only: bool = False) -> StepResult:
        options = {"policy_version": policy_version, "critic_only": critic_only}
        _tell("step", (batch,), options)
        return self._trainer.step(batch, policy_version=policy_version, critic_only=critic_only)

    def save(self, directory: Path) -> "Future[dict[str, str]]":
        _tell("save", (directory,), {})
        return self._trainer.save(directory)

    def load(self, directory: Path) -> None:
        _tell("load", (directory,), {})
        self._trainer.load(directory)

    def export(self, directory: Path) -> None:
        _tell("export", (directory,), {})
        self._trainer.export(directory)

    def dismiss(self) -> None:
        """Lets the other ranks end."""
        _tell(_STOP, (), {})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainer, name)


def follow(trainer: Led) -> None:
    """Does on this rank what rank 0 asks of its trainer, until it dismisses us."""
    while True:
        message: list[Any] = [None]
        dist.broadcast_object_list(message, src=0)
        name, arguments, options = message[0]
        if name == _STOP:
            return
        getattr(trainer, name)(*arguments, **options)


def _tell(name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    dist.broadcast_object_list([(name, arguments, options)], src=0)
